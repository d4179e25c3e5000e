"""The networks: the baseline, which is trained from scratch, and VGG16 with a new top."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from extract.vgg16 import keras_model
from extract.vgg16.architecture import CONVOLUTIONS
from extract.vgg16.keras_backend import keras
from finetune.train.request import UNFREEZE, FinetunedOptions

BASELINE_SIZE = 96
BASELINE_FILTERS = (32, 64, 128, 128)
DROPOUT = 0.5
TOP_TAP = "block5_avg3x3"
"""Input of the new top. The cached features have it, so fitting the top needs no photos."""

FROZEN_OUTPUT = {"block5": "block4_pool", "block4": "block3_pool"}
"""The last frozen layer for each value of `UNFREEZE` that leaves layers frozen."""


def baseline(classes: int, *, batch_norm: bool = False, precision: str = "float32") -> keras.Model:
    """Build the small network that is trained from scratch.

    It has four convolutions, each followed by pooling, then dropout and softmax.

    Parameters
    ----------
    classes : int
    batch_norm : bool
        Whether a batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) follows each
        convolution.
    precision : str
        Keras dtype policy of all layers but the softmax, such as ``mixed_float16``.

    Returns
    -------
    keras.Model
        (n, 96, 96, 3) RGB 0..255 to (n, classes) probabilities.
    """
    photos = keras.Input((BASELINE_SIZE, BASELINE_SIZE, 3), name="rgb")
    x = keras.layers.Rescaling(2 / 255, offset=-1)(photos)
    for filters in BASELINE_FILTERS:
        x = keras.layers.Conv2D(
            filters,
            3,
            padding="same",
            use_bias=not batch_norm,
            # It keeps the variance of what passes a ReLU (He et al., arXiv 1502.01852).
            kernel_initializer="he_normal",
            dtype=precision,
        )(x)
        if batch_norm:
            # With few photos an epoch has few steps. At Keras's default of 0.99 the moving means
            # would lag several epochs behind.
            x = keras.layers.BatchNormalization(momentum=0.9, dtype=precision)(x)
        x = keras.layers.ReLU(dtype=precision)(x)
        x = keras.layers.MaxPooling2D(2, dtype=precision)(x)
    x = keras.layers.Flatten(dtype=precision)(x)
    x = keras.layers.Dropout(DROPOUT, dtype=precision)(x)
    # It begins with the same probability for every class. Random weights for 4,608 inputs would
    # begin with a loss far above that of chance, and the first steps would undo them.
    dense = keras.layers.Dense(classes, activation="softmax", kernel_initializer="zeros")
    return keras.Model(photos, dense(x), name="baseline")


def top(taps: NDArray[np.float32], classes: int, *, logarithm: bool) -> keras.Model:
    """Build the new top: optional logarithm, L2 norm, centring, dropout, softmax.

    Parameters
    ----------
    taps : ndarray of shape (n, d), float32
        `TOP_TAP` of the training photos. They determine the mean and variance that the centring
        uses.
    classes : int
    logarithm : bool
        Whether log(1 + x) is taken of the taps. It shortens their long tail, as the square root
        does in the heads. The square root has an infinite slope at 0, where most taps are; the
        slope of log(1 + x) is 1 there.

    Returns
    -------
    keras.Model
        (n, d) to (n, classes) probabilities.
    """
    rows = np.log1p(taps) if logarithm else taps
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    # As in the heads, all columns share one variance, so that a column that hardly varies does not
    # count as much as the others.
    variance = np.full(rows.shape[1], rows.var(axis=0).mean())
    inputs = keras.Input((taps.shape[1],), name="taps")
    x = keras.ops.log1p(inputs) if logarithm else inputs
    x = keras.layers.UnitNormalization(name="unit")(x)
    x = keras.layers.Normalization(mean=rows.mean(axis=0), variance=variance, name="centred")(x)
    x = keras.layers.Dropout(DROPOUT)(x)
    dense = keras.layers.Dense(classes, activation="softmax", kernel_initializer="zeros")
    return keras.Model(inputs, dense(x), name="top")


def vgg16_with(
    top: keras.Model,
    arrays: Sequence[NDArray[np.float32]],
    *,
    precision: str = "float32",
    name: str = FinetunedOptions.model,
) -> keras.Model:
    """Put a top on VGG16 and freeze all convolutions.

    Parameters
    ----------
    top : keras.Model
        It is shared with the new network, not copied: training one trains the other.
    arrays : sequence of 26 ndarrays
        As in `extract.vgg16.weights.Weights`.
    precision : str
        Keras dtype policy of the convolutions, such as ``mixed_float16``; `top` keeps its own.
    name : str
        The name of the network.

    Returns
    -------
    keras.Model
        (n, 224, 224, 3) RGB 0..255 to (n, classes) probabilities.
    """
    base = keras_model.convolutions(arrays, precision=precision)
    for layer in base.layers:
        layer.trainable = False
    return keras.Model(base.input, top(keras_model.taps(base)[TOP_TAP]), name=name)


def unfreeze(network: keras.Model, start: str) -> None:
    """Make the convolutions from `start`, a key of `UNFREEZE`, to the last one trainable."""
    names = list(CONVOLUTIONS)
    for name in names[names.index(UNFREEZE[start]) :]:
        network.get_layer(name).trainable = True


def rate_factors(network: keras.Model, *, layer_decay: float) -> list[float]:
    """Return the share of the learning rate that each trainable variable has, in their order.

    The top has all of it, VGG16's last convolution has `layer_decay` of it, and so on.
    """
    after = {name: number for number, name in enumerate(reversed(CONVOLUTIONS), start=1)}
    layers = [variable.path.split("/")[0] for variable in network.trainable_variables]
    return [layer_decay ** after.get(layer, 0) for layer in layers]


def parts_of(network: keras.Model) -> tuple[keras.Model, list[NDArray[np.float32]]]:
    """Return the top of a network that `vgg16_with` made, and the arrays of its convolutions."""
    arrays = [array for name in CONVOLUTIONS for array in network.get_layer(name).get_weights()]
    return network.get_layer("top"), arrays


def tail(network: keras.Model, start: str) -> keras.Model:
    """Return the layers of `network` after the frozen ones; they are shared, not copied.

    Parameters
    ----------
    network : keras.Model
        As `vgg16_with` returns it.
    start : str
        Key of `FROZEN_OUTPUT`.

    Returns
    -------
    keras.Model
        Activations of the layer ``FROZEN_OUTPUT[start]`` to probabilities.
    """
    return keras.Model(
        network.get_layer(FROZEN_OUTPUT[start]).output, network.output, name=network.name
    )
