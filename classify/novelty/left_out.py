"""Fit a novelty detector, and measure it on classes that are left out in turn."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from classify.novelty import KEEP
from classify.novelty.detector import (
    LEVELS,
    Distances,
    NoveltyDetector,
    Rows,
    Statistics,
    Values,
)

GROUPS = 5
"""With more than twice as many classes, this many groups of classes are left out, in turn."""

Labels = NDArray[np.int64]
Fold = tuple[NDArray[np.intp], NDArray[np.intp]]


class LeftOut(NamedTuple):
    """How well strangers are told from known photos, each class being a stranger once.

    Attributes
    ----------
    rejected : float
        The share of strangers that is rejected where `KEEP` of the known photos are kept.
    auroc : float
        The probability that a stranger has a larger score than a known photo.
    strangers : int
        Number of photos that were strangers; none of them was fitted on.
    """

    rejected: float
    auroc: float
    strangers: int


def fit(
    rows: Rows, labels: Labels, folds: Sequence[Fold]
) -> tuple[NoveltyDetector, LeftOut | None]:
    """Fit a detector to photos of known classes, and measure it.

    Parameters
    ----------
    rows : ndarray of shape (n, 512), float32
        See `classify.novelty.detector.prepared`.
    labels : ndarray of shape (n,), int64
    folds : sequence of (fitted rows, held-out rows)
        At least one. The scores of the held-out rows say which scores known photos have.

    Returns
    -------
    detector : NoveltyDetector
        Fitted on all rows.
    LeftOut or None
        None if there are only two classes: without one of them, nothing is left to tell apart.
    """
    # Threads of linear algebra would wait for each other longer than they work.
    with threadpool_limits(1):
        return _fit(rows, labels, folds)


def _fit(
    rows: Rows, labels: Labels, folds: Sequence[Fold]
) -> tuple[NoveltyDetector, LeftOut | None]:
    groups = _groups(labels)
    known: list[Values] = []
    left_out: list[list[tuple[Values, Values]]] = [[] for _ in groups]
    for fitted, held_out in folds:
        parts = [_statistics(rows, labels, fitted, group) for group in groups]
        unseen, classes = rows[held_out], labels[held_out]
        everything = [part for part in parts if part is not None]
        known.append(Distances(Statistics.joined(everything)).scores(unseen))
        if len(groups) < 2:
            continue
        for number, group in enumerate(groups):
            others = [part for part in parts[:number] + parts[number + 1 :] if part is not None]
            if others:
                scores = Distances(Statistics.joined(others)).scores(unseen)
                is_stranger = np.isin(classes, group)
                left_out[number].append((scores[~is_stranger], scores[is_stranger]))
    quantiles = np.quantile(np.concatenate(known), LEVELS)
    return NoveltyDetector(Statistics.of(rows, labels), quantiles), _measured(left_out)


def _groups(labels: Labels) -> list[Labels]:
    """Return the classes that are left out together; all in one group if there are only two."""
    classes = np.unique(labels)
    if len(classes) < 3:
        return [classes]
    groups = len(classes) if len(classes) <= 2 * GROUPS else GROUPS
    return [classes[start::groups] for start in range(groups)]


def _statistics(
    rows: Rows, labels: Labels, fitted: NDArray[np.intp], group: Labels
) -> Statistics | None:
    chosen = fitted[np.isin(labels[fitted], group)]
    return Statistics.of(rows[chosen], labels[chosen]) if len(chosen) else None


def _measured(left_out: Sequence[Sequence[tuple[Values, Values]]]) -> LeftOut | None:
    """Return the means over groups, weighted by their strangers."""
    found = []
    for parts in left_out:
        known = np.concatenate([np.empty(0), *(known for known, _ in parts)])
        strangers = np.concatenate([np.empty(0), *(strangers for _, strangers in parts)])
        if len(known) and len(strangers):
            is_stranger = np.arange(len(known) + len(strangers)) >= len(known)
            auroc = roc_auc_score(is_stranger, np.concatenate([known, strangers]))
            rejected = float((strangers > np.quantile(known, KEEP)).mean())
            found.append((rejected, float(auroc), len(strangers)))
    if not found:
        return None
    shares, aurocs, counts = (np.array(one) for one in zip(*found, strict=True))
    weights = counts / counts.sum()
    return LeftOut(float(shares @ weights), float(aurocs @ weights), int(counts.sum()))
