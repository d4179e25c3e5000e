"""VGG16 in Keras: preprocessing, convolutions, taps.

Preprocessing belongs to the weights, so it is the network's first layer: it takes RGB 0..255.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from extract.vgg16 import pairs
from extract.vgg16.architecture import (
    CONVOLUTIONS,
    LAYERS,
    TAP_LAYERS,
    Convolution,
    MaxPool,
    preprocessing,
    windows,
)
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import SIZE, TAPS, named

POOLINGS = {
    "avg": keras.layers.GlobalAveragePooling2D,
    "max": keras.layers.GlobalMaxPooling2D,
}


PREPROCESSING = "rgb_to_bgr_minus_means"
"""The name of the first layer."""

SOURCES = tuple(dict.fromkeys(tap.source for tap in TAP_LAYERS))
"""The layers whose outputs the taps pool."""


def convolutions(
    arrays: Sequence[NDArray[np.float32]], *, size: int | None = SIZE, precision: str = "float32"
) -> keras.Model:
    """Build VGG16's convolutions with their weights, named as Keras names them.

    Parameters
    ----------
    arrays : sequence of 26 ndarrays
        Kernels and biases as in `extract.vgg16.weights.Weights`.
    size : int or None
        One of `extract.vgg16.recipe.SIZES`. None takes photos of every size.
    precision : str
        Dtype policy of all layers but the preprocessing, for example ``mixed_float16``.

    Returns
    -------
    keras.Model
        A model from (n, size, size, 3) RGB 0..255 to (n, size / 32, size / 32, 512).
    """
    photos = keras.Input((size, size, 3), name="rgb")
    # A Lambda layer could do the same, but a file that holds one cannot be loaded in safe mode.
    to_bgr = keras.layers.Conv2D(3, 1, trainable=False, name=PREPROCESSING)
    x = to_bgr(photos)
    for layer in LAYERS:
        x = _keras_layer(layer, precision)(x)
    network = keras.Model(photos, x, name="vgg16")
    to_bgr.set_weights(preprocessing())
    for index, name in enumerate(CONVOLUTIONS):
        network.get_layer(name).set_weights(arrays[2 * index : 2 * index + 2])
    return network


def taps(network: keras.Model, names: Iterable[str] = tuple(TAPS)) -> dict[str, keras.KerasTensor]:
    """Return taps as outputs of `network`, each of shape (n, values)."""
    outputs = {name: network.get_layer(name).output for name in SOURCES}
    return pooled(outputs, names, size=network.input.shape[1])


def pooled(
    outputs: Mapping[str, keras.KerasTensor], names: Iterable[str], *, size: int
) -> dict[str, keras.KerasTensor]:
    """Return taps, each of shape (n, values), from the outputs of `SOURCES` at a size."""
    window, stride = windows(size)
    taps = {}
    for tap in TAP_LAYERS:
        if tap.name not in names:
            continue
        source, name = outputs[tap.source], named(tap.name, size)
        if tap.pooling == "avg3x3":
            averages = keras.layers.AveragePooling2D(window, strides=stride)(source)
            taps[tap.name] = keras.layers.Flatten(name=name)(averages)
        elif tap.pooling == "pairs":
            taps[tap.name] = _pairs(source, tap.positions(size))
        else:
            taps[tap.name] = POOLINGS[tap.pooling](name=name)(source)
    return taps


def _pairs(source: keras.KerasTensor, positions: int) -> keras.KerasTensor:
    """Return the tap of pairs of a map, in float32 whatever the format of the map."""
    ops = keras.ops
    values = keras.layers.Reshape((-1, pairs.CHANNELS))(ops.cast(source, "float32"))
    products = ops.matmul(ops.transpose(values, (0, 2, 1)), values) / positions
    return pairs.in_bins(keras.layers.Flatten()(products), ops)


def _keras_layer(layer: Convolution | MaxPool, precision: str) -> keras.layers.Layer:
    if isinstance(layer, MaxPool):
        return keras.layers.MaxPooling2D(2, name=layer.name, dtype=precision)
    return keras.layers.Conv2D(
        layer.filters, 3, padding="same", activation="relu", name=layer.name, dtype=precision
    )
