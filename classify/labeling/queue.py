"""What a labelling session asks next: labels to check, and photos that would teach the most."""

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.arrays import Labels
from classify.labeling.learner import Fitted, Photos

TINY = 1e-6
"""The least variance of a score; rounding may leave less for the copy of a labelled photo."""


class Question(NamedTuple):
    """A photo to ask for.

    Attributes
    ----------
    row : int
    reason : str
        ``twin``: its label differs from that of a near-duplicate. ``label``: the head contradicts
        its label. ``pool``: it has no label and would teach the most.
    other : int
        The row of the near-duplicate, or -1.
    """

    row: int
    reason: str
    other: int = -1


def questions(
    photos: Photos,
    fitted: Fitted,
    labels: Labels,
    *,
    answered: NDArray[np.bool_],
    twins: Sequence[tuple[int, int]],
    n: int,
) -> list[Question]:
    """Choose the next questions: labels to check and photos of the pool take turns.

    Parameters
    ----------
    photos : Photos
    fitted : Fitted
        The head. It may be older than the labels.
    labels : ndarray of shape (n,), int64
        -1 for a photo without a label.
    answered : ndarray of shape (n,), bool
        Photos that are not asked for again.
    twins : sequence of (row, row)
        Near-duplicates.
    n : int
        How many questions, at most.
    """
    closed = answered | photos.held_out
    checks = _twins(fitted, labels, closed, twins)
    asked = {question.row for question in checks}
    checks += [
        question for question in _contradicted(fitted, labels, closed) if question.row not in asked
    ]
    both = zip_longest(checks[:n], _informative(fitted, labels, closed, n))
    return [question for question in chain(*both) if question is not None][:n]


def _twins(
    fitted: Fitted,
    labels: Labels,
    closed: NDArray[np.bool_],
    twins: Sequence[tuple[int, int]],
) -> list[Question]:
    """Ask for one of each two near-duplicates with different labels, the less plausible one."""
    found: dict[int, Question] = {}
    for pair in twins:
        one, other = sorted(
            pair, key=lambda row: (closed[row], fitted.probabilities[row, labels[row]])
        )
        differ = min(labels[one], labels[other]) >= 0 and labels[one] != labels[other]
        if differ and not closed[one]:
            found.setdefault(one, Question(int(one), "twin", int(other)))
    return list(found.values())


def _contradicted(fitted: Fitted, labels: Labels, closed: NDArray[np.bool_]) -> list[Question]:
    """Ask for labels that a head which did not see them contradicts, the least plausible first.

    The ratio of probabilities decides, not their difference, which would say of a photo that might
    have any of several classes that its label is as good as contradicted.
    """
    rows = np.flatnonzero((labels >= 0) & ~closed)
    # A head that did not see the only label of a class does not know that class.
    rows = rows[np.bincount(labels[labels >= 0])[labels[rows]] > 1]
    probabilities = np.maximum(fitted.probabilities[rows], np.finfo(np.float32).tiny)
    logarithms, each = np.log(probabilities), np.arange(len(rows))
    own = logarithms[each, labels[rows]]
    behind = own - logarithms.max(axis=1, initial=-np.inf)
    order = np.argsort(behind, kind="stable")
    return [Question(int(rows[i]), "label") for i in order[behind[order] < 0]]


def _informative(
    fitted: Fitted, labels: Labels, closed: NDArray[np.bool_], n: int
) -> list[Question]:
    """Ask for photos between two classes, unlike those that were labelled or are asked for.

    What counts is the lead of the first class over the second, in standard deviations: a lead that
    more labels like it could turn round is worth a question. Whatever the answer to a question will
    be, the scores of similar photos will have moved, and will be less uncertain.
    """
    rows, covariance, squares = fitted.candidates, fitted.covariance.copy(), fitted.leads**2
    free = (labels[rows] < 0) & ~closed[rows]
    chosen: list[Question] = []
    for _ in range(min(n, int(free.sum()))):
        variance = np.maximum(np.diagonal(covariance), TINY)
        best = int(np.where(free, squares / variance, np.inf).argmin())
        chosen.append(Question(int(rows[best]), "pool"))
        free[best] = False
        shared = covariance[best] / np.sqrt(variance[best] + fitted.alpha)
        # A lead is the difference of two scores, each of which the answer moves this much.
        squares += 2 * np.square(shared)
        covariance -= np.outer(shared, shared)
    return chosen
