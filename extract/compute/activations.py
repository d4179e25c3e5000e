"""The activations that fine-tuning starts from, computed once for each photo and variant.

Fine-tuning would otherwise run the frozen layers on the same photos in every epoch. Their
activations are kept as shards beside those of the features. The variant is part of the recipe, so
each variant has a folder of its own, and adding a variant computes only that variant.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extract.compute import pipeline
from extract.compute.job import Job
from extract.engines import selection
from extract.engines.base import Engine, Taps
from extract.store import open_shards, shard_index, shards
from extract.store.features_file import Features
from extract.store.shard_index import ShardRow
from extract.system import atomic, console, locations, lock
from extract.system.console import InputError, count, say
from extract.system.locations import Location
from extract.vgg16.recipe import MAPS, recipe
from extract.vgg16.weights import Weights

DTYPE = "float16"
LARGEST = float(np.finfo(DTYPE).max)
SMALLEST_CROP = 0.8
"""The smallest side of a variant's crop, as a share of the photo's side."""

JITTER = 0.2
"""The largest change of a variant's brightness and contrast, as a share."""


def vary(photo: NDArray[np.uint8], variant: int) -> NDArray[np.uint8]:
    """Return a variant of a photo: 0 is the photo itself, 1 is mirrored.

    Variants from 2 on are cropped, scaled back to the photo's size, and get another brightness and
    contrast. All of this is drawn from the SHA-256 of the pixels and the number, so a variant is
    always the same. Variants with an odd number are mirrored too.

    Parameters
    ----------
    photo : ndarray of shape (height, width, 3), uint8
    variant : int

    Returns
    -------
    ndarray of the same shape, uint8
    """
    if variant >= 2:
        photo = _cropped_and_lit(photo, variant)
    return photo[:, ::-1] if variant % 2 else photo


def variant_recipe(weights_digest: str, layer: str, variant: int) -> dict[str, Any]:
    """Describe how photos become the activations of a layer, which is a key of `recipe.MAPS`."""
    change = ["plain", "mirrored"][variant % 2]
    if variant >= 2:
        change += f", number {variant}: side {SMALLEST_CROP} at least, jitter {JITTER}"
    layer_recipe = {"taps": {layer: MAPS[layer]}, "dtype": DTYPE, "variant": change}
    return recipe(weights_digest) | layer_recipe


@dataclass(frozen=True)
class Wanted:
    """Activations to keep of photos whose taps are computed, because they will be needed.

    Attributes
    ----------
    layer : str
        A key of `extract.vgg16.recipe.MAPS`.
    out : Path
        The folder that has ``features/``.
    """

    layer: str
    out: Path


class WriterOfBoth(shards.Writer):
    """A writer of taps that also keeps a layer's activations of the unchanged photos.

    Both have shards of their own, so a killed run may leave an image in one of them alone. The
    other is then computed when it is needed. The time of the pass is recorded with the taps.

    Parameters
    ----------
    job : Job
        The pass that computes the taps.
    wanted : Wanted

    Attributes
    ----------
    maps : Writer
        It is given the activations of the images that it does not have yet.
    """

    def __init__(self, job: Job, wanted: Wanted) -> None:
        super().__init__(job.shard_folder, job.recipe)
        layer_recipe = variant_recipe(job.weights.digest, wanted.layer, 0)
        folder = shards.folder_of(wanted.out, layer_recipe)
        atomic.sweep(folder)
        self.layer = wanted.layer
        self.kept = shard_index.read(folder, layer_recipe).keys()
        self.maps = shards.Writer(folder, layer_recipe, timed=False)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        self.maps.__exit__(kind, error, traceback)

    def expect_many(self) -> None:
        """Keep shards small: with their activations, many images would take much memory."""

    def add(self, digests: Sequence[str], taps: shards.Taps, *, engine: str) -> None:
        """Add the taps of a batch and its activations."""
        values = dict(taps)
        activations = values.pop(self.layer)
        super().add(digests, values, engine=engine)
        rows = [row for row, digest in enumerate(digests) if digest not in self.kept]
        if rows:
            new = {self.layer: _stored(activations[rows])}
            self.maps.add([digests[row] for row in rows], new, engine=engine)


class Activations:
    """The activations of one layer and variant; any thread may read them, a photo at a time.

    Attributes
    ----------
    seconds : float
        The time it took to compute them, in this run or an earlier one.
    """

    def __init__(self, layer: str, rows: dict[str, ShardRow]) -> None:
        self.layer = layer
        self.rows = rows
        self.seconds = sum(row.seconds for row in rows.values())

    def read(self, digest: str) -> NDArray[np.float16]:
        """Return the activations of one photo: (height, width, channels), float16.

        Raises
        ------
        InputError
            If the shard was damaged or removed after it was checked, or cannot be read now.
        """
        shard, row, _ = self.rows[digest]
        try:
            values: NDArray[np.float16] = open_shards.kept_open.read(shard, self.layer, row)
        except (OSError, KeyError, ValueError) as error:
            message = f"{shard}: damaged ({error}); run the same command again to compute it anew"
            raise InputError(message) from error
        return values


