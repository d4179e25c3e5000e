"""Photos to features: ``python -m extract chess``.

VGG16 looks at every distinct photo once; its pooled activations are published in
``features/<data>.h5``, and a photo that was ever seen is not computed again.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from extract import console, datasets, images, pipeline, splits, store, weights
from extract.console import InputError, count, say, warn
from extract.provenance import now, versions
from extract.recipe import recipe, recipe_digest
from extract.store import Place, Row, ShardWriter
from extract.weights import Weights

if TYPE_CHECKING:
    from extract.engines import Engine

SKIPPED_SHOWN = 10


class Seen(NamedTuple):
    """What became of the photos of a data set.

    Attributes
    ----------
    digests : dict of path to digest
        Of every photo that has features.
    places : dict of digest to Place
        Where the features are.
    unreadable : dict of path to reason
    computed : int
        Images that VGG16 looked at in this run.
    """

    digests: dict[str, str]
    places: dict[str, Place]
    unreadable: dict[str, str]
    computed: int


def main() -> None:
    """Read the command line and make the features file."""
    parser = argparse.ArgumentParser(prog="python -m extract", description=__doc__)
    names = ", ".join(datasets.BUILT_IN)
    parser.add_argument("data", help=f"{names}, or a folder with one sub-folder per class")
    parser.add_argument("--out", type=Path, default=Path(), help="where features/ goes")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--weights", type=Path, help="VGG16's weights: Keras's file or ONNX")
    parser.add_argument(
        "--background",
        action="store_true",
        help=f"keep a class named {datasets.BACKGROUND}",
    )
    parser.add_argument(
        "--strict", action="store_true", help="take an unreadable photo for an error"
    )
    options = parser.parse_args()
    make_features(
        options.data,
        out=options.out,
        seed=options.seed,
        weights_file=options.weights,
        background=options.background,
        strict=options.strict,
    )


def make_features(
    data: str,
    *,
    out: Path,
    seed: int,
    weights_file: Path | None,
    background: bool,
    strict: bool,
) -> None:
    """Bring ``features/<data>.h5`` up to date with the photos, saying what is done."""
    name = store.name_of(data)
    root = datasets.locate(data)
    path = store.file_of(data, out)
    published = _attributes(path)
    found = images.scan(root, exclude=() if background else (datasets.BACKGROUND,))
    files, classes = count(len(found.photos), "file"), len(found.class_names)
    say(f"{name}: {files} in {count(classes, 'class', 'classes')} at {root}")
    vgg16 = weights.load(weights_file, cache=store.cache_of(out))
    say(f"weights: VGG16 {vgg16.digest[:12]} from {vgg16.origin}")
    seen = _see(root, [photo.path for photo in found.photos], vgg16, out)
    if strict and seen.unreadable:
        path_, reason = next(iter(seen.unreadable.items()))
        raise InputError(
            f"{count(len(seen.unreadable), 'unreadable photo')} and --strict, the first {path_}: "
            f"{reason}; mend or remove it"
        )
    rows, copies, rule = _rows(found, seen, seed)
    skipped = sorted([*found.skipped, *seen.unreadable.items(), *copies])
    assert len(rows) + len(seen.unreadable) + len(copies) == len(found.photos)
    attributes = {
        "data": images.readable_name(name),
        "root": images.readable_name(str(root)),
        "weights": vgg16.origin,
        "weights_digest": vgg16.digest,
        "split_rule": rule,
        "seed": seed,
        "skipped_digest": store.skipped_digest(skipped),
        "data_digest": store.data_digest(rows, found.class_names),
        "recipe_digest": recipe_digest(recipe(vgg16.digest)),
    }
    _tell(rows, skipped, rule)
    if all(published.get(key) == value for key, value in attributes.items()):
        say(f"{path}: nothing to do, {count(len(rows), 'photo')} there")
        return
    store.publish(
        path,
        rows,
        seen.places,
        class_names=found.class_names,
        skipped=skipped,
        attributes=attributes
        | {
            "recipe": json.dumps(recipe(vgg16.digest)),
            "created": now(),
            "versions": json.dumps(versions()),
            "images_computed": seen.computed,
            "images_reused": len({row.digest for row in rows}) - seen.computed,
        },
    )
    say(f"{path}: written")


def _attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of what is published already; refuse what is not a features file."""
    if not path.exists():
        return {}
    with store.open(path) as features:
        return features.attributes


