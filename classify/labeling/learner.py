"""The head of a labelling session: a least-squares SVM that is refitted after every answer.

It is `classify.heads.LeastSquaresSVC`, solved in the dual, where it is a Gaussian process
(Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, section 2.2 and equation
5.12). Two things then have a closed form: the scores of each labelled photo if its own label were
left out, and how uncertain the scores of the others remain. The only difference is that a large
intercept costs a little, so that the head works with one label.
"""

import time
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.special import softmax

from classify import calibration, heads, out_of_core
from classify.arrays import Labels, Matrix, Rows

TAPS = ("block5_avg", "block5_max", "block5_avg3x3", "block4_avg", "block4_max")
"""What the head sees of a photo. On held-out photos of `chess`, block 3 added nothing to it."""

ALPHAS = (0.03, 0.1, 0.3, 1.0)
"""The strengths of regularisation that are tried."""

SEARCH_ROWS = 500
"""Labelled photos on which the strength is chosen."""

FITTED_ROWS = 2000
"""Labelled photos that the head is fitted on; of more, a sample."""

REFITTED_ROWS = 1000
"""Labelled photos and those of the pool of which the head is sure, together."""

SURE = 0.5
"""By how much the score of a class must lead for the head to be sure; the targets are 2 apart. Of
0.4 to 1.6, about 0.5 was the best on held-out photos of `chess`."""

CANDIDATES = 500
"""Photos of the pool among which the next questions are chosen."""

IN_MEMORY = 4000
"""Photos whose products with each other are computed once and kept, in at most 64 MB."""

INTERCEPT = np.float32(1)
"""Variance of the intercept before a label is known; the rows have a mean squared norm of 1."""


