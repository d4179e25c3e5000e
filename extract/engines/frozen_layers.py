"""The frozen layers of a fine-tuned network, which an engine for VGG16 computes faster."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.vgg16.architecture import CONVOLUTIONS, LAYERS, preprocessing
from extract.vgg16.keras_backend import inference_function, keras
from extract.vgg16.keras_model import PREPROCESSING

FEWEST = 8
"""An engine has to start first. With 8 photos it took about as long as Keras."""

Photos = NDArray[np.uint8]

Values = NDArray[np.float32]


class FrozenLayers(NamedTuple):
    """The layers of VGG16 up to one of them, as an engine computes them.

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


Load = Callable[[], FrozenLayers | None]
"""Returns the frozen layers of a network; None if no engine is known to be faster."""


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


def function(network: keras.Model, load: Load) -> Callable[[Photos], Values]:
    """Return a function from photos to the output of a network.

    Parameters
    ----------
    network : keras.Model
    load : callable
        It is called when `FEWEST` photos or more come for the first time. What it returns is used
        for these and later ones, if the network begins with it.
    """
    whole = inference_function(network)

    @cache
    def fastest() -> Callable[[Photos], Any]:
        frozen = load()
        if frozen is None or not begins_with(network, frozen):
            return whole
        last = network.get_layer(frozen.last).output
        rest = inference_function(keras.Model(last, network.output), dtype="float32")
        return lambda photos: rest(frozen.maps(photos))

    def computed(photos: Photos) -> Values:
        run = whole if len(photos) < FEWEST else fastest()
        return np.asarray(run(photos), np.float32)

    return computed
