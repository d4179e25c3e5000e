"""The map as a page shows it: where photos and names stand, with which colour, mark and picture."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from extract.store.features_file import SPLITS, Features
from finetune.compare.comparison import Comparison
from finetune.photo_map.entries import entries, marked
from finetune.photo_map.placement import Placement, place
from finetune.photo_map.sheet import SIDES, Sheet, sheet

HEIGHT = 0.62
"""Height of the map as a share of its width; the style sheet has the same number."""
COVERED = 0.5
"""The share of the map that pictures would cover if none lay on another."""
HUES, SHAPES = 7, 4
"""Colours and shapes of the style sheet. They have no common divisor, so that 28 classes differ."""
NEIGHBOURS = 10
"""The name of a class stands where this many of its photos are nearest to one another."""
THREADS = 4
"""Threads that read and reduce photos."""

Place = tuple[str, str]
"""Distance from the left and from the top as shares, in digits."""


@dataclass(frozen=True)
class Spot:
    """One photo on the map.

    Attributes
    ----------
    row, label, answers, marks
        See `Entry`.
    split : str
    place : Place
    shape : (width, height) or None
        See `Sheet`.
    """

    row: int
    label: int
    answers: str
    marks: tuple[str, ...]
    split: str
    place: Place
    shape: tuple[float, float] | None


@dataclass(frozen=True)
class MapClass:
    """One class: its name, its look in the style sheet, and where its name stands, if it does."""

    name: str
    look: str
    place: Place | None


@dataclass(frozen=True)
class Mark:
    """What stands on photos with a mark, what it means, and how many of them the map has."""

    sign: str
    words: str
    photos: int


@dataclass(frozen=True, eq=False)
class PhotoMap:
    """The whole map.

    Attributes
    ----------
    placement : Placement
    sheet : Sheet
        Pictures in the order of `spots`.
    spots : list of Spot
    classes : list of MapClass
    splits : dict of str to int
        Photos of each split on the map.
    marks : dict of str to Mark
    share : str
        Side of a picture in hundredths of the map's width.
    marked, all_marked : int
        Photos with a mark, on the map and altogether.
    """

    placement: Placement
    sheet: Sheet
    spots: list[Spot]
    classes: list[MapClass]
    splits: dict[str, int]
    marks: dict[str, Mark]
    share: str
    marked: int
    all_marked: int


def photo_map(
    comparison: Comparison, thumbnail: Callable[[int, int], bytes | None]
) -> PhotoMap | None:
    """Make the map of a comparison.

    Parameters
    ----------
    comparison : Comparison
        Its features are open.
    thumbnail : callable
        Returns a small picture of the photo in a row, whose longer side has a number of pixels.

    Returns
    -------
    PhotoMap or None
        None if photos cannot be placed, see `place`.
    """
    features, marks = comparison.features, marked(comparison)
    with_mark = set[int]().union(*marks.values())
    found = place(features, comparison.models, first=with_mark)
    if found is None:
        return None
    rows = found.rows.tolist()
    with ThreadPoolExecutor(THREADS) as threads:
        made = sheet(list(threads.map(lambda row: thumbnail(row, SIDES[0]), rows)))
    best = comparison.models[0].name
    signs = {
        "mistake": ("\N{MULTIPLICATION SIGN}", f"mistake of {best}"),
        "suspect": ("?", "label to check"),
        "copy": ("=", "near-duplicate in another split"),
    }
    spots = _spots(comparison, found, made)
    splits = Counter(spot.split for spot in spots)
    return PhotoMap(
        found,
        made,
        spots,
        _classes(features, found),
        {split: splits[split] for split in SPLITS if split in splits},
        {
            mark: Mark(*signs[mark], len(having.intersection(rows)))
            for mark, having in marks.items()
        },
        f"{100 * (COVERED * HEIGHT / len(rows)) ** 0.5:.2f}",
        len(with_mark.intersection(rows)),
        len(with_mark),
    )


def _spots(comparison: Comparison, found: Placement, made: Sheet) -> list[Spot]:
    known = entries(comparison, found.rows.tolist())
    return [
        Spot(
            entry.row,
            entry.label,
            entry.answers,
            entry.marks,
            str(comparison.features.splits[entry.row]),
            _in_digits(place),
            shape,
        )
        for entry, place, shape in zip(known, _places(found), made.shapes, strict=True)
    ]


def _classes(features: Features, found: Placement) -> list[MapClass]:
    labels = features.labels[found.rows]
    return [
        MapClass(
            name,
            f"hue{label % HUES} shape{label % SHAPES}",
            _densest(_places(found)[labels == label]),
        )
        for label, name in enumerate(features.class_names)
    ]


def _densest(places: NDArray[np.float64]) -> Place | None:
    """Return the place of the photo with the nearest others, if there are any.

    The middle of a class may lie far from each of its photos.
    """
    if not len(places):
        return None
    distances = np.sort(cdist(places, places), axis=1)
    reach = distances[:, min(len(places) - 1, NEIGHBOURS)]
    return _in_digits(places[reach.argmin()])


def _places(found: Placement) -> NDArray[np.float64]:
    return np.column_stack([found.x, found.y])


def _in_digits(place: NDArray[np.float64]) -> Place:
    return f"{place[0]:.4f}", f"{place[1]:.4f}"
