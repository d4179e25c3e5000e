"""Twins: the same picture stored more than once, resized or encoded in another way.

A copy with the same bytes has the same digest. Twins have other bytes, nearly the same features and
nearly the same pixels.
"""

from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.compute import reading
from extract.compute.job import Job
from extract.compute.missing import Images
from extract.photos import duplicates
from extract.store import features_file, shards
from extract.system import console
from extract.system.console import warn
from extract.system.locations import Location
from extract.vgg16.recipe import SIZE, TAPS

TAP = "block5_avg"

Twin = tuple[str, str, float]
"""Two digests and their cosine."""


def find(images: Images, job: Job, published: Path) -> list[Twin]:
    """Find the twins among the images of a data set.

    Those that the published file has are not looked for again. With more than `duplicates.ROWS`
    images the result is empty.

    Parameters
    ----------
    images : Images
        Their taps are in the cache.
    job : Job
        The pass at 224 x 224 pixels.
    published : Path
        The features file as it is now, if there is one.

    Raises
    ------
    extract.store.shards.Damaged
        If a shard is not what was written.
    """
    places = images.rows[SIZE]
    digests = sorted({digest for digest in images.digests.values() if digest in places})
    if len(digests) > duplicates.ROWS:
        warn(duplicates.NOT_TOGETHER)
        return []
    known, twins = _known(published, job.recipe, digests)
    new = [digest for digest in digests if digest not in known]
    if not new:
        return twins
    ordered = new + [digest for digest in digests if digest in known]
    vectors = _read(images, ordered)
    with console.progress("same pictures", len(new), unit="photos") as advance:
        near = duplicates.with_neighbours(vectors, len(new), advance=advance)
    looks = _looks(images, job.root, [ordered[row] for row in near])
    new_rows = int(np.searchsorted(near, len(new)))
    for row, other, cosine in duplicates.connecting_pairs(vectors[near], new_rows, looks=looks):
        one, two = sorted((ordered[near[row]], ordered[near[other]]))
        twins.append((one, two, cosine))
    return sorted(twins)


def _looks(images: Images, root: Location, digests: Sequence[str]) -> NDArray[np.float32]:
    """Return the look of each image, see `duplicates.look`; zeros if its file has changed."""
    paths = {digest: path for path, digest in images.digests.items()}
    looks = np.zeros((len(digests), 3 * duplicates.LOOK_SIDE**2), np.float32)
    with (
        console.progress("same pictures, pixels", len(digests), unit="photos") as advance,
        closing(reading.read_ahead(root, [paths[digest] for digest in digests])) as items,
    ):
        for row, item in enumerate(items):
            if item.photo is not None and item.digest == digests[row]:
                looks[row] = duplicates.look(item.photo)
            advance(1)
    return looks


def _known(
    published: Path, recipe: dict[str, Any], digests: Collection[str]
) -> tuple[set[str], list[Twin]]:
    """Return the images that were compared with each other before, and their twins."""
    if not published.exists():
        return set(), []
    present = set(digests)
    with features_file.open(published) as features:
        same_recipe = features.recipes[SIZE] == recipe
        if not same_recipe or features.attributes.get("same_look") != duplicates.SAME_LOOK:
            return set(), []
        compared = set(features.digests).union(*(pair[:2] for pair in features.same))
        # A pair may stand for others by way of an image that is gone.
        broken = [pair[:2] for pair in features.same if not {*pair[:2]} <= present]
        bridged = {digest for pair in broken for digest in pair}
        known = (compared & present) - bridged
        twins = [pair for pair in features.same if {*pair[:2]} <= known]
    return known, twins


def _read(images: Images, digests: list[str]) -> NDArray[np.float32]:
    """Read the deepest tap of images, in this order."""
    places = images.rows[SIZE]
    by_shard: dict[Location, list[int]] = {}
    for position, digest in enumerate(digests):
        by_shard.setdefault(places[digest].shard, []).append(position)
    values = np.empty((len(digests), TAPS[TAP]), np.float32)
    for shard, positions in by_shard.items():
        rows = shards.rows(shard, [places[digests[position]].row for position in positions], [TAP])
        values[positions] = rows[TAP]
    return values
