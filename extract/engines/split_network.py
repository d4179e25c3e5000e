"""A trained network in two parts: photos to its last maps, and these maps to scores."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.engines import frozen_layers
from extract.engines.frozen_layers import Load
from extract.vgg16.keras_backend import keras

POOLINGS = (keras.layers.AveragePooling2D, keras.layers.MaxPooling2D)


class SplitNetwork(NamedTuple):
    """The two parts of a network.

    Attributes
    ----------
    maps : callable
        From photos, (n, size, size, 3) uint8 RGB, to the last maps before any pooling that ends the
        network's view of places, (n, height, width, channels) float32.
    scores : callable
        From these maps to scores whose softmax is the probabilities, (n, classes) float32.
    """

    maps: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    scores: Callable[[NDArray[np.float32]], NDArray[np.float32]]


def split(network: keras.Model, load_frozen: Load = lambda: None) -> SplitNetwork:
    """Split a network whose layers follow one another; it may end with a network inside it.

    Parameters
    ----------
    network : keras.Model
    load_frozen : callable
        See `extract.engines.frozen_layers.function`.

    Raises
    ------
    ValueError
        If it is no such network.
    """
    places = [
        layer
        for layer in network.layers
        if len(getattr(layer.output, "shape", ())) == 4 and not isinstance(layer, POOLINGS)
    ]
    if not places:
        raise ValueError("it has no maps")
    last_map = places[-1].output
    parts, dense = _rest(network, last_map)
    maps = frozen_layers.function(keras.Model(network.input, last_map), load_frozen)
    kernel, bias = (np.asarray(weight, np.float32) for weight in dense.get_weights())

    def scores(maps: NDArray[np.float32]) -> NDArray[np.float32]:
        rows = maps
        for part in parts:
            rows = np.asarray(part.predict_on_batch(rows), np.float32)
        found: NDArray[np.float32] = rows @ kernel + bias
        return found

    return SplitNetwork(maps, scores)


def _rest(network: keras.Model, start: keras.KerasTensor) -> tuple[list[keras.Model], keras.Layer]:
    """Return the parts after a map, the last of which ends before the softmax, and its layer."""
    parts = []
    while True:
        last, before = network.layers[-1], network.layers[-2].output
        parts.append(keras.Model(start, before))
        if not isinstance(last, keras.Model):
            break
        network, start = last, last.input
    softmax = keras.activations.get("softmax")
    if not isinstance(last, keras.layers.Dense) or last.activation != softmax or not last.use_bias:
        raise ValueError("it does not end with a softmax")
    return parts, last
