"""The reference engine: VGG16 in Keras, on whatever backend Keras has."""

import numpy as np
from numpy.typing import NDArray

from extract.backend import compiled, keras
from extract.engines import Engine, Taps
from extract.recipe import SIZE
from extract.vgg16 import convolutions, taps
from extract.weights import Weights


def build(weights: Weights, *, size: int = SIZE) -> Engine:
    """Build the engine of the taps from VGG16's weights, for photos of a size."""
    network = convolutions(weights.arrays, size=size)
    return _engine(keras.Model(network.input, taps(network)))


def giving(layer: str, weights: Weights) -> Engine:
    """Build an engine that gives what `layer` gives: (n, height, width, channels)."""
    network = convolutions(weights.arrays)
    return _engine(keras.Model(network.input, {layer: network.get_layer(layer).output}))


def _engine(network: keras.Model) -> Engine:
    run = compiled(network)

    def forward(photos: NDArray[np.uint8]) -> Taps:
        return {tap: np.asarray(values, dtype=np.float32) for tap, values in run(photos).items()}

    return Engine(f"keras {keras.__version__} on {keras.backend.backend()}", forward)
