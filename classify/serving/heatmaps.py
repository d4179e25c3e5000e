"""Heatmaps of a model's answers, and what hiding their hottest part does to the probability."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from classify import heads
from classify.arrays import Matrix
from classify.heatmaps import evidence, hiding
from classify.heatmaps.hiding import Pixels
from classify.serving.model import Model, joined
from extract.compute.reading import LoadedPhoto
from extract.photos import decode
from extract.system.console import InputError
from extract.vgg16 import pooling
from extract.vgg16.pooling import Map
from extract.vgg16.recipe import named, plain, size_of

AT_ONCE = 8
"""Photos whose maps are in memory at the same time."""


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Where a model found its most probable class in a photo.

    Attributes
    ----------
    label : int
        The class.
    heat : ndarray of shape (side, side)
        See `classify.heatmaps.evidence.evidence`. The photo was squashed to a square.
    probability : float
    without_hottest, without_random : float
        The probability of this class after the hottest fifth of the photo was hidden, and after a
        fifth of the same shape at a random place was.
    """

    label: int
    heat: NDArray[np.float64]
    probability: float
    without_hottest: float
    without_random: float


def squares(model: Model, data: bytes) -> dict[int, Pixels]:
    """Return a photo as a model takes it: by the side of each square.

    Raises
    ------
    Unreadable, OutOfMemory
        As `extract.photos.decode.upright` does it.
    """
    return {size: decode.decode_photo(data, size=size) for size in model.known}


def seed_of(data: bytes) -> int:
    """Return what determines the random fifth of a photo: its own bytes."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8])


def heatmaps(
    model: Model, photos: Sequence[Mapping[int, Pixels]], seeds: Sequence[int]
) -> Iterator[Heatmap]:
    """Yield the heatmap of each photo.

    Parameters
    ----------
    model : Model
    photos : sequence of mapping
        See `squares`.
    seeds : sequence of int
        What determines the random fifth of each photo.

    Raises
    ------
    InputError
        If the model is a network with other layers than those here.
    """
    for start in range(0, len(photos), AT_ONCE):
        chunk = slice(start, start + AT_ONCE)
        yield from _at_once(model, photos[chunk], seeds[chunk])


def _at_once(
    model: Model, photos: Sequence[Mapping[int, Pixels]], seeds: Sequence[int]
) -> list[Heatmap]:
    seen = list(looks(model, photos))
    hidden: list[dict[int, Pixels]] = []
    found = []
    for photo, seed, (whole, without) in zip(photos, seeds, seen, strict=True):
        label = int(whole.argmax())
        heat = _together([evidence.evidence(whole, rows, label) for rows in without])
        hottest = {size: hiding.hottest(heat, (size, size)) for size in photo}
        random = {size: hiding.elsewhere(mask, seed) for size, mask in hottest.items()}
        hidden += [
            {size: hiding.hide(pixels, masks[size]) for size, pixels in photo.items()}
            for masks in (hottest, random)
        ]
        found.append((label, heat, float(softmax(whole[0])[label])))
    left = probabilities(model, hidden)
    return [
        Heatmap(label, heat, p, float(left[2 * i, label]), float(left[2 * i + 1, label]))
        for i, (label, heat, p) in enumerate(found)
    ]


def probabilities(model: Model, photos: Sequence[Mapping[int, Pixels]]) -> Matrix:
    """Return the probabilities of photos that are given as pixels, (n, classes)."""
    return model.probabilities(
        [
            {size: LoadedPhoto("", "", pixels, "") for size, pixels in photo.items()}
            for photo in photos
        ]
    )


def _together(by_size: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the sum of what was found at each size, in the finest of their grids."""
    side = max(map(len, by_size))
    # A place of a fine grid is a smaller part of the photo.
    parts = [
        heat if len(heat) == side else hiding.enlarged(heat, (side, side)) * (len(heat) / side) ** 2
        for heat in by_size
    ]
    total: NDArray[np.float64] = np.sum(parts, axis=0)
    return total


def looks(
    model: Model, photos: Sequence[Mapping[int, Pixels]]
) -> Iterator[tuple[Matrix, list[Matrix]]]:
    """Yield the scores of each photo, and those without each place at each size."""
    pixels = {size: np.stack([photo[size] for photo in photos]) for size in photos[0]}
    if model.head is None:
        (squashed,) = pixels.values()
        assert model.split
        try:
            parts = model.split()
        except ValueError as error:
            name = model.result.model
            raise InputError(f"{name}: no heatmap of this network: {error}") from error
        for whole in parts.maps(squashed):
            rows = [parts.scores(some) for some in evidence.maps_without(whole)]
            yield parts.scores(whole[None]), [np.concatenate(rows)]
        return
    by_size = {size: model.vgg16[size].maps(squashed) for size, squashed in pixels.items()}
    for row in range(len(photos)):
        maps = {
            size: {name: values[row] for name, values in layers.items()}
            for size, layers in by_size.items()
        }
        yield _look_of_head(model.head, maps)


def _look_of_head(head: Any, maps: Mapping[int, Mapping[str, Map]]) -> tuple[Matrix, list[Matrix]]:
    names: dict[int, list[str]] = {}
    for tap in heads.tap_columns(head):
        names.setdefault(size_of(tap), []).append(plain(tap))

    def scores(taps: dict[str, Matrix]) -> Matrix:
        return heads.scores(head[-1], head[:-1].transform(joined(head, taps)))

    whole = {
        named(tap, size): values
        for size, plains in names.items()
        for tap, values in pooling.taps(maps[size], plains).items()
    }
    without = []
    for size, plains in names.items():
        some = evidence.taps_without(maps[size], plains)
        n = len(next(iter(some.values())))
        rows = {tap: np.repeat(values, n, axis=0) for tap, values in whole.items()}
        without.append(scores(rows | {named(tap, size): v for tap, v in some.items()}))
    return scores(whole), without
