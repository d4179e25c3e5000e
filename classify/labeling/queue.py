"""What a labelling session asks next: labels to check, and photos that would teach the most."""

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.arrays import Labels, Matrix
from classify.labeling.learner import Fitted, Photos, ambiguity
from classify.labeling.suspects import confident_learning


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
        if min(labels[one], labels[other]) >= 0 and labels[one] != labels[other]:
            if not closed[one]:
                found.setdefault(one, Question(int(one), "twin", int(other)))
    return list(found.values())


def _contradicted(
    fitted: Fitted, labels: Labels, closed: NDArray[np.bool_]
) -> list[Question]:
    """Ask for labels that a head which did not see them contradicts, the least plausible first."""
    rows = np.flatnonzero(labels >= 0)
    suspects = confident_learning(fitted.probabilities[rows], labels[rows])
    return [
        Question(int(rows[one.row]), "label") for one in suspects if not closed[rows[one.row]]
    ]


def _informative(
    fitted: Fitted, labels: Labels, closed: NDArray[np.bool_], n: int
) -> list[Question]:
    """Ask for the photos whose labels would make the scores of ambiguous photos most certain.

    ...
    """
    rows, covariance, noise = fitted.candidates
    weight = ambiguity(fitted.probabilities[rows])
    left: Matrix = covariance.copy()
    free = (labels[rows] < 0) & ~closed[rows]
    chosen: list[Question] = []
    for _ in range(min(n, int(free.sum()))):
        variance = np.diagonal(left) + noise
        gain = weight @ np.square(left) / variance
        best = int(np.where(free, gain, -np.inf).argmax())
        chosen.append(Question(int(rows[best]), "pool"))
        free[best] = False
        left -= np.outer(left[:, best], left[best] / variance[best])
    return chosen
