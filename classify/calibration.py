"""Turn scores into calibrated probabilities.

A classifier's scores are divided by one number, the temperature, before the softmax. It is fitted
on photos that the classifier was not trained on. The scores of least squares have a floor as well,
see `Calibration.scaled`.

scikit-learn's own temperature scaling (``CalibratedClassifierCV(method="temperature")``) does not
fit here: it uses hard labels, so a classifier without a mistake becomes certain; it does not accept
classes without a score; and it gives no loss per photo, which the choice of heads needs.
"""

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp, softmax

from classify.arrays import Labels, Matrix, SampleWeight

Scores = TypeVar("Scores", NDArray[np.float32], NDArray[np.float64])

RANGE = (1e-3, 1e3)
"""Smallest and largest temperature."""

FLOORS = (0.02, 10.0)
"""Smallest and largest floor. With a larger one, the scaled scores would lie nearly on a
straight line."""


class Calibration(NamedTuple):
    """How the scores of a classifier become those whose softmax is calibrated probabilities.

    Attributes
    ----------
    temperature : float
        The divisor of the scores, between 0.001 and 1,000.
    floor : float
        Greater than 0; the larger, the nearer is the result to the scores themselves. It is
        infinite if there is none.
    """

    temperature: float = 1.0
    floor: float = np.inf

    def scaled(self, scores: Scores) -> Scores:
        """Return scores whose softmax is calibrated probabilities.

        Without a floor, the scores are divided by the temperature. A floor is for the scores of
        least squares, one class against the rest. Such a score s estimates 2 p - 1, where p is the
        probability of the class (Zhang, "Statistical behavior and consistency of classification
        methods based on convex risk minimization", Annals of Statistics 2004), and it may leave the
        range from -1 to 1. So it becomes the logarithm of ``floor + max(1 + s, 0)``, times the
        factor that gives this a slope of 1 at 0. Otherwise, if there are many classes, those that a
        photo does not show would have much probability together.

        Parameters
        ----------
        scores : ndarray of shape (m, k)
            -inf for a class that the model does not know.
        """
        if np.isfinite(self.floor):
            # This log1p is log((floor + max(1 + s, 0)) / (1 + floor)), to more digits.
            logarithms = (1 + self.floor) * np.log1p(np.maximum(scores, -1) / (1 + self.floor))
            scores = np.where(np.isfinite(scores), logarithms, scores)
        return scores / scores.dtype.type(self.temperature)


def fit(
    scores: Matrix,
    labels: Labels,
    sample_weight: SampleWeight | None = None,
    *,
    with_floor: bool = False,
) -> Calibration:
    """Find the temperature at which the softmax of the scores has the smallest log loss.

    It is 1 if there was nothing to fit. A single temperature for all classes changes no prediction
    and works as well as more complex methods (Guo, Pleiss, Sun and Weinberger, "On calibration of
    modern neural networks", ICML 2017). The log loss is that of `losses`.

    Parameters
    ----------
    scores : ndarray of shape (m, k), float32
        Scores of photos that the model was not fitted on; -inf for a class that it does not know.
    labels : ndarray of shape (m,), int64
        The true classes, as column numbers of `scores`. The temperature is fitted only on photos
        whose class the model knows.
    sample_weight : ndarray of shape (m,), float64, optional
        How much each photo counts; by default all count the same.
    with_floor : bool
        Whether to find the floor as well. It is infinite if that is best.
    """
    known = np.isfinite(scores[np.arange(len(labels)), labels])
    if not known.any():
        return Calibration()
    finite, wanted = _finite(scores), _smoothed(labels, scores.shape[1])
    weight = known if sample_weight is None else known * sample_weight
    share = weight / weight.sum()
    best = minimize_scalar(
        lambda log_temperature: share @ _losses(finite * np.exp(-log_temperature), wanted),
        bounds=np.log(RANGE),
        method="bounded",
        options={"xatol": 1e-3},
    )
    found = Calibration(float(np.exp(best.x)))
    return _with_floor(finite, wanted, share, start=found) if with_floor else found


def losses(scores: Matrix, labels: Labels, calibration: Calibration) -> NDArray[np.float64]:
    """Return the log loss of each photo, in nats, once its scores are scaled.

    Labels are smoothed: with m photos, each counts for its own class with probability
    1 - 1 / (m + 2), and for a class drawn at random otherwise. A model that makes no mistake on a
    few photos is therefore not taken to be infallible (after Platt, "Probabilistic outputs for
    support vector machines", 1999).

    Parameters
    ----------
    scores : ndarray of shape (m, k), float32
        For an unknown class, whose score is -inf, the lowest of all scores counts.
    labels : ndarray of shape (m,), int64
    calibration : Calibration

    Returns
    -------
    ndarray of shape (m,), float64
    """
    return _losses(calibration.scaled(_finite(scores)), _smoothed(labels, scores.shape[1]))


def _finite(scores: Matrix) -> NDArray[np.float64]:
    finite = scores.astype(np.float64)
    lowest = np.min(finite, initial=0.0, where=np.isfinite(finite))
    return np.where(np.isfinite(finite), finite, lowest)


def _smoothed(labels: Labels, classes: int) -> NDArray[np.float64]:
    """Return the wanted probabilities of each photo, shape (m, classes)."""
    smoothing = 1 / (len(labels) + 2)
    wanted = np.full((len(labels), classes), smoothing / classes)
    wanted[np.arange(len(labels)), labels] += 1 - smoothing
    return wanted


def _losses(scores: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = logsumexp(scores, axis=1) - np.einsum("ij,ij->i", wanted, scores)
    return found


def _with_floor(
    scores: NDArray[np.float64],
    wanted: NDArray[np.float64],
    share: NDArray[np.float64],
    *,
    start: Calibration,
) -> Calibration:
    """Return the best temperature and floor, starting from the best temperature without a floor.

    If the floor would be larger than allowed, that temperature stays and there is no floor.

    Parameters
    ----------
    scores : ndarray of shape (m, k)
    wanted : ndarray of shape (m, k)
        The smoothed labels, as probabilities.
    share : ndarray of shape (m,)
        How much each photo counts.
    start : Calibration
    """
    found = minimize(
        _loss_and_gradient,
        np.log([start.temperature, 1.0]),
        args=(scores, wanted, share),
        jac=True,
        method="L-BFGS-B",
        bounds=np.log([RANGE, FLOORS]),
        tol=1e-6,
    )
    if found.x[1] >= np.log(FLOORS[1]):
        return start
    return Calibration(*np.exp(found.x).tolist())


def _loss_and_gradient(
    logarithms: NDArray[np.float64],
    scores: NDArray[np.float64],
    wanted: NDArray[np.float64],
    share: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64]]:
    """Return the mean log loss, and its gradient by the logarithms of temperature and floor."""
    temperature, floor = np.exp(logarithms)
    part = np.maximum(scores, -1) / (1 + floor)
    by_floor = np.log1p(part)
    outputs = by_floor * ((1 + floor) / temperature)
    by_floor -= part / (1 + part)
    surplus = (softmax(outputs, axis=1) - wanted) * share[:, None]
    gradient = [-np.vdot(surplus, outputs), np.vdot(surplus, by_floor) * floor / temperature]
    return float(share @ _losses(outputs, wanted)), np.array(gradient)
