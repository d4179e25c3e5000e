"""Networks: the baseline trained from scratch, and VGG16 with a new top."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from extract import vgg16
from extract.backend import keras
from extract.weights import LAYERS

BASELINE_SIZE = 128
BASELINE_FILTERS = (32, 64, 128, 128)
DROPOUT = 0.5
TOP_TAPS = ("block5_avg", "block5_avg3x3", "block5_max")
"""What the new top sees: block5 pooled in three ways, so its first training needs no photos."""

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


def top(features: NDArray[np.float32], classes: int) -> keras.Model:
    """Build the new top: logarithms of the taps, standardised, dropout, softmax.

    Parameters
    ----------
    features : ndarray of shape (n, d), float32
        `TOP_TAPS` of the training photos side by side; only their mean and variance are used.
    classes : int

    Returns
    -------
    keras.Model
        (n, d) to (n, classes) probabilities.
    """
    logarithms = np.log1p(features)
    mean, variance = logarithms.mean(axis=0), logarithms.var(axis=0)
    # A value that never varied in training must not explode on the first photo where it does.
    variance = np.maximum(variance, 1e-3 * variance.mean())
    taps = keras.Input((features.shape[1],), name="taps")
    # A logarithm takes the long tail of the taps as a square root does, but where a tap is 0, as
    # most are, its slope is 1 and not infinite.
    x = keras.ops.log1p(taps)
    x = keras.layers.Normalization(mean=mean, variance=variance, name="standardised")(x)
    x = keras.layers.Dropout(DROPOUT)(x)
    dense = keras.layers.Dense(classes, activation="softmax", kernel_initializer="zeros")
    return keras.Model(taps, dense(x), name="top")


def vgg16_with(
    top: keras.Model, arrays: Sequence[NDArray[np.float32]], *, precision: str = "float32"
) -> keras.Model:
    """Put a top on VGG16, all its convolutions frozen.

    Parameters
    ----------
    top : keras.Model
        Shared, not copied: training one trains the other.
    arrays : sequence of 26 ndarrays
        As in `extract.weights.Weights`.
    precision : str
        Dtype policy of the convolutions, ``mixed_float16`` for one; the top is as it is.

    Returns
    -------
    keras.Model
        (n, 224, 224, 3) RGB 0..255 to (n, classes) probabilities.
    """
    base = vgg16.convolutions(arrays, precision=precision)
    for layer in base.layers:
        layer.trainable = False
    taps = vgg16.taps(base)
    joined = keras.layers.Concatenate(name="taps")([taps[tap] for tap in TOP_TAPS])
    return keras.Model(base.input, top(joined), name="finetuned")


def unfreeze(network: keras.Model, start: str) -> None:
    """Let the convolutions from `start` (``block5``, ``block4`` or ``all``) on be trained."""
    names = list(LAYERS)
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
