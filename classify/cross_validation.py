"""Cross-validation: choose the photos that are held out, and compute scores for them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from joblib import delayed
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from classify import calibration, heads, row_space
from classify.arrays import Labels, Matrix, Rows, TrainingData
from classify.heads import HEADS
from classify.row_space import Projection
from extract.system.processes import parallel

FOLDS = 5
FEW_ROWS = 1000
PROCESSES = -1
"""-1 means as many as there are processors. Results do not depend on it."""

LEAST_WORK = 4_000_000
"""From so many values on, each counted once for every fit, several processes save time. On two
cores they took over a second to start."""

Fold = tuple[Rows, Rows]
"""The rows that are fitted and the rows that are held out."""


def folds(
    labels: Labels,
    units: Sequence[str],
    is_val: NDArray[np.bool_] | None = None,
    *,
    seed: int,
) -> list[Fold]:
    """Decide which rows are held out while heads are chosen; it depends on the size of the data.

    With 1,000 rows or more, a single fold is enough: the val split is held out, or a fifth of the
    rows if there is none. With fewer rows a single photo could decide, so every row is held out
    once, in five folds, or in as many as the smallest class has photos or groups. The exception is
    data with a val split and a class of fewer than five: then the val split is held out. Copies of
    a photo and photos of a group are always in the same fold.

    Parameters
    ----------
    labels : ndarray of shape (n,), int64
    units : sequence of str, length n
        See `extract.store.features_file.Features`.
    is_val : ndarray of shape (n,), bool, optional
    seed : int

    Returns
    -------
    list of (fitted rows, held-out rows)
        Empty if a class has only one photo or group and there is no val split.
    """
    distinct = set(zip(labels.tolist(), units, strict=True))
    smallest = min(Counter(label for label, _ in distinct).values())
    many = len(labels) >= FEW_ROWS
    if is_val is not None and is_val.any() and (many or smallest < FOLDS):
        return [(np.flatnonzero(~is_val), np.flatnonzero(is_val))]
    if smallest < 2:
        return []
    splitter = StratifiedGroupKFold(min(FOLDS, smallest), shuffle=True, random_state=seed)
    every = list(splitter.split(labels, labels, groups=units))
    return every[:1] if many else every


def held_out_rows(folds: Sequence[Fold]) -> Rows:
    """Return the held-out rows of all folds, one fold after the other."""
    return np.concatenate([np.empty(0, np.intp), *(held_out for _, held_out in folds)])


def within(folds: Sequence[Fold], sample: Rows, *, rows: int) -> list[Fold]:
    """Restrict folds of `rows` rows to a sample of them, and renumber its rows from 0."""
    position = np.full(rows, -1)
    position[sample] = np.arange(len(sample))
    return [(_known(position[fitted]), _known(position[held_out])) for fitted, held_out in folds]


def _known(positions: Rows) -> Rows:
    return positions[positions >= 0]


def prepared(rows: Matrix, folds: Sequence[Fold]) -> Iterator[Projection]:
    """Yield the fitted and the held-out rows of each fold as the classifiers are given them.

    All rows of a fold are centred on the mean of its fitted rows, expressed in their row space and
    brought to the same scale.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float32
        Of `classify.heads.normalised`; they are changed.
    folds : sequence of (fitted rows, held-out rows)
    """
    # Each fold is centred on its own mean; on rows that are nearly centred this loses no digits.
    rows -= rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    largest = max(len(fitted) for fitted, _ in folds)
    in_row_space = row_space.pays_off(largest, rows.shape[1])
    products = row_space.gram(rows) if in_row_space else None
    for fitted, held_out in folds:
        if products is not None:
            part = row_space.project(products, fitted, held_out)
        else:
            part = Projection(rows[fitted], rows[held_out], np.zeros(len(held_out), np.float32))
            centre = part.fitted.mean(axis=0, dtype=np.float64).astype(np.float32)
            part.fitted[:] -= centre
            part.held_out[:] -= centre
        scale = np.float32(heads.unit_scale(part.fitted))
        for values, factor in zip(part, (scale, scale, scale**2), strict=True):
            values *= factor
        yield part


def for_all_classes(scores: Matrix, present: Labels, classes: int) -> Matrix:
    """Add a column for each class that was not fitted, with the score -inf."""
    widened = np.full((len(scores), classes), -np.inf, np.float32)
    widened[:, present] = scores
    return widened


def processes(data: TrainingData, *, fits: int) -> int:
    """Return how many processes heads are fitted in, as joblib counts them: one for few photos."""
    return PROCESSES if data.X.size * fits >= LEAST_WORK else 1


def out_of_fold(
    name: str,
    hyperparameters: Mapping[str, Any],
    data: TrainingData,
    units: Sequence[str],
    *,
    seed: int,
) -> Matrix:
    """Return the probabilities that a head gives each photo when it is fitted on the others.

    Parameters
    ----------
    name : str
        Key of `HEADS`.
    hyperparameters : mapping
    data : TrainingData
        Only the taps that were chosen. All photos count the same.
    units : sequence of str, length n
        Copies of a photo and photos of a group are in the same fold.
    seed : int

    Returns
    -------
    ndarray of shape (n, k), float32
        The probabilities are calibrated on these photos. A class that occurs in only one fold has
        probability 0 for the photos of that fold.
    """
    labels = data.labels
    dealt = _dealt(labels, units)
    classes = int(labels.max()) + 1
    parts = [(np.flatnonzero(dealt != i), np.flatnonzero(dealt == i)) for i in range(FOLDS)]
    parts = [(fitted, held_out) for fitted, held_out in parts if len(fitted) and len(held_out)]
    answers = parallel(processes(data, fits=len(parts)))(
        delayed(_held_out_scores)(name, hyperparameters, data, part, seed) for part in parts
    )
    scores = np.full((len(labels), classes), -np.inf, np.float32)
    for (_, held_out), answer in zip(parts, answers, strict=True):
        scores[held_out] = answer
    found = calibration.fit(scores, labels, with_floor=HEADS[name].has_floor)
    probabilities: Matrix = softmax(found.scaled(scores), axis=1)
    return probabilities


def _dealt(labels: Labels, units: Sequence[str]) -> Rows:
    """Return the fold of each row: the units of each class are dealt in turn, by name."""
    _, first, photo = np.unique(units, return_index=True, return_inverse=True)
    turn = np.empty(len(first), np.intp)
    turn[np.argsort(labels[first], kind="stable")] = np.arange(len(first))
    dealt: Rows = turn[photo] % FOLDS
    return dealt


def _held_out_scores(
    name: str, hyperparameters: Mapping[str, Any], data: TrainingData, fold: Fold, seed: int
) -> Matrix:
    """Fit a head on one part of a fold and return its scores of the other, shape (m, k)."""
    labels = data.labels[fold[0]]
    values = heads.values(name, hyperparameters)
    with threadpool_limits(1):
        how = heads.preparation_options(hyperparameters)
        rows = heads.normalised(data.X, data.taps, among=data.taps, **how)
        (part,) = prepared(rows, [fold])
        weight = np.ones(len(labels))
        (scores,) = HEADS[name].path(part, labels, weight, [values], seed)
    return for_all_classes(scores, np.unique(labels), int(data.labels.max()) + 1)
