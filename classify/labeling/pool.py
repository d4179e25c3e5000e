"""The pool: a folder of photos without labels, whose taps are computed into the cache."""

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classify.arrays import Matrix
from extract.compute import missing
from extract.compute.cached_vgg16 import CachedVGG16
from extract.compute.job import Job
from extract.compute.missing import Images
from extract.compute.reading import LoadedPhoto
from extract.photos import hashes, scan
from extract.system import console, lock
from extract.system.console import InputError, count, say, warn
from extract.system.locations import plain, readable_name
from extract.vgg16.recipe import SIZE, recipe_digest

REASONS = 5
"""At most this many photos are named that cannot be used."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Photos without labels, each picture once.

    Attributes
    ----------
    places : list of list of str, length n
        The absolute paths of each photo and of its copies.
    digests : list of str, length n
    X : ndarray of shape (n, d), float32
        Their taps side by side.
    """

    places: list[list[str]]
    digests: list[str]
    X: Matrix


def read(
    folder: Path, vgg16: CachedVGG16, taps: Sequence[str], *, known: Collection[str], made_by: str
) -> Pool:
    """Compute what is missing in the cache, and return the photos of a folder that are new.

    Parameters
    ----------
    folder : Path
    vgg16 : CachedVGG16
    taps : sequence of str
    known : collection of str
        The digests of the photos of the data set, which are left out.
    made_by : str
        The digest of the recipe of the data set's taps.

    Raises
    ------
    InputError
        If the folder has no photo that is new, or its taps would be of another kind.
    """
    if recipe_digest(vgg16.recipe) != made_by:
        raise InputError(
            "the features of DATA were made with other weights or pixels than those of --pool "
            "would be; run make features, or give the same --weights"
        )
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise InputError(f"--pool {folder}: {what}; give a folder of photos")
    found = scan.all_photos(Path(os.path.abspath(folder)))
    if str(found.root) != readable_name(str(found.root)):
        raise InputError(f"--pool {folder}: the name of a folder on this path is not UTF-8")
    if not found.photos:
        raise InputError(f"--pool {folder}: no file in it that could be a photo")
    digests, unreadable = _computed(Path(str(found.root)), found, vgg16, known)
    places: dict[str, list[str]] = {}
    for path, digest in digests.items():
        if digest not in known and path not in unreadable:
            places.setdefault(digest, []).append(plain(str(found.root), path))
    _report(folder, found, places, unreadable)
    if not places:
        raise InputError(f"--pool {folder}: no photo in it that DATA lacks; give another folder")
    photos = [LoadedPhoto(paths[0], digest, None, "") for digest, paths in places.items()]
    computed = vgg16.of_size(SIZE).taps(photos, taps)
    return Pool(list(places.values()), list(places), np.hstack([computed[tap] for tap in taps]))


def _computed(
    root: Path, found: scan.Scan, vgg16: CachedVGG16, known: Collection[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Compute the taps of all new photos into the cache; return digests and reasons, by path."""
    paths = [photo.path for photo in found.photos]
    cache = vgg16.folder.parent
    with lock.held(cache / "lock"):
        index = cache / "digests.sqlite"
        with console.progress("digests", len(paths), unit="photos") as advance:
            digests = hashes.Files(root, paths, index=index).read(advance)
        new = [path for path in paths if digests.get(path) not in known]
        images = Images(digests)
        job = Job(root, vgg16.weights, vgg16.recipe, vgg16.folder, vgg16.folder, vgg16.wanted)
        missing.compute(images, new, [job], on=None)
        hashes.correct(root, images.digests, index=index)
    return images.digests, images.unreadable


def _report(
    folder: Path, found: scan.Scan, places: dict[str, list[str]], unreadable: dict[str, str]
) -> None:
    n = sum(map(len, places.values()))
    known = len(found.photos) - n - len(unreadable)
    others = f", {known:,} in DATA already" if known else ""
    say(f"{folder}: {count(n, 'photo')} without a label{others}")
    skipped = [*found.skipped, *unreadable.items()]
    for path, reason in skipped[:REASONS]:
        warn(f"  {path}: {reason}")
    if len(skipped) > REASONS:
        rest = Counter(reason for _, reason in skipped[REASONS:])
        warn(f"  and {count(len(skipped) - REASONS, 'other file')} ({rest.most_common(1)[0][0]})")
