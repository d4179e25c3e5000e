"""The taps of any photos, wherever they lie: looked up where they were seen before, else computed.

What trains and publishes goes through `extract.build`; this is for using a model afterwards.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extract.compute import pipeline
from extract.compute.pipeline import BATCH_SIZE, Read
from extract.engines import selection
from extract.engines.base import Engine, Taps
from extract.store import shard_index, shards
from extract.store.shard_index import ShardRow
from extract.store.shards import Writer
from extract.system import lock
from extract.system.console import InputError, warn
from extract.vgg16 import weights
from extract.vgg16.recipe import TAPS, recipe, recipe_digest


class Lookup:
    """VGG16 and what it saw before.

    Parameters
    ----------
    cache : Path
        Folder of the weights and of each recipe's shards. It is locked only where photos are to be
        added to it: looking up waits for nobody.
    weights_file : Path or None
        VGG16's weights, if not the usual ones.
    engine : str
        See `extract.engines.selection.choose`; built when the first photo needs it.

    Attributes
    ----------
    recipe_digest : str
        Of the taps that this gives.
    known : dict of digest to ShardRow
        Images whose taps are in the cache.
    """

    def __init__(
        self, cache: Path, *, weights_file: Path | None = None, engine: str = "auto"
    ) -> None:
        self.weights = weights.load(weights_file, cache=cache)
        self.recipe = recipe(self.weights.digest)
        self.recipe_digest = recipe_digest(self.recipe)
        self.folder = cache / self.recipe_digest
        self.wanted = engine
        self.engine: Engine | None = None
        self.writer: Writer | None = None
        self.known: dict[str, ShardRow] = shard_index.read(
            self.folder, self.recipe, on_damage=_left
        )

    def compute(self, photos: NDArray[np.uint8]) -> Taps:
        """Return every tap of photos of shape (n, 224, 224, 3), uint8 RGB, whatever is known."""
        if self.engine is None:
            # Engines are timed on these, once on each machine: one photo alone would not tell.
            enough = np.resize(photos[:BATCH_SIZE], (BATCH_SIZE, *photos.shape[1:]))
            self.engine = selection.choose(self.wanted, self.weights, enough, folder=self.folder)
        batches = [
            photos[start : start + BATCH_SIZE] for start in range(0, len(photos), BATCH_SIZE)
        ]
        parts = [self.engine.forward(batch) for batch in batches]
        return {tap: np.concatenate([part[tap] for part in parts]) for tap in parts[0]}

    def taps(self, items: Sequence[Read], taps: Iterable[str] = tuple(TAPS)) -> Taps:
        """Return taps of photos that were read with ``known=self.known``, a row each.

        Parameters
        ----------
        items : sequence of Read, length n
            All readable.
        taps : iterable of str

        Returns
        -------
        dict of tap to ndarray of shape (n, values), float32

        Raises
        ------
        InputError
            If a shard has been damaged or removed since `known` was read.
        """
        found = {tap: np.empty((len(items), TAPS[tap]), np.float32) for tap in taps}
        new = [row for row, item in enumerate(items) if item.photo is not None]
        if new:
            pixels = np.stack([item.photo for item in items if item.photo is not None])
            computed = self.compute(pixels)
            for tap, values in found.items():
                values[new] = computed[tap]
            if self.writer and self.engine:
                digests = [items[row].digest for row in new]
                self.writer.add(digests, computed, engine=self.engine.name)
        places = {
            row: self.known[item.digest] for row, item in enumerate(items) if item.photo is None
        }
        for shard in {place.shard for place in places.values()}:
            rows = [row for row, place in places.items() if place.shard == shard]
            try:
                kept = shards.rows(shard, [places[row].row for row in rows], found)
            except shards.Damaged as damaged:
                message = f"{damaged}; set it aside with python -m extract verify and try again"
                raise InputError(message) from damaged
            for tap, values in kept.items():
                found[tap][rows] = values
        return found

    def of_files(self, paths: Sequence[str], taps: Sequence[str], *, keep: bool) -> Taps:
        """Return taps of files, a row each in their order.

        Parameters
        ----------
        paths : sequence of str, length n
        taps : sequence of str
        keep : bool
            Whether what is computed is added to the cache, which is locked meanwhile.

        Returns
        -------
        dict of tap to ndarray of shape (n, values), float32

        Raises
        ------
        ValueError
            If a file gives no picture.
        """
        found = {tap: np.empty((len(paths), TAPS[tap]), np.float32) for tap in taps}
        with self._kept() if keep else nullcontext():
            files = pipeline.read_ahead(Path(), paths, known=self.known)
            with closing(files):
                for start in range(0, len(paths), BATCH_SIZE):
                    batch = list(islice(files, BATCH_SIZE))
                    for item in batch:
                        if item.reason:
                            raise ValueError(f"{item.path}: {item.reason}")
                    for tap, values in self.taps(batch, taps).items():
                        found[tap][start : start + len(batch)] = values
        return found

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Add what is computed in the block to the cache."""
        with lock.held(self.folder.parent / "lock"):
            # Others may have added and removed some meanwhile.
            self.known = shard_index.read(self.folder, self.recipe)
            try:
                with Writer(self.folder, self.recipe) as self.writer:
                    yield
            finally:
                self.writer = None
            self.known = shard_index.read(self.folder, self.recipe)


def _left(damaged: shards.Damaged) -> None:
    warn(f"{damaged}; not used, its images are computed anew")
