"""Temperature: probabilities that mean what they say, from scores on photos held out."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

RANGE = (1e-3, 1e3)


class Calibration(NamedTuple):
    """How scores become probabilities, and how good these are.

    Attributes
    ----------
    temperature : float
        What scores are divided by, between 0.001 and 1,000; 1 where no photo tells.
    losses : ndarray of shape (m,), float64
        The log loss of each photo with that temperature, in nats.
    """

    temperature: float
    losses: NDArray[np.float64]


def calibrate(
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64] | None = None,
) -> Calibration:
    """Find what scores are divided by so that their softmax has the smallest log loss.

    One number for all classes changes no prediction, and is the best simple calibration known
    (Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017). Each
    photo counts as one of its class with probability 1 - 1 / (m + 2) and else as one of any, so
    that a model without a mistake among few photos is not held to be infallible (after Platt,
    "Probabilistic outputs for support vector machines", 1999).

    Parameters
    ----------
    scores : ndarray of shape (m, k)
        Of photos that the model was not fitted on; -inf for a class that it does not know.
    labels : ndarray of shape (m,), int64
        Their classes, columns of `scores`. A photo of a class that the model does not know says
        nothing of the temperature.
    weights : ndarray of shape (m,), optional
        How much each photo counts; all the same by default.
    """
    rows = np.arange(len(labels))
    known = np.isfinite(scores[rows, labels])
    wide = scores.astype(np.float64)
    wide = np.where(np.isfinite(wide), wide, np.min(wide, initial=0.0, where=np.isfinite(wide)))
    doubt = 1 / (len(labels) + 2)
    own = (1 - doubt) * wide[rows, labels] + doubt * wide.mean(axis=1)
    if not known.any():
        return Calibration(1.0, logsumexp(wide, axis=1) - own)
    counted = known if weights is None else known * weights

    def losses(log_temperature: float) -> NDArray[np.float64]:
        heat = np.exp(-log_temperature)
        found: NDArray[np.float64] = logsumexp(wide * heat, axis=1) - own * heat
        return found

    found = minimize_scalar(
        lambda at: np.average(losses(at), weights=counted),
        bounds=np.log(RANGE),
        method="bounded",
        options={"xatol": 1e-3},
    )
    return Calibration(float(np.exp(found.x)), losses(found.x))
