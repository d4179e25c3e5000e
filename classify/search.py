"""Choose heads on train and val, fit each on both.

All heads are searched together: what costs most for small data, preparing a view of the rows and
rotating it to their span, is done once for all of them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_limits

from classify import calibration, heads, out_of_core, row_space
from classify.calibration import Calibration
from classify.heads import HEADS, Labels, Matrix, Space, View, Weights

FOLDS = 5
FEW_ROWS = 1000
PROCESSES = -1
"""As many as there are processors; results do not depend on it."""

Fold = tuple[NDArray[np.intp], NDArray[np.intp]]


class Tuned(NamedTuple):
    """A head that was chosen and fitted.

    Attributes
    ----------
    head : Pipeline
        Fitted on all rows given, on the chosen taps side by side.
    chosen : dict
        Its hyper-parameters.
    tried : list of dict
        Every candidate with its log loss on held-out photos, and the share of them that it
        classified rightly. The log loss decides, see `simplest`: among a few hundred photos one
        that happens to be right counts for as much as what makes a better head, and the loss sees
        both sides of every photo. Where classes are balanced, both are means of the classes.
    seconds : dict
        Of the phases ``tune`` and ``fit``. What the heads share is counted for each.
    """

    head: Pipeline
    chosen: dict[str, Any]
    tried: list[dict[str, Any]]
    seconds: dict[str, float]


class _Tried(NamedTuple):
    """One head on one view: the share of photos it has right and the calibration, by value."""

    right: list[float]
    calibrations: list[Calibration]
    seconds: float


def folds(
    labels: Labels,
    digests: Sequence[str],
    is_val: NDArray[np.bool_] | None = None,
    *,
    seed: int,
) -> list[Fold]:
    """Decide what is fitted and what is held out while choosing, as a function of the data's size.

    With 1,000 rows or more one held-out part is enough to choose by: val, or else a fifth of the
    rows. With fewer, a single photo would decide, and every row is held out once, in five folds
    or as many as the smallest class has rows; only where a class has fewer than five and there is
    a val split, that is held out. Copies of a photo are in the same fold.

    Parameters
    ----------
    labels : ndarray of shape (n,), int64
    digests : sequence of str, length n
    is_val : ndarray of shape (n,), bool, optional
    seed : int

    Returns
    -------
    list of (fitted rows, held-out rows)
        Empty where a class has one row and there is no val split: nothing can be chosen by.
    """
    smallest = int(np.bincount(labels)[np.unique(labels)].min())
    enough = len(labels) >= FEW_ROWS
    if is_val is not None and is_val.any() and (enough or smallest < FOLDS):
        return [(np.flatnonzero(~is_val), np.flatnonzero(is_val))]
    if smallest < 2:
        return []
    splitter = StratifiedGroupKFold(min(FOLDS, smallest), shuffle=True, random_state=seed)
    found = list(splitter.split(labels, labels, groups=digests))
    return found[:1] if enough else found


def spaces(names: Sequence[str], labels: Labels, taps: Mapping[str, int]) -> dict[str, Space]:
    """Return what is searched for each head on rows with these labels and taps."""
    size = {"rows": len(labels), "classes": len(np.unique(labels))}
    return {name: heads.space(name, **size, taps=taps) for name in names}


def tune(
    the_spaces: Mapping[str, Space],
    X: Matrix,
    labels: Labels,
    the_folds: Sequence[Fold],
    *,
    taps: Mapping[str, int],
    seed: int,
    balanced: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, Tuned]:
    """Choose taps, root and regularisation of heads and fit them on all rows given.

    Parameters
    ----------
    the_spaces : mapping of str to Space
        What is searched for each head, keys of `HEADS`.
    X : ndarray of shape (n, d), float32
        `taps` of train and val side by side.
    labels : ndarray of shape (n,), int64
    the_folds : sequence of (fitted rows, held-out rows)
    taps : mapping of str to int
        Name and width of each, at least those that `the_spaces` name.
    seed : int
    balanced : bool
        Whether every class weighs the same, however many photos it has.
    advance : callable
        Told how many steps of `steps` are done.
    """
    weights = _weights(labels, balanced=balanced)
    # Processes would hold a matrix each.
    processes = PROCESSES if X.size <= out_of_core.IN_MEMORY // 4 else 1
    some = out_of_core.sample(labels, rows=out_of_core.SEARCH_ROWS, seed=seed)
    the_folds = _among(some, the_folds, rows=len(labels))
    few = X if len(some) == len(X) else X[some]
    found = _search(
        the_spaces, few, labels[some], weights[some], the_folds, taps, seed=seed, advance=advance
    )
    held_out = weights[some][_held_out(the_folds)]
    listed = {
        name: _listed(name, space, found[name], held_out) for name, space in the_spaces.items()
    }
    plans = {name: _plan(name, candidates, held_out) for name, candidates in listed.items()}
    jobs = [
        delayed(_fit)(name, *plan, X, labels, weights, taps, seed) for name, plan in plans.items()
    ]
    # So many views are tried at a time.
    at_once = min(effective_n_jobs(PROCESSES), len(_views(the_spaces)))
    fitted = {}
    for name, (head, seconds) in zip(plans, Parallel(n_jobs=processes)(jobs), strict=True):
        spent = sum(tried.seconds for tried in found[name].values()) / at_once
        fitted[name] = Tuned(
            head,
            plans[name][0],
            [candidate for candidate, _ in listed[name]],
            {"tune": spent, "fit": seconds},
        )
        advance(1)
    return fitted


def steps(the_spaces: Mapping[str, Space]) -> int:
    """Return how many steps `tune` makes, for a progress bar: each view, each last fit."""
    return len(_views(the_spaces)) + len(the_spaces)


def _held_out(the_folds: Sequence[Fold]) -> NDArray[np.intp]:
    return np.concatenate([np.empty(0, np.intp), *(out for _, out in the_folds)])


def _among(some: NDArray[np.intp], the_folds: Sequence[Fold], *, rows: int) -> list[Fold]:
    """Restrict folds of all rows to some rows, and number these by their place among them."""
    place = np.full(rows, -1)
    place[some] = np.arange(len(some))
    return [
        tuple(part[part >= 0] for part in (place[fitted], place[out]))  # type: ignore[misc]
        for fitted, out in the_folds
    ]


def _weights(labels: Labels, *, balanced: bool) -> Weights:
    found: Weights = compute_sample_weight("balanced" if balanced else None, labels)
    return found


def _views(the_spaces: Mapping[str, Space]) -> list[View]:
    return list(dict.fromkeys(view for space in the_spaces.values() for view in space.views))


def _search(
    the_spaces: Mapping[str, Space],
    X: Matrix,
    labels: Labels,
    weights: Weights,
    the_folds: Sequence[Fold],
    taps: Mapping[str, int],
    *,
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, dict[View, _Tried]]:
    """Try every candidate of every head; none where nothing is held out."""
    # The longest first, so that no processor waits for a long one at the end.
    views = _views(the_spaces)[::-1]
    found: dict[str, dict[View, _Tried]] = {name: {} for name in the_spaces}
    if not the_folds:
        advance(len(views))
        return found
    answers = Parallel(n_jobs=PROCESSES, return_as="generator")(
        delayed(_try)(view, the_spaces, X, labels, weights, the_folds, taps, seed) for view in views
    )
    for view, answer in zip(views, answers, strict=True):
        for name, tried in answer.items():
            found[name][view] = tried
        advance(1)
    return found


def _try(
    view: View,
    the_spaces: Mapping[str, Space],
    X: Matrix,
    labels: Labels,
    weights: Weights,
    the_folds: Sequence[Fold],
    taps: Mapping[str, int],
    seed: int,
) -> dict[str, _Tried]:
    """Try all heads on one view of the rows."""
    names = [name for name, space in the_spaces.items() if view in space.views]
    seconds = dict.fromkeys(names, 0.0)
    scores: dict[str, list[list[Matrix]]] = {name: [] for name in names}
    own, root = view
    X = heads.select(X, own, among=taps)
    prepare = heads.preparation({tap: taps[tap] for tap in own}, root=root)
    classes = len(np.unique(labels))
    # The matrices are small: threads of the linear algebra wait for each other longer than they
    # work (30 times slower was measured on two cores).
    with threadpool_limits(1):
        for fitted, out in the_folds:
            started = time.perf_counter()
            Z, unseen = _in_span(prepare, X, fitted, out)
            shared = time.perf_counter() - started
            present = np.unique(labels[fitted])
            for name in names:
                started = time.perf_counter()
                values = the_spaces[name].values
                path = HEADS[name].path(Z, labels[fitted], weights[fitted], unseen, values, seed)
                scores[name].append([_widened(s, present, classes) for s in path])
                seconds[name] += shared + time.perf_counter() - started
    held_out = _held_out(the_folds)
    answer = {}
    for name in names:
        by_value = [np.concatenate(folds) for folds in zip(*scores[name], strict=True)]
        right = [
            float(np.average(s.argmax(axis=1) == labels[held_out], weights=weights[held_out]))
            for s in by_value
        ]
        calibrations = [
            calibration.calibrate(s, labels[held_out], weights[held_out]) for s in by_value
        ]
        answer[name] = _Tried(right, calibrations, seconds[name])
    return answer


def _in_span(
    prepare: Pipeline, X: Matrix, fitted: NDArray[np.intp], out: NDArray[np.intp]
) -> tuple[Matrix, Matrix]:
    """Prepare some rows, and others as these teach; in the span of the first, at one scale."""
    Z, unseen = row_space.rotate(prepare.fit_transform(X[fitted]), prepare.transform(X[out]))
    scale = _scale(Z)
    return Z * scale, unseen * scale


def _widened(scores: Matrix, present: Labels, classes: int) -> Matrix:
    """Give classes that were not fitted a column, of scores below all others."""
    wide = np.full((len(scores), classes), -np.inf, np.float32)
    wide[:, present] = scores
    return wide


def _scale(Z: Matrix) -> float:
    """Return what makes the mean squared norm of rows 1."""
    return float(1 / np.sqrt(np.einsum("ij,ij", Z, Z, dtype=np.float64) / len(Z) or 1.0))


def _listed(
    name: str, space: Space, found: Mapping[View, _Tried], weights: Weights
) -> list[tuple[dict[str, Any], Calibration]]:
    """List the candidates: fewest taps and strongest regularisation first."""
    return [
        (
            {
                "taps": list(taps),
                "root": root,
                **dict(zip(HEADS[name].parameters, value, strict=True)),
                "score": score,
                "log_loss": float(np.average(calibrated.losses, weights=weights)),
            },
            calibrated,
        )
        for taps, root in space.views
        if (taps, root) in found
        for value, score, calibrated in zip(
            space.values, found[taps, root].right, found[taps, root].calibrations, strict=True
        )
    ]


def _plan(
    name: str, listed: Sequence[tuple[dict[str, Any], Calibration]], weights: Weights
) -> tuple[dict[str, Any], float]:
    """Return the hyper-parameters that win, and the temperature that goes with them."""
    if not listed:
        return heads.unchosen(name), 1.0
    best, calibrated = listed[simplest([c.losses for _, c in listed], weights)]
    chosen = {key: value for key, value in best.items() if key not in ("score", "log_loss")}
    return chosen, calibrated.temperature


def simplest(losses: Sequence[NDArray[np.float64]], weights: Weights) -> int:
    """Return the first candidate that chance alone may have made worse than the best.

    That is, whose losses exceed the best one's, photo by photo, by at most one standard error of
    this difference (after the one-standard-error rule of Breiman, Friedman, Olshen and Stone,
    "Classification and regression trees", 1984).

    Parameters
    ----------
    losses : sequence of ndarrays of shape (m,)
        Of each candidate on the same photos, the simplest candidate first.
    weights : ndarray of shape (m,)
        Of the photos.
    """
    share = weights / weights.sum()
    best = losses[int(np.argmin([share @ loss for loss in losses]))]
    for place, loss in enumerate(losses):
        worse = loss - best
        mean = share @ worse
        if mean <= np.sqrt(np.square(share) @ np.square(worse - mean)):
            return place
    raise AssertionError("the best candidate is not worse than itself")


def _fit(
    name: str,
    chosen: Mapping[str, Any],
    temperature: float,
    X: Matrix,
    labels: Labels,
    weights: Weights,
    taps: Mapping[str, int],
    seed: int,
) -> tuple[Pipeline, float]:
    """Fit a head on all rows, calibrated by what it said of photos while they were held out."""
    started = time.perf_counter()
    own = heads.select(X, chosen["taps"], among=taps)
    prepare = heads.preparation({tap: taps[tap] for tap in chosen["taps"]}, root=chosen["root"])
    with threadpool_limits(1):
        Z, basis = row_space.basis(out_of_core.fit_prepared(prepare, own))
        scale = _scale(Z)
        Z *= np.float32(scale)
        value = tuple(chosen[parameter] for parameter in HEADS[name].parameters)
        classifier = HEADS[name].fit(Z, labels, weights, value, seed)
        heads.on_columns(classifier, basis, scale=scale)
    heads.cool(classifier, temperature)
    return Pipeline([*prepare.steps, ("classifier", classifier)]), time.perf_counter() - started


def out_of_fold(
    name: str,
    chosen: Mapping[str, Any],
    X: Matrix,
    labels: Labels,
    digests: Sequence[str],
    *,
    taps: Mapping[str, int],
    seed: int,
) -> Matrix:
    """Return what a head says of each row when it is fitted on the others, in five folds.

    Parameters
    ----------
    name : str
        Key of `HEADS`.
    chosen : mapping
        Its hyper-parameters.
    X : ndarray of shape (n, d), float32
        `taps` side by side.
    labels : ndarray of shape (n,), int64
    digests : sequence of str, length n
        Copies of a photo are in the same fold.
    taps : mapping of str to int
        Name and width of each that was chosen.
    seed : int

    Returns
    -------
    ndarray of shape (n, k), float32
        Probabilities, calibrated on these rows; 0 for a class that has photos in one fold only,
        where that is held out.
    """
    fold = _dealt(labels, digests)
    classes = int(labels.max()) + 1
    parts = [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(FOLDS)]
    parts = [(fitted, out) for fitted, out in parts if len(fitted) and len(out)]
    answers = Parallel(n_jobs=PROCESSES)(
        delayed(_unseen)(name, chosen, X, labels, part, classes, taps, seed) for part in parts
    )
    scores = np.full((len(labels), classes), -np.inf, np.float32)
    for (_, out), answer in zip(parts, answers, strict=True):
        scores[out] = answer
    temperature = calibration.calibrate(scores, labels).temperature
    probabilities: Matrix = softmax(scores / temperature, axis=1)
    return probabilities


def _dealt(labels: Labels, digests: Sequence[str]) -> NDArray[np.intp]:
    """Deal the photos of each class to the folds in turn, by their digests."""
    _, first, own = np.unique(digests, return_index=True, return_inverse=True)
    turn = np.empty(len(first), np.intp)
    turn[np.argsort(labels[first], kind="stable")] = np.arange(len(first))
    dealt: NDArray[np.intp] = turn[own] % FOLDS
    return dealt


def _unseen(
    name: str,
    chosen: Mapping[str, Any],
    X: Matrix,
    labels: Labels,
    part: Fold,
    classes: int,
    taps: Mapping[str, int],
    seed: int,
) -> Matrix:
    """Fit a head on some rows and return its scores of the others, of shape (m, classes)."""
    fitted, out = part
    prepare = heads.preparation(taps, root=chosen["root"])
    value = tuple(chosen[parameter] for parameter in HEADS[name].parameters)
    with threadpool_limits(1):
        Z, unseen = _in_span(prepare, X, fitted, out)
        weights = np.ones(len(fitted))
        (scores,) = HEADS[name].path(Z, labels[fitted], weights, unseen, [value], seed)
    return _widened(scores, np.unique(labels[fitted]), classes)
