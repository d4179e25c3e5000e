"""Temperature scaling: turn scores into calibrated probabilities.

A classifier's scores are divided by one number, the temperature, before the softmax. It is fitted
on photos that the classifier was not trained on.

scikit-learn's own temperature scaling (``CalibratedClassifierCV(method="temperature")``) does not
fit here: it uses hard labels, so a classifier without a mistake becomes certain; it does not accept
classes without a score; and it gives no loss per photo, which the choice of heads needs.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from classify.arrays import Labels, Matrix, SampleWeight

RANGE = (1e-3, 1e3)
"""Smallest and largest temperature."""


class Calibration(NamedTuple):
    """A fitted temperature.

    Attributes
    ----------
    temperature : float
        The divisor of the scores, between 0.001 and 1,000. It is 1 if there was nothing to fit.
    losses : ndarray of shape (m,), float64
        The log loss of each photo at this temperature, in nats.
    """

    temperature: float
    losses: NDArray[np.float64]


def fit_temperature(
    scores: Matrix, labels: Labels, sample_weight: SampleWeight | None = None
) -> Calibration:
    """Find the temperature at which the softmax of the scores has the smallest log loss.

    A single temperature for all classes changes no prediction and works as well as more complex
    methods (Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML
    2017). Labels are smoothed: with m photos, each counts for its own class with probability
    1 - 1 / (m + 2), and for a class drawn at random otherwise. A model that makes no mistake on a
    few photos is therefore not taken to be infallible (after Platt, "Probabilistic outputs for
    support vector machines", 1999).

    Parameters
    ----------
    scores : ndarray of shape (m, k), float32
        Scores of photos that the model was not fitted on; -inf for a class that it does not know.
    labels : ndarray of shape (m,), int64
        The true classes, as column numbers of `scores`. The temperature is fitted only on photos
        whose class the model knows.
    sample_weight : ndarray of shape (m,), float64, optional
        How much each photo counts; by default all count the same.
    """
    rows = np.arange(len(labels))
    known = np.isfinite(scores[rows, labels])
    finite = scores.astype(np.float64)
    lowest = np.min(finite, initial=0.0, where=np.isfinite(finite))
    finite = np.where(np.isfinite(finite), finite, lowest)
    smoothing = 1 / (len(labels) + 2)
    smoothed = (1 - smoothing) * finite[rows, labels] + smoothing * finite.mean(axis=1)
    if not known.any():
        return Calibration(1.0, logsumexp(finite, axis=1) - smoothed)
    weight = known if sample_weight is None else known * sample_weight

    def losses(log_temperature: float) -> NDArray[np.float64]:
        factor = np.exp(-log_temperature)
        loss: NDArray[np.float64] = logsumexp(finite * factor, axis=1) - smoothed * factor
        return loss

    best = minimize_scalar(
        lambda log_temperature: np.average(losses(log_temperature), weights=weight),
        bounds=np.log(RANGE),
        method="bounded",
        options={"xatol": 1e-3},
    )
    return Calibration(float(np.exp(best.x)), losses(best.x))
