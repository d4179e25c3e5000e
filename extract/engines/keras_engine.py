"""The reference engine: VGG16 in Keras, on any of its backends."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extract.engines.base import Engine, Taps
from extract.system.console import InputError
from extract.vgg16 import keras_model
from extract.vgg16.architecture import weight_shapes
from extract.vgg16.keras_backend import inference_function, keras, load
from extract.vgg16.recipe import MAPS, SIZE, SIZES, TAPS
from extract.vgg16.weights import Weights

Probabilities = NDArray[np.float32]

MOST_INPUTS = 10_000
"""More than the last layer of any network here has inputs: the baseline's has 8,192."""

SLACK = 16_000_000
"""Bytes that the file of a network may have besides its weights."""


def build(weights: Weights, *, outputs: Iterable[str] = tuple(TAPS), size: int = SIZE) -> Engine:
    """Build the engine that computes some outputs for photos of a size.

    Parameters
    ----------
    weights : Weights
    outputs : iterable of str
        Keys of `extract.vgg16.recipe.TAPS` and, for photos of the usual size, of `MAPS`. The
        network ends at the deepest of them.
    size : int
    """
    network = keras_model.convolutions(weights.arrays, size=size)
    available = {layer: network.get_layer(layer).output for layer in MAPS}
    available |= keras_model.taps(network)
    return _engine(keras.Model(network.input, {name: available[name] for name in outputs}))


def largest(classes: int) -> int:
    """Return the most bytes that the file of a trained network with so many classes may have."""
    convolutions = sum(math.prod(shape) for shape in weight_shapes())
    # Files may also hold two moments of each weight, of training, which are not read.
    return SLACK + 3 * 4 * (convolutions + MOST_INPUTS * classes)


def load_network(
    path: Path, members: Mapping[str, bytes], *, classes: int
) -> tuple[int, Callable[[NDArray[np.uint8]], Probabilities]]:
    """Restore a trained and saved network that turns photos into probabilities.

    Parameters
    ----------
    path : Path
        Where it comes from, for messages.
    members : mapping of str to bytes
        The members of its file, see `extract.system.bounded.members`.
    classes : int

    Returns
    -------
    size : int
        Side of its photos in pixels.
    run : callable
        A function from photos, (n, size, size, 3) uint8 RGB, to (n, classes) float32.

    Raises
    ------
    InputError
        If the file does not hold such a network.
    """
    network = load(path, members)
    shape = getattr(network, "input_shape", None)
    size: int = shape[1] if isinstance(shape, tuple) and len(shape) == 4 else 0
    is_ours = shape == (None, size, size, 3) and size in range(1, max(SIZES) + 1)
    if not is_ours or network.output_shape != (None, classes):
        raise InputError(f"{path}: not the network of its result.json; run make finetune")
    run = inference_function(network)
    return size, lambda photos: np.asarray(run(photos), dtype=np.float32)


def _engine(network: keras.Model) -> Engine:
    run = inference_function(network)

    def forward(photos: NDArray[np.uint8]) -> Taps:
        return {tap: np.asarray(values, dtype=np.float32) for tap, values in run(photos).items()}

    return Engine(f"keras {keras.__version__} on {keras.backend.backend()}", forward)
