"""Engines: a batch of photos in, every tap of the recipe out."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.backend import keras
from extract.vgg16 import convolutions, taps
from extract.weights import Weights

Taps = dict[str, NDArray[np.float32]]


class Engine(NamedTuple):
    """What runs VGG16.

    Attributes
    ----------
    name : str
        For the record in each shard.
    forward : callable
        (n, 224, 224, 3) uint8 RGB to a dict of tap name to (n, values) float32.
    """

    name: str
    forward: Callable[[NDArray[np.uint8]], Taps]


def keras_engine(weights: Weights) -> Engine:
    """Build the reference engine: VGG16 in Keras, on whatever backend Keras has."""
    network = convolutions(weights.arrays)
    network = keras.Model(network.input, taps(network))

    def forward(photos: NDArray[np.uint8]) -> Taps:
        outputs = network.predict_on_batch(photos)
        return {tap: np.asarray(values, dtype=np.float32) for tap, values in outputs.items()}

    return Engine(f"keras {keras.__version__} on {keras.backend.backend()}", forward)
