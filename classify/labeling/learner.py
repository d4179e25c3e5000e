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

ALPHAS = (0.1, 0.3, 1.0, 3.0)
"""The strengths of regularisation that are tried."""

SEARCH_ROWS = 500
"""Labelled photos on which the strength is chosen."""

FITTED_ROWS = 3000
"""Labelled photos that the head is fitted on; of more, a sample. 2,000 take less than a second."""

CANDIDATES = 1000
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

    @cached_property
    def _kernel(self) -> Matrix:
        products: Matrix = self.X @ self.X.T + INTERCEPT
        return products


class Candidates(NamedTuple):
    """Photos of the pool among which the next questions are chosen.

    Attributes
    ----------
    rows : ndarray of shape (m,)
    covariance : ndarray of shape (m, m), float32
        The covariances of their scores, given the labels.
    noise : float
        The variance of a label about its score.
    """

    rows: Rows
    covariance: Matrix
    noise: float


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
    candidates : Candidates
    """

    probabilities: Matrix
    seconds: float
    candidates: Candidates


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
    alpha = _strength(photos, labels, rows, classes)
    targets = _targets(labels[rows], classes)
    solution = _solve(photos.kernel(rows, rows), targets, alpha)
    scores = photos.X @ (photos.X[rows].T @ solution.weights)
    scores += INTERCEPT * solution.weights.sum(axis=0)
    scores[rows] = solution.left_out(targets)
    if len(rows):
        scores[:, np.bincount(labels[rows], minlength=classes) == 0] = -np.inf
    temperature = calibration.fit_temperature(scores[rows], labels[rows]).temperature
    probabilities = softmax(scores / np.float32(temperature), axis=1)
    rest = _candidates(photos, labels, probabilities)
    covariance = photos.kernel(rest, rest)
    to_labelled = photos.kernel(rest, rows)
    covariance -= to_labelled @ solution.inverse @ to_labelled.T
    seconds = time.perf_counter() - started
    return Fitted(probabilities, seconds, Candidates(rest, covariance, alpha))


def _targets(labels: Labels, classes: int) -> Matrix:
    """Return what the scores are fitted to: 2 apart, as those of an SVM, and 0 on average."""
    targets = np.full((len(labels), classes), -2 / classes, np.float32)
    targets[np.arange(len(labels)), labels] += 2
    return targets


def _solve(kernel: Matrix, targets: Matrix, alpha: float) -> _Solution:
    noisy = kernel.astype(np.float64)
    noisy[np.diag_indices_from(noisy)] += alpha
    inverse = scipy.linalg.inv(noisy, overwrite_a=True, check_finite=False, assume_a="pos")
    return _Solution((inverse @ targets).astype(np.float32), inverse.astype(np.float32))


def _strength(photos: Photos, labels: Labels, rows: Rows, classes: int) -> float:
    """Return the strength of regularisation with the smallest log loss on left-out labels."""
    if len(rows) < 2:
        return 1.0
    rows = rows[out_of_core.sample(labels[rows], rows=SEARCH_ROWS, seed=0)]
    kernel, targets = photos.kernel(rows, rows), _targets(labels[rows], classes)
    losses = []
    for alpha in ALPHAS:
        scores = _solve(kernel, targets, alpha).left_out(targets)
        losses.append(calibration.fit_temperature(scores, labels[rows]).losses.mean())
    return ALPHAS[int(np.argmin(losses))]


def _candidates(photos: Photos, labels: Labels, probabilities: Matrix) -> Rows:
    """Choose photos of the pool: half of them are the most ambiguous, the others are drawn."""
    pool = np.flatnonzero((labels < 0) & ~photos.held_out)
    if len(pool) <= CANDIDATES:
        return pool
    order = np.argsort(-ambiguity(probabilities[pool]), kind="stable")
    half = CANDIDATES // 2
    others = np.random.default_rng(0).choice(order[half:], CANDIDATES - half, replace=False)
    return np.sort(pool[np.concatenate([order[:half], others])])


def ambiguity(probabilities: Matrix) -> NDArray[np.float32]:
    """Return 1 minus the lead of the most probable class over the second, shape (n,)."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities), np.float32)
    second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
    lead: NDArray[np.float32] = 1 - (first - second)
    return lead
