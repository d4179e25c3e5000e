"""VGG16 in Keras: preprocessing, convolutions, taps.

Preprocessing belongs to the weights, so it is the network's first layer: it takes RGB 0..255.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
from extract.vgg16.recipe import SIZE

POOLINGS = {
    "avg": keras.layers.GlobalAveragePooling2D,
    "max": keras.layers.GlobalMaxPooling2D,
}


def convolutions(
    arrays: Sequence[NDArray[np.float32]], *, size: int = SIZE, precision: str = "float32"
) -> keras.Model:
    """Build VGG16's convolutions with their weights, named as Keras names them.

    Parameters
    ----------
    arrays : sequence of 26 ndarrays
        Kernels and biases as in `extract.vgg16.weights.Weights`.
    size : int
        One of `extract.vgg16.recipe.SIZES`.
    precision : str
        Dtype policy of all layers but the preprocessing, for example ``mixed_float16``.

    Returns
    -------
    keras.Model
        A model from (n, size, size, 3) RGB 0..255 to (n, size / 32, size / 32, 512).
    """
    photos = keras.Input((size, size, 3), name="rgb")
    # A Lambda layer could do the same, but a file that holds one cannot be loaded in safe mode.
    to_bgr = keras.layers.Conv2D(3, 1, trainable=False, name="rgb_to_bgr_minus_means")
    x = to_bgr(photos)
    for layer in LAYERS:
        x = _keras_layer(layer, precision)(x)
    network = keras.Model(photos, x, name="vgg16")
    to_bgr.set_weights(preprocessing())
    for index, name in enumerate(CONVOLUTIONS):
        network.get_layer(name).set_weights(arrays[2 * index : 2 * index + 2])
    return network


def taps(network: keras.Model) -> dict[str, keras.KerasTensor]:
    """Return every tap of the recipe as an output of `network`, each of shape (n, values)."""
    window, stride = windows(network.input.shape[1])
    outputs = {}
    for tap in TAP_LAYERS:
        source = network.get_layer(tap.source).output
        if tap.pooling == "avg3x3":
            averages = keras.layers.AveragePooling2D(window, strides=stride)(source)
            outputs[tap.name] = keras.layers.Flatten(name=tap.name)(averages)
        else:
            outputs[tap.name] = POOLINGS[tap.pooling](name=tap.name)(source)
    return outputs


def _keras_layer(layer: Convolution | MaxPool, precision: str) -> keras.layers.Layer:
    if isinstance(layer, MaxPool):
        return keras.layers.MaxPooling2D(2, name=layer.name, dtype=precision)
    return keras.layers.Conv2D(
        layer.filters, 3, padding="same", activation="relu", name=layer.name, dtype=precision
    )
