"""A fitted head as dense layers, from which other tools can rebuild it."""

from typing import NamedTuple

import numpy as np
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from classify.arrays import Matrix
from classify.heads import GaussianSVC, is_calibrated, tap_columns


class DenseHead(NamedTuple):
    """A head as a sequence of simple operations.

    Each tap is divided by its L2 norm, after a square root if `root` is true. The taps, side by
    side, go through the layers, with an activation between them and softmax after the last. The
    activation is ReLU or, if `gamma` is not 0, ``exp(h - gamma * ||x||^2)``, which makes the first
    layer a Gaussian kernel. If `floor` is finite, the scores h of the last layer become
    ``slope * log(1 + max(h, -1) / (1 + floor))`` before the softmax.

    Attributes
    ----------
    taps : list of str
        In the order of their columns.
    root : bool
        Whether the square root of every value is taken first.
    layers : list of (kernel, bias)
        Shapes (inputs, outputs) and (outputs,), float32. The last layer has one output per class.
    gamma : float
    by_block : bool
        Whether each tap then gets the norm that `classify.heads.block_norms` gives it.
    floor, slope : float
        The floor of `classify.calibration.Calibration`, and (1 + floor) / temperature.
    """

    taps: list[str]
    root: bool
    layers: list[tuple[Matrix, Matrix]]
    gamma: float = 0.0
    by_block: bool = False
    floor: float = np.inf
    slope: float = 1.0


def to_dense(head: Pipeline) -> DenseHead:
    """Take a fitted head apart; its centring becomes part of the bias of the first layer.

    Parameters
    ----------
    head : Pipeline
        Fitted by `classify.train.fit_head`.
    """
    per_tap, centre, classifier = head[0], head[1], head[2]
    gamma = 0.0
    if isinstance(classifier, GaussianSVC):
        # The distance between two rows does not depend on the centre.
        landmarks, gamma = classifier.landmarks_ + centre.mean_, classifier.gamma_
        norms = np.einsum("ij,ij->i", landmarks, landmarks)
        layers = [(2 * gamma * landmarks.T, -gamma * norms)]
        layers.append((classifier.coef_.T, classifier.intercept_))
    else:
        if isinstance(classifier, MLPClassifier):
            layers = list(zip(classifier.coefs_, classifier.intercepts_, strict=True))
        else:
            layers = [(classifier.coef_.T, classifier.intercept_)]
        kernel, bias = layers[0]
        layers[0] = kernel, bias - centre.mean_ @ kernel
    kernel, bias = layers[-1]
    floor, slope = np.inf, 1.0
    if kernel.shape[1] == 1:
        # With two classes only the second has a score; the logistic function of it is a softmax
        # in which the first class has the score 0, and in least squares that times -1.
        first = -1 if is_calibrated(classifier) else 0
        kernel, bias = np.hstack([first * kernel, kernel]), np.append(first * bias, bias)
    if is_calibrated(classifier):
        floor = classifier.floor_
        if np.isfinite(floor):
            slope = (1 + floor) / classifier.temperature_
        else:
            kernel, bias = kernel / classifier.temperature_, bias / classifier.temperature_
    layers[-1] = kernel, bias
    return DenseHead(
        list(tap_columns(head)),
        isinstance(per_tap.transformers_[0][1][0], FunctionTransformer),
        [(kernel.astype(np.float32), bias.astype(np.float32)) for kernel, bias in layers],
        float(gamma),
        per_tap.transformer_weights is not None,
        floor,
        slope,
    )
