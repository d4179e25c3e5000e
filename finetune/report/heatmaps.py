"""Heatmaps for the page: of the surest mistakes of every model, and of two photos per class."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from classify.heatmaps import picture
from classify.serving import heatmaps, model
from classify.serving.model import Model
from extract.compute.cached_vgg16 import CachedVGG16
from extract.photos import decode, files
from extract.store.features_file import Features
from extract.system import console, locations
from extract.system.console import InputError, warn
from extract.vgg16 import weights
from finetune.compare.comparison import Comparison
from finetune.compare.mistakes import surest_mistakes
from finetune.compare.records import ModelRecord
from finetune.report.thumbnails import SIDE

PER_CLASS = 2

CLASSES = 20
"""If there are more classes, those are shown that the model gets wrong most often. All would take
minutes, and a large part of what the page may hold."""


@dataclass(frozen=True)
class Shown:
    """A heatmap on the page.

    Attributes
    ----------
    picture : str
        A data URI.
    predicted : int
        The class that the heatmap is of.
    probability, without_hottest, without_random : float
        See `classify.serving.heatmaps.Heatmap`.
    """

    picture: str
    predicted: int
    probability: float
    without_hottest: float
    without_random: float


@dataclass(frozen=True)
class Heatmaps:
    """The heatmaps of a page.

    Attributes
    ----------
    shown : mapping of (str, int) to Shown
        By the name of the model and the row of the photo among the features.
    of_classes : str
        The model whose heatmaps are shown for each class; empty if there are none.
    rows : list of int
        The photos that are shown of each class.
    """

    shown: Mapping[tuple[str, int], Shown] = field(default_factory=dict)
    of_classes: str = ""
    rows: Sequence[int] = ()


NO_HEATMAPS = Heatmaps()


def draw(
    comparison: Comparison, runs: Path, *, cache: Path, weights_file: Path | None = None
) -> Heatmaps:
    """Draw the heatmaps of a page. What cannot be drawn is left out, with a warning.

    Parameters
    ----------
    comparison : Comparison
    runs : Path
        The folder of the results.
    cache : Path
        The folder with VGG16's weights.
    weights_file : Path or None
        As for `classify.serving.model.load_model`.
    """
    features, (best, *_) = comparison.features, comparison.models
    examples = _examples(best, features)
    wanted = {
        one.name: [mistake.row for mistake in surest_mistakes(one, features)]
        for one in comparison.models
    }
    wanted[best.name] = list(dict.fromkeys([*wanted[best.name], *examples]))
    if not _any_is_there(features, [row for rows in wanted.values() for row in rows]):
        return NO_HEATMAPS
    shown: dict[tuple[str, int], Shown] = {}
    load = _Loading(runs, cache, weights_file)
    with console.progress("heatmaps", sum(map(len, wanted.values())), unit="photos") as advance:
        for one in comparison.models:
            rows = wanted[one.name]
            if not rows:
                continue
            try:
                found = _of_model(load.model(one), features, rows)
                shown |= {(one.name, row): heatmap for row, heatmap in found.items()}
            except InputError as error:
                warn(f"no heatmaps of {one.name} in the report: {error}")
            advance(len(rows))
    rows = [row for row in examples if (best.name, row) in shown]
    return Heatmaps(shown, best.name if rows else "", rows)


@dataclass
class _Loading:
    """Loads models. All heads share the VGG16 of the first."""

    runs: Path
    cache: Path
    weights_file: Path | None
    vgg16: CachedVGG16 | None = None

    def model(self, one: ModelRecord) -> Model:
        """Load a model without fetching anything."""
        if one.result.stage == "head" and not (
            self.weights_file or weights.are_at_hand(self.cache)
        ):
            raise InputError("VGG16's weights are not on this machine; run make features")
        loaded = model.load_model(
            self.runs / one.name,
            cache=self.cache,
            weights_file=self.weights_file,
            vgg16=self.vgg16,
        )
        self.vgg16 = self.vgg16 or next(iter(loaded.vgg16.values()), None)
        return loaded


def _of_model(loaded: Model, features: Features, rows: Sequence[int]) -> dict[int, Shown]:
    """Return the heatmaps of the photos that can be read."""
    shown = {}
    for start in range(0, len(rows), heatmaps.AT_ONCE):
        opened = []
        for row in rows[start : start + heatmaps.AT_ONCE]:
            if data := _content(features, row):
                upright = decode.upright(data, size=SIDE)
                upright.thumbnail((SIDE, SIDE))
                seed = int(features.digests[row][:16], 16)
                opened.append((row, heatmaps.squares(loaded, data), upright, seed))
        found = heatmaps.heatmaps(
            loaded, [squares for _, squares, *_ in opened], [seed for *_, seed in opened]
        )
        for (row, _, upright, _), one in zip(opened, found, strict=True):
            overlaid = picture.overlaid(upright, one.heat)
            shown[row] = Shown(
                picture.as_uri(overlaid),
                one.label,
                one.probability,
                one.without_hottest,
                one.without_random,
            )
    return shown


def _examples(record: ModelRecord, features: Features) -> list[int]:
    """Return test photos of each class, at random but always the same, by their digests."""
    test = np.flatnonzero(features.splits == "test")
    labels = features.labels[test]
    classes, photos = np.unique(labels, return_counts=True)
    wrong = np.bincount(labels[~record.correct], minlength=int(classes.max()) + 1)
    order = np.argsort(-wrong[classes] / photos, kind="stable")[:CLASSES]
    found = []
    for label in sorted(classes[order].tolist()):
        rows = sorted(test[labels == label].tolist(), key=lambda row: features.digests[row])
        found += rows[:PER_CLASS]
    return found


def _any_is_there(features: Features, rows: Sequence[int]) -> bool:
    """Say whether a photo can be read: loading models takes a while, and the photos may be gone."""
    try:
        return any(_content(features, row) for row in rows)
    except InputError:
        # The whole store is out of reach, which the thumbnails tell.
        return False


def _content(features: Features, row: int) -> bytes | None:
    """Return the bytes of a photo; None if it is gone, or is not the one of the features."""
    try:
        root = locations.location(features.attributes["root"])
        with files.content(root, features.paths[row]) as data:
            is_it = hashlib.sha256(data).hexdigest() == features.digests[row]
            return data if is_it else None
    except (OSError, KeyError, ValueError, decode.Unreadable):
        return None