@dataclass(frozen=True, eq=False)
class Photos:
    """All photos of a session: labelled ones and those of the pool.

    Attributes
    ----------
    X : ndarray of shape (n, d), float32
        The prepared taps (see `prepared`).
    held_out : ndarray of shape (n,), bool
        Whether a photo is never fitted, nor asked for, because it measures the accuracy.
    """

    X: Matrix
    held_out: NDArray[np.bool_]

    def kernel(self, rows: Rows, others: Rows) -> Matrix:
        """Return the covariances of the scores of photos before a label is known."""
        if len(self.X) <= IN_MEMORY:
            return self._kernel[np.ix_(rows, others)]
        products: Matrix = self.X[rows] @ self.X[others].T + INTERCEPT
        return products

    def scores(self, rows: Rows, weights: Matrix) -> Matrix:
        """Return the scores of all photos, given the weights of some."""
        if len(self.X) <= IN_MEMORY:
            by_kernel: Matrix = self._kernel[rows].T @ weights
            return by_kernel
        scores: Matrix = self.X @ (self.X[rows].T @ weights)
        scores += INTERCEPT * weights.sum(axis=0)
        return scores

    @cached_property
    def _kernel(self) -> Matrix:
        products: Matrix = self.X @ self.X.T + INTERCEPT
        return products


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted head, and what it says about every photo.

    Attributes
    ----------
    probabilities : ndarray of shape (n, k), float32
        Of a labelled photo, they are those of a head that did not see its label. A class without
        a label has probability 0.
    seconds : float
        How long the fit took.
    candidates : ndarray of shape (m,)
        Photos of the pool among which the next questions are chosen.
    leads : ndarray of shape (m,), float32
        By how much the score of the first class leads over that of the second.
    covariance : ndarray of shape (m, m), float32
        How uncertain their scores are, given the labels.
    alpha : float
        The strength of regularisation, which is the variance of a label about its score.
    """

    probabilities: Matrix
    seconds: float
    candidates: Rows
    leads: Matrix
    covariance: Matrix
    alpha: float


class _Solution(NamedTuple):
    """Weights of the labelled photos, and the inverse of their kernel with noise."""

    weights: Matrix
    inverse: Matrix

    def left_out(self, targets: Matrix) -> Matrix:
        """Return the scores of each labelled photo of a head that did not see its label."""
        return targets - self.weights / np.diagonal(self.inverse)[:, None]


def prepared(X: Matrix, taps: dict[str, int]) -> Matrix:
    """Prepare taps that lie side by side: square root, L2 norm of each tap, centring, scale."""
    rows = out_of_core.fit_prepared(heads.preparation(taps, root=True), X)
    rows *= np.float32(heads.unit_scale(rows))
    return rows


def fit(photos: Photos, labels: Labels, classes: int) -> Fitted:
    """Fit the head to the labels.

    Parameters
    ----------
    photos : Photos
    labels : ndarray of shape (n,), int64
        -1 for a photo without a label.
    classes : int
        How many classes there are, k.
    """
    started = time.perf_counter()
    labelled = np.flatnonzero((labels >= 0) & ~photos.held_out)
    rows = labelled[out_of_core.sample(labels[labelled], rows=FITTED_ROWS, seed=0)]
    targets = _targets(labels[rows], classes)
    alpha = _strength(photos, labels, rows, classes)
    solution = _solve(photos.kernel(rows, rows), targets, alpha)
    left_out = solution.left_out(targets)
    temperature = calibration.fit(left_out, labels[rows]).temperature
    known = np.bincount(labels[rows], minlength=classes) > 0
    scores = photos.scores(rows, solution.weights)
    candidates, leads = _candidates(photos, labels, scores)
    if known.sum() > 1:
        scores = _with_sure_photos(photos, scores, rows, targets, alpha)
    scores[rows] = left_out
    scores[:, ~known & known.any()] = -np.inf
    probabilities = softmax(scores / np.float32(temperature), axis=1)
    covariance = photos.kernel(candidates, candidates)
    to_labelled = photos.kernel(candidates, rows)
    covariance -= to_labelled @ solution.inverse @ to_labelled.T
    seconds = time.perf_counter() - started
    return Fitted(probabilities, seconds, candidates, leads, covariance, alpha)


def _with_sure_photos(
    photos: Photos, scores: Matrix, rows: Rows, targets: Matrix, alpha: float
) -> Matrix:
    """Fit once more, as if photos of the pool had the class of which the head is sure.

    The queue asks for photos between the classes. Without those that lie well inside, the head
    would see too few of them. They have no say in whether a label is plausible, because a wrong
    label would have spread to photos like it.
    """
    room = REFITTED_ROWS - len(rows)
    free = ~photos.held_out
    free[rows] = False
    sure = np.flatnonzero(free & (lead(scores) > SURE))
    if room <= 0 or not len(sure):
        return scores
    if len(sure) > room:
        sure = np.sort(np.random.default_rng(0).choice(sure, room, replace=False))
    both = np.concatenate([rows, sure])
    guessed = _targets(scores[sure].argmax(axis=1), scores.shape[1])
    targets = np.concatenate([targets, guessed])
    noisy = _noisy(photos.kernel(both, both), alpha)
    factor = scipy.linalg.cho_factor(noisy, overwrite_a=True, check_finite=False)
    weights = scipy.linalg.cho_solve(factor, targets, check_finite=False)
    return photos.scores(both, weights.astype(np.float32))


def _targets(labels: Labels, classes: int) -> Matrix:
    """Return what the scores are fitted to: 2 apart, as those of an SVM, and 0 on average."""
    targets = np.full((len(labels), classes), -2 / classes, np.float32)
    targets[np.arange(len(labels)), labels] += 2
    return targets


def _solve(kernel: Matrix, targets: Matrix, alpha: float) -> _Solution:
    inverse = scipy.linalg.inv(
        _noisy(kernel, alpha), overwrite_a=True, check_finite=False, assume_a="pos"
    )
    return _Solution((inverse @ targets).astype(np.float32), inverse.astype(np.float32))


def _noisy(kernel: Matrix, alpha: float) -> NDArray[np.float64]:
    noisy = kernel.astype(np.float64)
    noisy[np.diag_indices_from(noisy)] += alpha
    return noisy


def _strength(photos: Photos, labels: Labels, rows: Rows, classes: int) -> float:
    """Return the strength of regularisation with the smallest squared error on left-out labels."""
    rows = rows[out_of_core.sample(labels[rows], rows=SEARCH_ROWS, seed=0)]
    kernel, targets = photos.kernel(rows, rows), _targets(labels[rows], classes)
    errors = []
    for alpha in ALPHAS:
        left_out = _solve(kernel, targets, alpha).left_out(targets)
        errors.append(np.square(targets - left_out).sum())
    return ALPHAS[int(np.argmin(errors))]


def _candidates(photos: Photos, labels: Labels, scores: Matrix) -> tuple[Rows, Matrix]:
    """Return the photos of the pool that are most between two classes, and their leads."""
    pool = np.flatnonzero((labels < 0) & ~photos.held_out)
    leads = lead(scores[pool])
    order = np.argsort(leads, kind="stable")[:CANDIDATES]
    return pool[order], leads[order]


def lead(values: Matrix) -> NDArray[np.float32]:
    """Return by how much the first class of each row leads over the second, shape (n,)."""
    if values.shape[1] < 2:
        return np.zeros(len(values), np.float32)
    second, first = np.partition(values, -2, axis=1)[:, -2:].T
    difference: NDArray[np.float32] = first - second
    return difference