def make(
    features: Features,
    splits: Collection[str],
    weights: Weights,
    *,
    layer: str,
    variant: int,
    out: Path,
) -> Activations:
    """Return the activations of the photos in some splits; compute and cache the missing ones.

    Every shard that is needed is read whole and checked.

    Parameters
    ----------
    features : Features
        The features file of the photos.
    splits : collection of str
    weights : Weights
    layer : str
        A key of `extract.vgg16.recipe.MAPS`.
    variant : int
        See `vary`.
    out : Path
        The folder that has ``features/``.

    Raises
    ------
    InputError
        If a photo cannot be read, or has changed since its features were extracted.
    """
    layer_recipe = variant_recipe(weights.digest, layer, variant)
    folder = shards.folder_of(out, layer_recipe)
    paths = {features.digests[row]: features.paths[row] for row in features.rows(*splits)}
    with lock.held(shards.cache_of(out) / "lock"):
        atomic.sweep(folder)
        pending: dict[str, str] = {}
        recomputed = shard_index.Recomputed()
        while True:
            rows = shard_index.read(folder, layer_recipe)
            shard_index.require(rows, pending, folder)
            pending = {digest: path for digest, path in paths.items() if digest not in rows}
            if pending:
                described = f"{layer}, {layer_recipe['variant'].split(':')[0]}"
                build = partial(_engine, weights, layer, variant, _engines(out, weights))
                writer = shards.Writer(folder, layer_recipe)
                _compute(features, [*pending.values()], writer, build, described)
                continue
            needed = {digest: rows[digest] for digest in paths}
            try:
                for shard in _shards(needed.values()):
                    shards.read(shard)
            except shards.Damaged as damaged:
                recomputed.set_aside(damaged, rows)
                continue
            return Activations(layer, needed)


def _compute(
    features: Features,
    pending: list[str],
    writer: shards.Writer,
    build: Any,
    described: str,
) -> None:
    root = locations.location(str(features.attributes["root"]))
    with console.progress(described, len(pending), unit="photos") as advance, writer:
        done = pipeline.compute(root, pending, build_engine=build, writer=writer, advance=advance)
    expected = dict(zip(features.paths, features.digests, strict=True))
    problems = dict(done.unreadable)
    for path, digest in (done.digests | done.others).items():
        if digest != expected[path] and path not in problems:
            problems[path] = "has changed since its features were extracted"
    if problems:
        path, problem = next(iter(problems.items()))
        raise InputError(f"{root / path}: {problem}; run make features")
    seconds = done.seconds["engine"] + done.seconds["forward"]
    say(f"{described}: {count(len(pending), 'photo')} computed ({seconds:.0f} s)")


def _engines(out: Path, weights: Weights) -> Path:
    folder = shards.engines_of(shards.cache_of(out), recipe(weights.digest))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _engine(
    weights: Weights, layer: str, variant: int, folder: Path, photos: NDArray[np.uint8]
) -> Engine:
    """Return the engine for a variant, chosen as the engine for taps is."""
    engine = selection.choose("auto", weights, photos, folder=folder, outputs=[layer])

    def forward(photos: NDArray[np.uint8]) -> Taps:
        varied = np.stack([vary(photo, variant) for photo in photos])
        return {layer: _stored(engine.forward(varied)[layer])}

    return engine._replace(forward=forward)


def _stored(values: NDArray[np.float32]) -> NDArray[Any]:
    return np.minimum(values, LARGEST).astype(DTYPE)


def _shards(rows: Iterable[ShardRow]) -> list[Location]:
    return sorted({row.shard for row in rows})


def _cropped_and_lit(photo: NDArray[np.uint8], variant: int) -> NDArray[np.uint8]:
    digest = hashlib.sha256(photo.tobytes() + str(variant).encode()).digest()
    random = np.random.default_rng(list(digest))
    height, width = photo.shape[:2]
    share, left, top = random.uniform((SMALLEST_CROP, 0, 0), 1)
    left, top = left * (1 - share) * width, top * (1 - share) * height
    box = (left, top, left + share * width, top + share * height)
    cropped = Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR, box)
    light, contrast = random.uniform(1 - JITTER, 1 + JITTER, 2)
    pixels: NDArray[np.float32] = np.asarray(cropped, np.float32)
    mean = pixels.mean()
    lit: NDArray[np.float32] = light * (mean + contrast * (pixels - mean))
    return lit.round().clip(0, 255).astype(np.uint8)
