"""A fitted head as plain arrays, to be built into a network elsewhere."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from classify.heads import places

Matrix = NDArray[np.float32]


class Folded(NamedTuple):
    """What a head does with taps: root or not, L2 norm of each, side by side, layers, softmax.

    Attributes
    ----------
    taps : list of str
        In the order of their columns.
    root : bool
        Whether square roots are taken first.
    layers : list of (kernel, bias)
        Of shapes (inputs, outputs) and (outputs,), float32; between them negative values become 0.
        The last one has an output a class.
    """

    taps: list[str]
    root: bool
    layers: list[tuple[Matrix, Matrix]]


def fold(head: Pipeline) -> Folded:
    """Take a head apart; its centring goes into the bias of its first layer.

    Parameters
    ----------
    head : Pipeline
        Fitted, see `classify.search`.
    """
    per_tap, centre, classifier = head[0], head[1], head[2]
    if isinstance(classifier, MLPClassifier):
        layers = list(zip(classifier.coefs_, classifier.intercepts_, strict=True))
    else:
        layers = [(classifier.coef_.T, classifier.intercept_)]
    kernel, bias = layers[0]
    layers[0] = kernel, bias - centre.mean_ @ kernel
    kernel, bias = layers[-1]
    if kernel.shape[1] == 1:
        # Of two classes only the second has a score, and the logistic function is a softmax with 0.
        layers[-1] = np.hstack([np.zeros_like(kernel), kernel]), np.append(0, bias)
    return Folded(
        list(places(head)),
        isinstance(per_tap.transformers_[0][1][0], FunctionTransformer),
        [(kernel.astype(np.float32), bias.astype(np.float32)) for kernel, bias in layers],
    )
