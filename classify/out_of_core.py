"""Data larger than memory: search heads on a sample, fit them on a matrix that lies on disk.

What is done depends on the size of the data alone:

- Heads are searched on about 20,000 rows, drawn from each class in proportion.
- A matrix of more than 2^28 values (1 GiB) is mapped from a file on disk, which the operating
  system reads and drops as needed. This holds for the taps, which are read in batches, and for
  the prepared rows. The chosen head is fitted on all rows, in blocks or batches, and so is another
  one that is fitted only to find the temperature, because this depends on the number of rows.
- `classify.search_space` leaves out sets of taps whose matrix would be larger than 1 GiB, except
  the smallest set.
"""

import mmap
import tempfile
from collections.abc import Collection, Sequence

import numpy as np
from sklearn.pipeline import Pipeline

from classify.arrays import Labels, Matrix, Rows
from extract.store.features_file import Features

IN_MEMORY = 2**28
"""Values of the largest matrix that is held in memory."""

SEARCH_ROWS = 20_000
BLOCK = 8192
"""Rows that are processed at a time."""


def matrix(shape: tuple[int, int]) -> Matrix:
    """Allocate a matrix, in memory or in an unnamed file that is deleted with it."""
    if shape[0] * shape[1] <= IN_MEMORY:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile() as file:
        file.truncate(shape[0] * shape[1] * np.dtype(np.float32).itemsize)
        # Not numpy.memmap: joblib's processes would try to open its file by name.
        return np.frombuffer(mmap.mmap(file.fileno(), 0), np.float32).reshape(shape)


def read(features: Features, taps: Collection[str], *splits: str) -> Matrix:
    """Read taps of the given splits side by side, shape (rows, values)."""
    X = matrix(features.shape(taps, *splits))
    done = 0
    for rows, values in features.batches(taps, *splits):
        X[done : done + len(rows)] = values
        done += len(rows)
    return X


def columns(X: Matrix, slices: Sequence[slice]) -> Matrix:
    """Return some columns of a matrix side by side; the matrix itself if that is the same."""
    ends = [0, *(part.stop for part in slices)]
    if ends[-1] == X.shape[1] and [part.start for part in slices] == ends[:-1]:
        return X
    selected = matrix((len(X), sum(part.stop - part.start for part in slices)))
    for start in range(0, len(X), BLOCK):
        block = slice(start, start + BLOCK)
        np.concatenate([X[block, part] for part in slices], axis=1, out=selected[block])
    return selected


def rows(X: Matrix, numbers: Rows) -> Matrix:
    """Return some rows of a matrix, in the order of their numbers."""
    selected = matrix((len(numbers), X.shape[1]))
    for start in range(0, len(numbers), BLOCK):
        block = slice(start, start + BLOCK)
        selected[block] = X[numbers[block]]
    return selected


def fit_prepared(prepare: Pipeline, X: Matrix) -> Matrix:
    """Fit the preparation of a head to rows and return the prepared rows, block by block."""
    per_tap, centre = prepare[0], prepare[1]
    blocks = [slice(start, start + BLOCK) for start in range(0, len(X), BLOCK)]
    # The steps for each tap learn nothing from the rows, so any rows will do.
    per_tap.fit(X[blocks[0]])
    for block in blocks:
        centre.partial_fit(per_tap.transform(X[block]))
    prepared = matrix((len(X), len(centre.mean_)))
    for block in blocks:
        prepared[block] = prepare.transform(X[block])
    return prepared


def sample(labels: Labels, *, rows: int, seed: int) -> Rows:
    """Draw about `rows` rows from the classes in proportion, at least two of each if it has them.

    Returns
    -------
    ndarray of row numbers, ascending; all of them if there are at most `rows`
    """
    if len(labels) <= rows:
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    drawn = []
    for label in np.unique(labels):
        class_rows = random.permutation(np.flatnonzero(labels == label))
        drawn.append(class_rows[: max(2, round(len(class_rows) * rows / len(labels)))])
    return np.sort(np.concatenate(drawn))
