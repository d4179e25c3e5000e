"""Networks: the baseline trained from scratch, and VGG16 with a new top."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from extract.vgg16 import keras_model
from extract.vgg16.architecture import CONVOLUTIONS
from extract.vgg16.keras_backend import keras

BASELINE_SIZE = 128
BASELINE_FILTERS = (32, 64, 128, 128)
DROPOUT = 0.5
TOP_TAP = "block5_avg3x3"
"""What the new top sees, so its first training needs no photos."""

TRAINED_FROM = {"block5": "block5_conv1", "block4": "block4_conv1", "all": "block1_conv1"}
ENTERED_BY = {"block5": "block4_pool", "block4": "block3_pool"}
"""What the trained layers are given, where frozen ones come before them."""


def baseline(classes: int, *, batch_norm: bool = False, precision: str = "float32") -> keras.Model:
    """Build the small network that is trained from scratch.

    Four convolutions, each with pooling, then dropout and softmax.

    Parameters
    ----------
    classes : int
    batch_norm : bool
        Normalise what each convolution gives by the batch's mean and variance (Ioffe and Szegedy,
        arXiv 1502.03167).
    precision : str
        Dtype policy of all but the softmax, ``mixed_float16`` for one.

    Returns
    -------
    keras.Model
        (n, 128, 128, 3) RGB 0..255 to (n, classes) probabilities.
    """
    photos = keras.Input((BASELINE_SIZE, BASELINE_SIZE, 3), name="rgb")
    x = keras.layers.Rescaling(1 / 255)(photos)
    for filters in BASELINE_FILTERS:
        x = keras.layers.Conv2D(
            filters, 3, padding="same", use_bias=not batch_norm, dtype=precision
        )(x)
        if batch_norm:
            # Few photos are few steps: with Keras's 0.99 the means would lag epochs behind.
            x = keras.layers.BatchNormalization(momentum=0.9, dtype=precision)(x)
        x = keras.layers.ReLU(dtype=precision)(x)
        x = keras.layers.MaxPooling2D(2, dtype=precision)(x)
    x = keras.layers.Flatten(dtype=precision)(x)
    x = keras.layers.Dropout(DROPOUT, dtype=precision)(x)
    return keras.Model(
        photos, keras.layers.Dense(classes, activation="softmax")(x), name="baseline"
    )


def top(taps: NDArray[np.float32], classes: int, *, logarithm: bool) -> keras.Model:
    """Build the new top: logarithms or not, L2 norm, centring, dropout, softmax.

    Parameters
    ----------
    taps : ndarray of shape (n, d), float32
        `TOP_TAP` of the training photos; only mean and variance of what the norm leaves are used.
    classes : int
    logarithm : bool
        Whether the taps' logarithms are taken. They draw in the long tail of the taps as the square
        roots of the heads do, but where a tap is 0, as most are, their slope is 1 and not infinite.

    Returns
    -------
    keras.Model
        (n, d) to (n, classes) probabilities.
    """
    rows = np.log1p(taps) if logarithm else taps
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    # One variance for all, as in the heads: what hardly varied must not count for as much.
    variance = np.full(rows.shape[1], rows.var(axis=0).mean())
    given = keras.Input((taps.shape[1],), name="taps")
    x = keras.ops.log1p(given) if logarithm else given
    x = keras.layers.UnitNormalization(name="unit")(x)
    x = keras.layers.Normalization(mean=rows.mean(axis=0), variance=variance, name="centred")(x)
    x = keras.layers.Dropout(DROPOUT)(x)
    dense = keras.layers.Dense(classes, activation="softmax", kernel_initializer="zeros")
    return keras.Model(given, dense(x), name="top")


def vgg16_with(
    top: keras.Model, arrays: Sequence[NDArray[np.float32]], *, precision: str = "float32"
) -> keras.Model:
    """Put a top on VGG16, all its convolutions frozen.

    Parameters
    ----------
    top : keras.Model
        Shared, not copied: training one trains the other.
    arrays : sequence of 26 ndarrays
        As in `extract.vgg16.weights.Weights`.
    precision : str
        Dtype policy of the convolutions, ``mixed_float16`` for one; the top is as it is.

    Returns
    -------
    keras.Model
        (n, 224, 224, 3) RGB 0..255 to (n, classes) probabilities.
    """
    base = keras_model.convolutions(arrays, precision=precision)
    for layer in base.layers:
        layer.trainable = False
    return keras.Model(base.input, top(keras_model.taps(base)[TOP_TAP]), name="finetuned")


def unfreeze(network: keras.Model, start: str) -> None:
    """Let the convolutions from `start` (``block5``, ``block4`` or ``all``) on be trained."""
    names = list(CONVOLUTIONS)
    for name in names[names.index(TRAINED_FROM[start]) :]:
        network.get_layer(name).trainable = True


def tail(network: keras.Model, start: str) -> keras.Model:
    """Return the part of `network` that is trained from `start` on; its layers are shared.

    Returns
    -------
    keras.Model
        Activations of the layer ``ENTERED_BY[start]`` to probabilities.
    """
    return keras.Model(network.get_layer(ENTERED_BY[start]).output, network.output, name=start)
