"""Data that outgrow memory: a sample to search on, and a matrix on disk to fit on.

The plan, by size alone:

- Heads are searched on at most 20,000 rows, drawn from each class in proportion.
- A matrix of more than 1 GiB (2^28 float32 values) is held in a memory map on disk, which the
  system reads and drops as it needs: first the taps, read in batches, then what the chosen
  preparation makes of them. Every head is fitted on all rows, in blocks or batches.
- `classify.heads.space` leaves out sets of taps whose matrix would be larger than 1 GiB; the
  smallest set is always tried.
"""

import mmap
import tempfile
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from extract.store.features_file import Features

Matrix = NDArray[np.float32]

IN_MEMORY = 2**28
SEARCH_ROWS = 20_000
BLOCK = 8192


def matrix(shape: tuple[int, int]) -> Matrix:
    """Make room for a matrix, in memory or in a file without a name that ends with it."""
    if shape[0] * shape[1] <= IN_MEMORY:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile() as file:
        file.truncate(shape[0] * shape[1] * np.dtype(np.float32).itemsize)
        # Not numpy's memmap: processes to which joblib hands that open the file by its name.
        return np.frombuffer(mmap.mmap(file.fileno(), 0), np.float32).reshape(shape)


def read(features: Features, taps: Collection[str], *splits: str) -> Matrix:
    """Read taps of the given splits side by side, of shape (rows, values)."""
    found = matrix(features.shape(taps, *splits))
    done = 0
    for rows, values in features.batches(taps, *splits):
        found[done : done + len(rows)] = values
        done += len(rows)
    return found


def columns(X: Matrix, places: Sequence[slice]) -> Matrix:
    """Return some columns of a matrix side by side, or the matrix itself where that is the same."""
    ends = [0, *(place.stop for place in places)]
    if ends[-1] == X.shape[1] and [place.start for place in places] == ends[:-1]:
        return X
    found = matrix((len(X), sum(place.stop - place.start for place in places)))
    for start in range(0, len(X), BLOCK):
        block = slice(start, start + BLOCK)
        np.concatenate([X[block, place] for place in places], axis=1, out=found[block])
    return found


def fit_prepared(prepare: Pipeline, X: Matrix) -> Matrix:
    """Fit the preparation of heads to rows and return the rows prepared, block by block."""
    per_tap, centre = prepare[0], prepare[1]
    blocks = [slice(start, start + BLOCK) for start in range(0, len(X), BLOCK)]
    # The steps for each tap learn nothing from the rows.
    per_tap.fit(X[blocks[0]])
    for block in blocks:
        centre.partial_fit(per_tap.transform(X[block]))
    found = matrix((len(X), len(centre.mean_)))
    for block in blocks:
        found[block] = prepare.transform(X[block])
    return found


def sample(labels: NDArray[np.int64], *, rows: int, seed: int) -> NDArray[np.intp]:
    """Draw about `rows` rows, each class in proportion but with two rows at least; all if fewer.

    Returns
    -------
    ndarray of row numbers, ascending
    """
    if len(labels) <= rows:
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    drawn = []
    for label in np.unique(labels):
        own = random.permutation(np.flatnonzero(labels == label))
        drawn.append(own[: max(2, round(len(own) * rows / len(labels)))])
    return np.sort(np.concatenate(drawn))