def _see(root: Path, paths: Sequence[str], vgg16: Weights, out: Path) -> Seen:
    """Have every photo's features in the cache, computing those that are not there."""
    the_recipe = recipe(vgg16.digest)
    folder = store.cache_of(out) / recipe_digest(the_recipe)
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: no permission to write; choose another folder with --out")
    digests = pipeline.hash_files(root, paths)
    places = store.index(folder, the_recipe)
    reused = len(places.keys() & set(digests.values()))
    unreadable: dict[str, str] = {}
    computed = 0
    started = time.monotonic()
    # A photo that changes while it is read has another digest than its copies: look again.
    while pending := _pending(paths, digests, places, unreadable):
        with (
            console.progress("VGG16", len(pending), unit="photos") as advance,
            ShardWriter(folder, the_recipe) as writer,
        ):
            read, failed = pipeline.compute(
                root,
                pending,
                build_engine=lambda: _engine(vgg16),
                writer=writer,
                advance=advance,
            )
        computed += len(read)
        unreadable |= _with_copies(failed, digests)
        digests |= read
        places = store.index(folder, the_recipe)
    if computed:
        seconds = time.monotonic() - started
        speed = f"{seconds:.0f} s, {computed / seconds:.1f} photos/s"
        say(f"VGG16: {count(computed, 'image')} computed ({speed}), {reused:,} reused")
    usable = {path: digest for path, digest in digests.items() if path not in unreadable}
    return Seen(usable, places, unreadable, computed)


def _pending(
    paths: Sequence[str],
    digests: dict[str, str],
    places: dict[str, Place],
    unreadable: dict[str, str],
) -> list[str]:
    """Return one path of every image that is neither in the cache nor known to be unreadable."""
    first: dict[str, str] = {}
    for path in paths:
        digest = digests.get(path, f"unknown: {path}")
        if digest not in places and path not in unreadable:
            first.setdefault(digest, path)
    return list(first.values())


def _with_copies(failed: dict[str, str], digests: dict[str, str]) -> dict[str, str]:
    """Give the copies of an unreadable file its reason."""
    reasons = {digests[path]: reason for path, reason in failed.items() if path in digests}
    copies = {path: reasons[digest] for path, digest in digests.items() if digest in reasons}
    return copies | failed


def _engine(vgg16: Weights) -> "Engine":
    # Importing Keras takes seconds, and most runs have nothing to compute.
    from extract.engines import keras_engine

    return keras_engine(vgg16)


def _rows(
    found: images.Scan, seen: Seen, seed: int
) -> tuple[list[Row], list[tuple[str, str]], str]:
    """Give every usable photo its label and split, by a rule; leave out copies that would leak."""
    photos = [photo for photo in found.photos if photo.path in seen.digests]
    digests = [seen.digests[photo.path] for photo in photos]
    given = [photo.split for photo in photos]
    leaks = splits.copies(digests, given) if any(given) else {}
    copies = [
        (
            photos[row].path,
            f"copy of {photos[original].path}, which is kept out of training",
        )
        for row, original in leaks.items()
    ]
    kept = [row for row in range(len(photos)) if row not in leaks]
    photos, digests = [photos[row] for row in kept], [digests[row] for row in kept]
    given = [photo.split for photo in photos]
    assigned = splits.assign(
        found.class_names,
        [photo.class_name for photo in photos],
        digests,
        given,
        seed=seed,
    )
    labels = {name: label for label, name in enumerate(found.class_names)}
    rows = [
        Row(photo.path, digest, labels[photo.class_name], str(split))
        for photo, digest, split in zip(photos, digests, assigned, strict=True)
    ]
    return rows, copies, splits.split_rule(set(given))


def _tell(rows: Sequence[Row], skipped: Sequence[tuple[str, str]], rule: str) -> None:
    sizes = dict.fromkeys(("train", "val", "test"), 0)
    for row in rows:
        sizes[row.split] += 1
    shares = ", ".join(f"{split} {size:,}" for split, size in sizes.items())
    say(f"split: {shares} ({rule})")
    if skipped:
        warn(f"skipped: {len(skipped):,}")
    for path, reason in skipped[:SKIPPED_SHOWN]:
        warn(f"  {path}: {reason}")
    if len(skipped) > SKIPPED_SHOWN:
        warn(f"  and {len(skipped) - SKIPPED_SHOWN:,} more, all in the features file")


if __name__ == "__main__":
    console.run(main)
