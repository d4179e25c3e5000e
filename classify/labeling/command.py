"""What ``python -m classify label`` is made of: the file, the photos, and the next command."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from classify.labeling import album, answers, pool
from classify.labeling.album import Album
from extract.compute.cached_vgg16 import CachedVGG16
from extract.photos import datasets
from extract.store.features_file import Features
from extract.system.console import InputError
from extract.vgg16.recipe import SIZE, digest_without_pairs


def file_of_answers(features: Features, out: Path, to: Path | None) -> Path:
    """Return the manifest that the answers go to.

    Raises
    ------
    InputError
        If its name is not that of a manifest, or the manifest of the data set cannot be read.
    """
    if to is not None:
        if not to.name.lower().endswith(datasets.MANIFESTS):
            endings = ", ".join(datasets.MANIFESTS)
            raise InputError(f"--to {to}: the name of a manifest ends with {endings}")
        return to
    if features.manifest and answers.can_be_continued(Path(features.manifest)):
        return Path(features.manifest)
    return out / "labels" / f"{features.data}-labels.csv"


def photos(
    features: Features,
    folder: Path | None,
    vgg16: Callable[[], CachedVGG16],
    *,
    include_test: bool,
) -> Album:
    """Return the photos of a session.

    Parameters
    ----------
    features : Features
    folder : Path or None
        The pool.
    vgg16 : callable
        Loads VGG16, if there is a pool.
    include_test : bool
        Whether photos of the test split are among them.
    """
    added = None
    if folder is not None:
        made_by = digest_without_pairs(features.recipes[SIZE])
        known = set(features.digests)
        added = pool.read(folder, vgg16(), album.TAPS_READ, known=known, made_by=made_by)
    return album.read(features, added, include_test=include_test)


def command(file: Path, out: Path) -> str:
    """Return the command that makes everything anew from the answers."""
    place = os.path.relpath(file)
    shown = os.path.abspath(file) if place.startswith("..") else place
    words = ["make", f"DATA={shown}"]
    if os.path.abspath(out) != os.getcwd():
        words.append(f"OUT={out}")
    return shlex.join(words)
