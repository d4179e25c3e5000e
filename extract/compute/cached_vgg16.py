"""VGG16 with a cache: taps that were computed before are read, the others are computed.

`extract.build` makes the features that models are trained on. This module serves models that are
already trained, and scikit-learn pipelines.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from extract.compute import pipeline, reading
from extract.compute.reading import BATCH_SIZE, LoadedPhoto
from extract.engines import selection
from extract.engines.base import Engine, Taps
from extract.store import shard_index, shards
from extract.store.shard_index import ShardRow
from extract.store.shards import Writer
from extract.system import lock
from extract.system.console import InputError, warn
from extract.vgg16 import weights
from extract.vgg16.recipe import ALL_TAPS, SIZE, TAPS, pairs_added, recipe, recipe_digest

MAPPED = ("block3_conv3", "block4_conv3", "block5_conv3")
"""The layers whose maps the taps pool, some of them after another pooling."""


class CachedVGG16:
    """VGG16 for photos of one size, with the taps that it computed before.

    Parameters
    ----------
    cache : Path
        The folder of the weights and of each recipe's shards. It is locked only while photos are
        added; reading never waits.
    weights_file : Path or None
        A file with VGG16's weights. None takes the published ones.
    engine : str
        See `extract.engines.selection.choose`. It is built for the first photo that needs it.
    size : int
        Side in pixels of the squares that VGG16 sees.
    with_pairs : bool
        Whether the taps of pairs of channels are wanted.

    Attributes
    ----------
    known : dict of digest to ShardRow
        The images whose taps are in the cache.
    """

    def __init__(
        self,
        cache: Path,
        *,
        weights_file: Path | None = None,
        engine: str = "auto",
        size: int = SIZE,
        with_pairs: bool = False,
    ) -> None:
        self.weights = weights.load(weights_file, cache=cache)
        self.wanted = engine
        self.with_pairs = with_pairs
        self._see(size, cache)

    def of_size(self, size: int) -> Self:
        """Return the same VGG16 for photos of another size, which has a cache of its own."""
        other = copy.copy(self)
        other._see(size, self.folder.parent)
        return other

    def _see(self, size: int, cache: Path) -> None:
        """Take photos of a size."""
        self.size = size
        self.recipe = recipe(self.weights.digest, size=size, with_pairs=self.with_pairs)
        self.folder = cache / recipe_digest(self.recipe)
        self.engines_in = self.folder if self.with_pairs else shards.engines_of(cache, self.recipe)
        self.engine: Engine | None = None
        self.mapping: Engine | None = None
        self.to_layers: dict[str, Engine] = {}
        self.writer: Writer | None = None
        self.known = self._index(_ignore)

    def _index(
        self, on_damage: Callable[[shards.Damaged], None] = shards.set_aside
    ) -> dict[str, ShardRow]:
        """Find the images in the cache, also in shards that have more taps than are wanted."""
        richer = pairs_added(self.recipe)
        folder = self.folder.parent / recipe_digest(richer)
        found = {} if self.with_pairs else shard_index.read(folder, richer, on_damage=on_damage)
        return found | shard_index.read(self.folder, self.recipe, on_damage=on_damage)

    def compute(self, photos: NDArray[np.uint8]) -> Taps:
        """Compute every tap of photos, (n, size, size, 3) uint8 RGB, without the cache."""
        together = pipeline.at_once(self.size)
        engine = self._chosen(photos)
        batches = [photos[start : start + together] for start in range(0, len(photos), together)]
        parts = [engine.forward(batch) for batch in batches]
        return {tap: np.concatenate([part[tap] for part in parts]) for tap in parts[0]}

    def maps(self, photos: NDArray[np.uint8]) -> Taps:
        """Compute the maps that the taps pool, of `MAPPED`, each (n, side, side, channels).

        They take 5 MB for a photo of 224 pixels, so there should be few photos.
        """
        if self.mapping is None:
            self.mapping = selection.alike(
                self._chosen(photos),
                self.weights,
                self.engines_in,
                outputs=MAPPED,
                size=self.size,
            )
        return self.mapping.forward(photos)

    def activations(self, layer: str, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the output of a layer, a key of `extract.vgg16.recipe.MAPS`."""
        if layer not in self.to_layers:
            self.to_layers[layer] = selection.choose(
                *(self.wanted, self.weights, photos), folder=self.engines_in, outputs=[layer]
            )
        return self.to_layers[layer].forward(photos)[layer]

    def _chosen(self, photos: NDArray[np.uint8]) -> Engine:
        """Return the engine, which is chosen when the first photos come."""
        if self.engine is None:
            # Engines are timed on a full batch, once on each machine; one photo would be too few.
            together = pipeline.at_once(self.size)
            batch = np.resize(photos[:together], (together, *photos.shape[1:]))
            self.engine = selection.choose(
                *(self.wanted, self.weights, batch),
                folder=self.engines_in,
                outputs=tuple(self.recipe["taps"]),
            )
        return self.engine

    def taps(self, photos: Sequence[LoadedPhoto], taps: Iterable[str] = tuple(TAPS)) -> Taps:
        """Return the taps of photos that were loaded with ``known=self.known``.

        Parameters
        ----------
        photos : sequence of LoadedPhoto, length n
            All of them must be readable.
        taps : iterable of str

        Returns
        -------
        dict of tap to ndarray of shape (n, values), float32

        Raises
        ------
        InputError
            If a shard was damaged or removed after `known` was read.
        """
        result = {tap: np.empty((len(photos), ALL_TAPS[tap]), np.float32) for tap in taps}
        new = [row for row, photo in enumerate(photos) if photo.photo is not None]
        if new:
            pixels = np.stack([photo.photo for photo in photos if photo.photo is not None])
            computed = self.compute(pixels)
            for tap, values in result.items():
                values[new] = computed[tap]
            if self.writer and self.engine:
                digests = [photos[row].digest for row in new]
                self.writer.add(digests, computed, engine=self.engine.name)
        cached = {
            row: self.known[photo.digest] for row, photo in enumerate(photos) if photo.photo is None
        }
        _read_into(result, cached)
        return result

    def of_files(self, paths: Sequence[str], taps: Sequence[str], *, keep: bool) -> Taps:
        """Return the taps of files, one row for each file, in the order of the paths.

        Parameters
        ----------
        paths : sequence of str, length n
        taps : sequence of str
        keep : bool
            Whether computed taps are added to the cache, which is locked for that time.

        Returns
        -------
        dict of tap to ndarray of shape (n, values), float32

        Raises
        ------
        ValueError
            If a file gives no picture.
        """
        result = {tap: np.empty((len(paths), TAPS[tap]), np.float32) for tap in taps}
        with (
            self._writing() if keep else nullcontext(),
            closing(reading.read_ahead(Path(), paths, size=self.size, known=self.known)) as files,
        ):
            for start in range(0, len(paths), BATCH_SIZE):
                batch = list(islice(files, BATCH_SIZE))
                for file in batch:
                    if file.reason:
                        raise ValueError(f"{file.path}: {file.reason}")
                for tap, values in self.taps(batch, taps).items():
                    result[tap][start : start + len(batch)] = values
        return result

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Add the taps that are computed inside the block to the cache."""
        with lock.held(self.folder.parent / "lock"):
            # Other processes may have added and removed images since the index was read.
            self.known = self._index()
            try:
                with Writer(self.folder, self.recipe) as self.writer:
                    yield
            finally:
                self.writer = None
            self.known = self._index()


def _read_into(result: Taps, cached: dict[int, ShardRow]) -> None:
    """Read the taps of cached images into their rows of `result`; each shard is read once."""
    for shard in {shard_row.shard for shard_row in cached.values()}:
        rows = [row for row, shard_row in cached.items() if shard_row.shard == shard]
        try:
            from_shard = shards.rows(shard, [cached[row].row for row in rows], result)
        except shards.Damaged as damaged:
            message = f"{damaged}; set it aside with python -m extract verify and try again"
            raise InputError(message) from damaged
        for tap, values in from_shard.items():
            result[tap][rows] = values


def _ignore(damaged: shards.Damaged) -> None:
    warn(f"{damaged}; not used, its images are computed again")
