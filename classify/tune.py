"""Choose a head on train and val, fit it on both, predict the test once."""

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from classify.heads import HEADS, TAP_SETS, pipeline, preparation
from extract.recipe import TAPS

FOLDS = 5
FEW_ROWS = 1000

Matrix = NDArray[np.float32]
Labels = NDArray[np.int64]
Fold = tuple[NDArray[np.intp], NDArray[np.intp]]


class Tuned(NamedTuple):
    """A head that was chosen and fitted.

    Attributes
    ----------
    head : Pipeline
        Fitted on train and val.
    chosen : dict
        Its hyper-parameters.
    tried : list of dict
        Every candidate and the share of held-out photos it classified rightly.
    seconds : dict
        Of the phases ``tune`` and ``fit``.
    """

    head: Pipeline
    chosen: dict[str, Any]
    tried: list[dict[str, Any]]
    seconds: dict[str, float]


def folds(
    labels: Labels, digests: Sequence[str], is_val: NDArray[np.bool_], *, seed: int
) -> list[Fold]:
    """Decide what is fitted and what is held out while choosing, as a function of the data's size.

    With 1,000 rows or more the val split is enough to choose by. With fewer, a single photo
    would decide, and five folds of train and val together are used, copies of a photo in the
    same fold.

    Parameters
    ----------
    labels : ndarray of shape (n,), int64
    digests : sequence of str, length n
    is_val : ndarray of shape (n,), bool
    seed : int

    Returns
    -------
    list of (fitted rows, held-out rows)
    """
    smallest = np.bincount(labels)[np.unique(labels)].min()
    if len(labels) >= FEW_ROWS or smallest < FOLDS:
        return [(np.flatnonzero(~is_val), np.flatnonzero(is_val))]
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    return list(splitter.split(labels, labels, groups=digests))


def rotate(fitted: Matrix, held_out: Matrix) -> tuple[Matrix, Matrix]:
    """Express rows in an orthonormal basis of the span of the fitted rows.

    The solution of an L2-regularised linear model lies in that span, so with fewer rows than
    columns the model is the same and smaller (the representer theorem; Hastie and Tibshirani,
    "Efficient quadratic regularization for expression arrays", Biostatistics 2004).

    Parameters
    ----------
    fitted : ndarray of shape (n, d)
    held_out : ndarray of shape (m, d)

    Returns
    -------
    ndarrays of shape (n, r) and (m, r), r at most n; the inputs where n >= d
    """
    if len(fitted) >= fitted.shape[1]:
        return fitted, held_out
    values, vectors = np.linalg.eigh(fitted.astype(np.float64) @ fitted.T)
    real = values > values[-1] * 1e-10
    basis = fitted.T @ (vectors[:, real] / np.sqrt(values[real])).astype(np.float32)
    return fitted @ basis, held_out @ basis


def tune(
    name: str,
    X: Matrix,
    labels: Labels,
    the_folds: Sequence[Fold],
    *,
    seed: int,
    advance: Callable[[int], None],
) -> Tuned:
    """Choose taps and regularisation of one head and fit it on all rows given.

    Parameters
    ----------
    name : str
        Key of `HEADS`.
    X : ndarray of shape (n, 4608), float32
        All taps of train and val side by side, deepest first.
    labels : ndarray of shape (n,), int64
    the_folds : sequence of (fitted rows, held-out rows)
    seed : int
    advance : callable
        Told how many fits are done.
    """
    started = time.perf_counter()
    tried = _search(name, X, labels, the_folds, seed=seed, advance=advance)
    best = max(tried, key=lambda candidate: candidate["score"])
    chosen = {key: value for key, value in best.items() if key != "score"}
    chosen_at = time.perf_counter()
    samples = np.bincount(labels)[np.unique(labels)].tolist()
    value = chosen[HEADS[name].parameter]
    head = pipeline(name, chosen["taps"], value, samples=samples, seed=seed)
    # The matrices are small: threads of the linear algebra wait for each other longer than they
    # work (30 times slower was measured on two cores).
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        head.fit(X, labels)
    advance(1)
    seconds = {"tune": chosen_at - started, "fit": time.perf_counter() - chosen_at}
    return Tuned(head, chosen, tried, seconds)


def fits(name: str, the_folds: Sequence[Fold]) -> int:
    """Return how many fits `tune` makes, for a progress bar."""
    return len(the_folds) * len(TAP_SETS) * len(HEADS[name].values) + 1


def _search(
    name: str,
    X: Matrix,
    labels: Labels,
    the_folds: Sequence[Fold],
    *,
    seed: int,
    advance: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Score every candidate: fewest taps and strongest regularisation first, so they win ties."""
    head = HEADS[name]
    sets = [list(TAPS)[:size] for size in TAP_SETS]
    right = np.zeros((len(sets), len(head.values)), dtype=int)
    cases = [(number, fold) for number in range(len(sets)) for fold in the_folds]
    counts = Parallel(n_jobs=-1, return_as="generator")(
        delayed(_right)(name, sets[number], X, labels, fold, seed) for number, fold in cases
    )
    for (number, _), counted in zip(cases, counts, strict=True):
        right[number] += counted
        advance(len(counted))
    held_out = sum(len(out) for _, out in the_folds)
    return [
        {"taps": taps, head.parameter: value, "score": float(right[i, j] / held_out)}
        for i, taps in enumerate(sets)
        for j, value in enumerate(head.values)
    ]


def _right(
    name: str, taps: Sequence[str], X: Matrix, labels: Labels, fold: Fold, seed: int
) -> list[int]:
    """Count the held-out photos that each value of the parameter classifies rightly."""
    head = HEADS[name]
    fitted, out = fold
    prepare = preparation(taps)
    A, B = prepare.fit_transform(X[fitted]), prepare.transform(X[out])
    if head.linear:
        A, B = rotate(A, B)
    counts = []
    for value in head.values:
        classifier = head.classifier(value, len(fitted), seed)
        with warnings.catch_warnings():
            # The MLP's epochs are bounded on purpose; that it could go on is no news.
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(A, labels[fitted])
        counts.append(int((classifier.predict(B) == labels[out]).sum()))
    return counts
