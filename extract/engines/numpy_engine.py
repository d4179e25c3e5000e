"""VGG16 by NumPy: the reference where Keras is not installed."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from extract.engines.base import Engine, Taps
from extract.vgg16 import pooling
from extract.vgg16.architecture import IMAGENET_MEANS_BGR, MaxPool, layers_for
from extract.vgg16.pooling import Map
from extract.vgg16.recipe import ALL_TAPS, TAPS
from extract.vgg16.weights import Weights

ROWS = 32
"""Rows of a map that are convolved at once, which bounds the memory."""


def build(weights: Weights, *, outputs: Sequence[str] = tuple(TAPS)) -> Engine:
    """Build the engine that computes some taps for photos of any size, in float32.

    It has direct convolutions, as Keras has, so it can judge those of Winograd.

    Parameters
    ----------
    weights : Weights
    outputs : sequence of str
        Keys of `extract.vgg16.recipe.ALL_TAPS`.
    """
    names = [tap for tap in ALL_TAPS if tap in outputs]
    wanted = {pooling.MAP_OF[name] for name in names}

    def forward(photos: NDArray[np.uint8]) -> Taps:
        each = [pooling.taps(_maps(photo, weights.arrays, wanted), names) for photo in photos]
        return {name: np.concatenate([taps[name] for taps in each]) for name in names}

    return Engine(f"numpy {np.__version__}", forward)


def _maps(
    photo: NDArray[np.uint8], arrays: Sequence[NDArray[np.float32]], wanted: Collection[str]
) -> dict[str, Map]:
    """Return the maps of some convolutions for a photo."""
    x = photo[..., ::-1].astype(np.float32) - np.array(IMAGENET_MEANS_BGR, np.float32)
    parameters = iter(arrays)
    found = {}
    for layer in layers_for(wanted):
        if isinstance(layer, MaxPool):
            x = pooling.halved(x)
        else:
            x = _convolved(x, next(parameters), next(parameters))
        if layer.name in wanted:
            found[layer.name] = x
    return found


def _convolved(x: Map, kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> Map:
    """Return a map convolved with zeros around it, plus the bias, after ReLU."""
    height, width, _ = x.shape
    # The inputs of each position: (height, width, channels, 3, 3).
    inputs = sliding_window_view(np.pad(x, ((1, 1), (1, 1), (0, 0))), (3, 3), (0, 1))
    columns = kernel.reshape(-1, len(bias))
    found = np.empty((height, width, len(bias)), np.float32)
    for start in range(0, height, ROWS):
        rows = inputs[start : start + ROWS].transpose(0, 1, 3, 4, 2)
        found[start : start + ROWS] = rows.reshape(*rows.shape[:2], -1) @ columns
    found += bias
    return np.maximum(found, 0, out=found)
