"""The interface of an engine (photos in, taps out), and the comparison of two engines."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PACKAGES = {"mnn": "MNN", "ncnn": "ncnn"}
"""The engines that are not the reference; they run on a CPU. The values are their packages."""

ENGINES = ("auto", "keras", *PACKAGES)
"""The values of ``--engine``."""

TOLERANCE = 1e-3
"""The largest relative L2 difference from the reference that an engine may have in any tap."""

PHOTOS_COMPARED = 4

Taps = dict[str, NDArray[np.float32]]

Forward = Callable[[NDArray[np.uint8]], Taps]


class Engine(NamedTuple):
    """A program that runs VGG16.

    Attributes
    ----------
    name : str
        Recorded in each shard that the engine computes.
    forward : callable
        A function from photos, (n, size, size, 3) uint8 RGB, to a dict of tap name to (n, values)
        float32.
    batch_size : int
        How many photos `forward` should be given at once. It takes any number.
    in_flight : int
        How many threads may call `forward` at the same time. With two, a GPU is given the next
        batch while it computes.
    """

    name: str
    forward: Forward
    batch_size: int = 16
    in_flight: int = 1


class Unusable(Exception):
    """An engine cannot be used on this machine; the message gives the reason."""


def relative_difference(taps: Taps, reference: Taps) -> float:
    """Return the largest relative L2 difference of any tap: norm of a - b over norm of b.

    It is NaN if any tap holds a NaN.
    """
    differences = [
        np.linalg.norm(taps[tap] - values) / np.linalg.norm(values)
        for tap, values in reference.items()
    ]
    return float(np.max(differences))
