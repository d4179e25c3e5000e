"""The frozen layers of a fine-tuned network, which an engine for VGG16 computes faster."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.vgg16.architecture import CONVOLUTIONS, LAYERS, preprocessing
from extract.vgg16.keras_backend import inference_function, keras
from extract.vgg16.keras_model import PREPROCESSING

FEWEST = 8
"""With fewer photos, Keras is done before an engine has started."""

Photos = NDArray[np.uint8]

Values = NDArray[np.float32]


class FrozenLayers(NamedTuple):
    """The layers of VGG16 up to one of them.

    Attributes
    ----------
    last : str
        A key of `extract.vgg16.recipe.MAPS`.
    arrays : sequence of ndarray
        See `extract.vgg16.weights.Weights`.
    maps : callable
        From photos, (n, size, size, 3) uint8 RGB, to the output of the last one, (n, height, width,
        channels) float32.
    """

    last: str
    arrays: Sequence[Values]
    maps: Callable[[Photos], Values]


def begins_with(network: keras.Model, frozen: FrozenLayers) -> bool:
    """Say whether these are the first layers of a network, with the same weights."""
    names = [layer.name for layer in LAYERS]
    before = [name for name in names[: names.index(frozen.last)] if name in CONVOLUTIONS]
    try:
        found = [
            array
            for name in (PREPROCESSING, *before)
            for array in network.get_layer(name).get_weights()
        ]
    except ValueError:
        return False
    expected = [*preprocessing(), *frozen.arrays[: 2 * len(before)]]
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


def function(network: keras.Model, frozen: FrozenLayers | None) -> Callable[[Photos], Values]:
    """Return a function from photos to the output of a network.

    Parameters
    ----------
    network : keras.Model
    frozen : FrozenLayers or None
        The first layers of the network, if an engine computes them of `FEWEST` photos or more.
    """
    whole = inference_function(network)
    if frozen is None:
        return lambda photos: np.asarray(whole(photos), np.float32)
    maps = frozen.maps
    last = network.get_layer(frozen.last)
    rest = inference_function(keras.Model(last.output, network.output), dtype="float32")

    def computed(photos: Photos) -> Values:
        found = whole(photos) if len(photos) < FEWEST else rest(maps(photos))
        return np.asarray(found, np.float32)

    return computed
