"""Shards and features files without photos: taps whose classes can be told apart, or not."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.photos import duplicates
from extract.store import features_file, features_writer, shards
from extract.store.features_file import Row
from extract.store.features_writer import Contents
from extract.store.shard_index import ShardRow
from extract.store.shards import Shard
from extract.vgg16.recipe import SIZE, TAPS, joint_digest, named, recipe

RECIPE = recipe("w" * 64)
ABOUT = {
    "root": "/photos",
    "weights": "none",
    "weights_digest": "w" * 64,
    "skipped_digest": "5" * 64,
    "split_rule": "made",
    "seed": 0,
    "created": "2026-01-01T00:00:00+00:00",
    "versions": "{}",
    "copies": 0,
    "images_computed": 0,
    "images_reused": 0,
}
"""Root attributes that a features file must have, and that few tests look at."""

Taps = dict[str, NDArray[np.float32]]


def digests(*names: object) -> list[str]:
    return [hashlib.sha256(str(name).encode()).hexdigest() for name in names]


def taps(photo_digests: Sequence[str]) -> Taps:
    """Return values that identify the photo and tap they belong to."""
    seeds = [int(digest[:8], 16) for digest in photo_digests]
    return {
        tap: np.array(
            [np.random.default_rng([seed, width]).random(width) for seed in seeds], np.float32
        ).reshape(-1, width)
        + len(tap)
        for tap, width in TAPS.items()
    }


def shard(folder: Path, names: Sequence[object], *, seconds: float = 1.0) -> Path:
    folder.mkdir(exist_ok=True)
    photo_digests = digests(*names)
    return shards.write(folder, Shard(photo_digests, taps(photo_digests), "test", seconds), RECIPE)


def write_features(
    path: Path,
    rows: Sequence[Row],
    sources: Mapping[int, Mapping[str, ShardRow]],
    *,
    class_names: Sequence[str],
    skipped: Sequence[tuple[str, str]],
    attributes: Mapping[str, Any],
) -> None:
    """Write a features file with its near-duplicates, as `extract.build` does."""
    contents = Contents(rows, class_names, skipped, attributes)
    with features_writer.writing(path, contents, sources) as draft:
        draft.write_taps()
        digests, splits = [row.digest for row in rows], [row.split for row in rows]
        draft.write_near(duplicates.near(draft.read, digests, splits))


def publish(
    folder: Path,
    *,
    per_class: tuple[int, int, int] = (12, 4, 4),
    classes: int = 3,
    informative: tuple[str, ...] = tuple(TAPS),
    signal: float = 3.0,
    seed: int = 0,
    test_noise: float = 0.0,
    sizes: tuple[int, ...] = (SIZE,),
) -> Path:
    """Write a features file and return its path.

    Parameters
    ----------
    per_class : tuple of int
        Photos of each class in train, val and test.
    informative : tuple of str
        Taps in which the classes differ; the others are noise.
    signal : float
        How far the classes lie apart in a tenth of an informative tap's values.
    test_noise : float
        Added to every tap of the test rows only.
    sizes : tuple of int
        Of the photos that the taps are of; a tap of another size than 224 is informative under its
        own name.
    """
    random = np.random.default_rng(seed)
    names = [f"class {label}" for label in range(classes)]
    rows = [
        Row(f"{names[label]}/{split}{i}.jpg", *digests(f"{label}{split}{i}"), label, split)
        for label in range(classes)
        for split, photos in zip(("train", "val", "test"), per_class, strict=True)
        for i in range(photos)
    ]
    rows.sort(key=lambda row: row.path)
    labels = np.array([row.label for row in rows])
    is_test = np.array([row.split == "test" for row in rows])
    row_digests = [row.digest for row in rows]
    recipes = {size: recipe("0" * 64, size=size) for size in sizes}
    places = {}
    for size, the_recipe in recipes.items():
        taps = {}
        for tap, width in TAPS.items():
            values = random.gamma(1.0, 1.0, (len(rows), width)).astype(np.float32)
            centres = random.gamma(1.0, 1.0, (classes, width)) * (random.random(width) < 0.1)
            if named(tap, size) in informative:
                values += (signal * centres[labels]).astype(np.float32)
            values[is_test] += test_noise
            taps[tap] = values
        cache = folder / named("cache", size)
        shard = shards.write(cache, Shard(row_digests, taps, "none", 10.0), the_recipe)
        places[size] = {d: ShardRow(shard, i, 10.0 / len(rows)) for i, d in enumerate(row_digests)}
    path = folder / "synthetic.h5"
    skipped = [("class 0/notes.txt", "not an image file that Pillow can read")]
    write_features(
        path,
        rows,
        places,
        class_names=names,
        skipped=skipped,
        attributes={
            **ABOUT,
            "data": "synthetic",
            "root": str(folder),
            "weights_digest": "0" * 64,
            **{named("recipe", size): json.dumps(recipe) for size, recipe in recipes.items()},
            "recipe_digest": joint_digest(recipes.values()),
            "data_digest": features_file.data_digest(rows, names),
            "skipped_digest": features_file.skipped_digest(skipped),
        },
    )
    return path
