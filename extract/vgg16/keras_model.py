"""VGG16 in Keras: its preprocessing, its 13 convolutions, its taps.

Preprocessing belongs to the weights and is the network's first layer: photos go in as RGB 0..255.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from extract.vgg16.architecture import IMAGENET_MEANS_BGR, LAYERS
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import SIZE, TAPS, windows


def convolutions(
    arrays: Sequence[NDArray[np.float32]], *, size: int = SIZE, precision: str = "float32"
) -> keras.Model:
    """Build VGG16's convolutions with their weights, named as Keras names them.

    Parameters
    ----------
    arrays : sequence of 26 ndarrays
        As in `extract.vgg16.weights.Weights`.
    size : int
        One of `extract.vgg16.recipe.SIZES`.
    precision : str
        Dtype policy of all but the preprocessing, ``mixed_float16`` for one.

    Returns
    -------
    keras.Model
        (n, size, size, 3) RGB 0..255 to (n, size / 32, size / 32, 512).
    """
    photos = keras.Input((size, size, 3), name="rgb")
    # A 1 x 1 convolution reorders the channels exactly and is saved and exported by every format,
    # where a Lambda layer would need code to be trusted on loading.
    preprocess = keras.layers.Conv2D(3, 1, trainable=False, name="rgb_to_bgr_minus_means")
    x = preprocess(photos)
    for index, (name, filters) in enumerate(LAYERS.items()):
        block = name.split("_")[0]
        x = keras.layers.Conv2D(
            filters, 3, padding="same", activation="relu", name=name, dtype=precision
        )(x)
        following = list(LAYERS)[index + 1 : index + 2]
        if not following or not following[0].startswith(block):
            x = keras.layers.MaxPooling2D(2, name=f"{block}_pool", dtype=precision)(x)
    network = keras.Model(photos, x, name="vgg16")
    flip = np.eye(3)[::-1].reshape(1, 1, 3, 3)
    preprocess.set_weights([flip, -np.array(IMAGENET_MEANS_BGR)])
    for index, name in enumerate(LAYERS):
        network.get_layer(name).set_weights(arrays[2 * index : 2 * index + 2])
    return network


def taps(network: keras.Model) -> dict[str, keras.KerasTensor]:
    """Return every tap of the recipe as an output of `network`, each of shape (n, values)."""
    last = {name.split("_")[0]: name for name in LAYERS}
    window, stride = windows(network.input.shape[1])
    outputs = {}
    for tap in TAPS:
        block, pooling = tap.split("_")
        if pooling == "avg3x3":
            x = keras.layers.AveragePooling2D(window, strides=stride)(
                network.get_layer(f"{block}_pool").output
            )
            outputs[tap] = keras.layers.Flatten(name=tap)(x)
        else:
            x = network.get_layer(last[block]).output
            outputs[tap] = _POOLINGS[pooling](name=tap)(x)
    return outputs


_POOLINGS = {
    "avg": keras.layers.GlobalAveragePooling2D,
    "max": keras.layers.GlobalMaxPooling2D,
}
