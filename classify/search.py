"""Search all candidates for each head on held-out photos of train and val, and choose one.

The heads are searched together. For small data most of the time goes into preparing a feature set
and finding its row space, and this is done once for all of them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from joblib import delayed, effective_n_jobs
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from classify import calibration, cross_validation, heads, out_of_core, search_space
from classify.arrays import Matrix, SampleWeight, TrainingData
from classify.calibration import Calibration
from classify.cross_validation import Fold
from classify.heads import HEADS
from classify.search_space import FeatureSet, SearchSpace
from extract.system.processes import parallel


@dataclass(frozen=True)
class SearchPlan:
    """What is searched, and how candidates are compared.

    Attributes
    ----------
    spaces : mapping of str to SearchSpace
        By head, keys of `HEADS`.
    folds : sequence of (fitted rows, held-out rows)
        Without any, there is nothing to choose by.
    seed : int
        Seed of the MLP and of the sample that large data are searched on.
    """

    spaces: Mapping[str, SearchSpace]
    folds: Sequence[Fold]
    seed: int

    @property
    def feature_sets(self) -> list[FeatureSet]:
        """Every feature set that is tried for some head, once."""
        every = (one for space in self.spaces.values() for one in space.feature_sets)
        return list(dict.fromkeys(every))

    @property
    def steps(self) -> int:
        """How often `search` and `classify.train.fit_heads` report progress, together."""
        return len(self.feature_sets) + len(self.spaces)


class Candidate(NamedTuple):
    """A candidate for a head, and how well it did on the held-out photos.

    Attributes
    ----------
    hyperparameters : dict
        With ``taps`` and ``root``.
    score : float
        Weighted share of the photos that it classified correctly.
    log_loss : float
        Weighted mean of `losses`.
    calibration : Calibration
        The one with the smallest log loss.
    losses : ndarray of shape (m,), float64
        Log loss of each photo.
    """

    hyperparameters: dict[str, Any]
    score: float
    log_loss: float
    calibration: Calibration
    losses: NDArray[np.float64]

    @property
    def record(self) -> dict[str, Any]:
        """What a result keeps of it."""
        return {**self.hyperparameters, "score": self.score, "log_loss": self.log_loss}


class SearchOutcome(NamedTuple):
    """What a search found.

    Attributes
    ----------
    candidates : dict of str to list of Candidate
        By head; those without a kernel first, then fewest taps, then strongest regularisation.
        Empty lists if nothing was held out.
    sample_weight : ndarray of shape (m,), float64
        How much each held-out photo counts.
    seconds : dict of str to float
        By head. What heads share counts for each of them.
    """

    candidates: dict[str, list[Candidate]]
    sample_weight: SampleWeight
    seconds: dict[str, float]


class Choice(NamedTuple):
    """What was chosen for a head.

    Attributes
    ----------
    hyperparameters : dict
        With ``taps`` and ``root``.
    calibration : Calibration
    """

    hyperparameters: dict[str, Any]
    calibration: Calibration = Calibration()


def search(
    data: TrainingData, plan: SearchPlan, *, advance: Callable[[int], None] = lambda n: None
) -> SearchOutcome:
    """Try all candidates for each head.

    Parameters
    ----------
    data : TrainingData
        Photos of train and val, with at least the taps that the plan names.
    plan : SearchPlan
    advance : callable
        Called with 1 for each feature set that is done.
    """
    sample = out_of_core.sample(data.labels, rows=out_of_core.SEARCH_ROWS, seed=plan.seed)
    folds = cross_validation.within(plan.folds, sample, rows=len(data.labels))
    data, plan = data.subset(sample), SearchPlan(plan.spaces, folds, plan.seed)
    processes = cross_validation.processes(data, fits=len(folds))
    by_set: dict[FeatureSet, dict[str, _Tried]] = {}
    if folds:
        # The largest first, so that no processor has to wait for a slow one at the end.
        feature_sets = plan.feature_sets[::-1]
        answers = parallel(processes, return_as="generator")(
            delayed(_try)(features, data, plan) for features in feature_sets
        )
        for features, answer in zip(feature_sets, answers, strict=True):
            by_set[features] = answer
            advance(1)
    else:
        advance(len(plan.feature_sets))
    at_once = min(effective_n_jobs(processes), len(plan.feature_sets))
    tried = {
        name: [by_set[one][name] for one in space.feature_sets if one in by_set]
        for name, space in plan.spaces.items()
    }
    candidates = {
        name: sorted((one for part in parts for one in part.candidates), key=_has_kernel)
        for name, parts in tried.items()
    }
    return SearchOutcome(
        candidates,
        data.sample_weight[cross_validation.held_out_rows(folds)],
        {name: sum(part.seconds for part in parts) / at_once for name, parts in tried.items()},
    )


def _has_kernel(candidate: Candidate) -> bool:
    return bool(candidate.hyperparameters.get("gamma"))


class _Tried(NamedTuple):
    """The candidates for one head with one feature set."""

    candidates: list[Candidate]
    seconds: float


def _try(features: FeatureSet, data: TrainingData, plan: SearchPlan) -> dict[str, _Tried]:
    """Try all heads on one feature set."""
    names = [name for name, space in plan.spaces.items() if features in space.feature_sets]
    seconds = dict.fromkeys(names, 0.0)
    scores: dict[str, list[list[Matrix]]] = {name: [] for name in names}
    classes = len(np.unique(data.labels))
    # The matrices are small: several threads of linear algebra would wait for each other longer
    # than they work. On two cores this took 30 times longer.
    with threadpool_limits(1):
        started = time.perf_counter()
        rows = heads.normalised(
            *(data.X, features.taps),
            among=data.taps,
            root=features.root,
            by_block=features.by_block,
        )
        prepared = cross_validation.prepared(rows, plan.folds)
        for fold, part in zip(plan.folds, prepared, strict=True):
            shared = time.perf_counter() - started
            labels, weight = data.labels[fold[0]], data.sample_weight[fold[0]]
            present = np.unique(labels)
            for name in names:
                started = time.perf_counter()
                values = plan.spaces[name].values(features)
                path = HEADS[name].path(part, labels, weight, values, plan.seed)
                scores[name].append(
                    [cross_validation.for_all_classes(one, present, classes) for one in path]
                )
                seconds[name] += shared + time.perf_counter() - started
            started = time.perf_counter()
    return {
        name: _Tried(_candidates(name, features, scores[name], data, plan), seconds[name])
        for name in names
    }


def _candidates(
    name: str,
    features: FeatureSet,
    scores: Sequence[Sequence[Matrix]],
    data: TrainingData,
    plan: SearchPlan,
) -> list[Candidate]:
    """Compare the scores of held-out photos, by fold and by value, with their labels."""
    held_out = cross_validation.held_out_rows(plan.folds)
    labels, weight = data.labels[held_out], data.sample_weight[held_out]
    candidates = []
    tried = plan.spaces[name].values(features)
    for values, by_fold in zip(tried, zip(*scores, strict=True), strict=True):
        joined = np.concatenate(by_fold)
        right = joined.argmax(axis=1) == labels
        found = calibration.fit(joined, labels, weight, with_floor=HEADS[name].has_floor)
        losses = calibration.losses(joined, labels, found)
        candidates.append(
            Candidate(
                search_space.hyperparameters(name, features, values),
                float(np.average(right, weights=weight)),
                float(np.average(losses, weights=weight)),
                found,
                losses,
            )
        )
    return candidates


def choose(outcome: SearchOutcome) -> dict[str, Choice]:
    """Choose a candidate for each head, by the log loss on held-out photos; see `simplest`.

    The log loss decides and not the share of correct answers: among a few hundred photos, one
    that happens to be right would count as much as a better head, while the loss takes every
    probability into account. If nothing was held out, a default is chosen.
    """
    return {
        name: _chosen(name, candidates, outcome.sample_weight)
        for name, candidates in outcome.candidates.items()
    }


def _chosen(name: str, candidates: Sequence[Candidate], sample_weight: SampleWeight) -> Choice:
    if not candidates:
        return Choice(search_space.default(name))
    best = candidates[simplest([one.losses for one in candidates], sample_weight)]
    return Choice(best.hyperparameters, best.calibration)


def simplest(losses: Sequence[NDArray[np.float64]], sample_weight: SampleWeight) -> int:
    """Return the first candidate that may be worse than the best one by chance alone.

    That is the first one whose mean loss exceeds that of the best by at most one standard error,
    which is the standard error of the difference of their losses photo by photo (a paired form of
    the one-standard-error rule of Breiman, Friedman, Olshen and Stone, "Classification and
    regression trees", 1984).

    Parameters
    ----------
    losses : sequence of ndarrays of shape (m,)
        The losses of each candidate on the same photos, the simplest candidate first.
    sample_weight : ndarray of shape (m,)
        How much each photo counts.
    """
    share = sample_weight / sample_weight.sum()
    best = losses[int(np.argmin([share @ loss for loss in losses]))]
    for position, loss in enumerate(losses):
        difference = loss - best
        mean = share @ difference
        if mean <= np.sqrt(np.square(share) @ np.square(difference - mean)):
            return position
    raise AssertionError("the best candidate is not worse than itself")
