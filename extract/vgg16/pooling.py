"""The taps of one photo in NumPy, from the maps of VGG16's convolutions."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from extract.vgg16 import pairs
from extract.vgg16.architecture import TAP_LAYERS
from extract.vgg16.architecture import windows as windows_of

Map = NDArray[np.float32]
"""The activations of a layer for one photo, (height, width, channels)."""

MAP_OF = {tap.name: tap.source.replace("_pool", "_conv3") for tap in TAP_LAYERS}
"""The convolution whose map each tap is computed from."""


def taps(maps: Mapping[str, Map], names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Return taps of a photo, each of shape (1, values), from the maps of `MAP_OF`."""
    pooled = {tap.name: tap.pooling for tap in TAP_LAYERS}
    found = {}
    for name in names:
        values = maps[MAP_OF[name]]
        if pooled[name] == "avg3x3":
            found[name] = windows(halved(values)).reshape(1, -1)
        elif pooled[name] == "pairs":
            found[name] = pairs.in_bins(products(halved(values))[None])
        else:
            found[name] = (values.mean if pooled[name] == "avg" else values.max)((0, 1))[None]
    return found


def halved(values: Map) -> Map:
    """Return the maximum of every 2 x 2 positions."""
    side = len(values) // 2
    halves = values[: 2 * side, : 2 * side].reshape(side, 2, side, 2, -1)
    found: Map = halves.max((1, 3))
    return found


def windows(pooled: Map) -> Map:
    """Return the nine averages of ``block5_avg3x3``, shape (3, 3, channels)."""
    weights = shares(len(pooled))
    found: Map = np.einsum("ap,bq,pqc->abc", weights, weights, pooled, optimize=True)
    return found


def shares(side: int) -> NDArray[np.float32]:
    """Return the weight of each position in each of three windows, shape (3, side)."""
    window, stride = windows_of(32 * side)
    weights = np.zeros((3, side), np.float32)
    for number in range(3):
        weights[number, number * stride : number * stride + window] = 1 / window
    return weights


def products(values: Map) -> NDArray[np.float32]:
    """Return the products of every channel with every other, averaged over positions, flat."""
    positions = values.reshape(-1, values.shape[-1])
    found: Map = (positions.T @ positions).ravel()
    found /= len(positions)
    return found
