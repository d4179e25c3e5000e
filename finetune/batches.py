"""Photos to batches: RGB and one-hot labels, decoded in threads while the network trains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract import pipeline
from extract.backend import keras
from extract.console import InputError
from extract.store import Features

BATCH_SIZE = 32
KEPT_BYTES = 1 << 30
"""Decoded photos are kept in memory for the next epoch up to this much."""


class _Split(keras.utils.PyDataset):  # type: ignore[misc]
    """The rows of a split, in batches; every row once an epoch, the last batch may be smaller."""

    def __init__(self, features: Features, split: str, *, seed: int | None) -> None:
        super().__init__(workers=pipeline.READERS, max_queue_size=4)
        rows = features.rows(split)
        self.labels = one_hot(features.labels[rows], len(features.class_names))
        self.random = None if seed is None else np.random.default_rng(seed)
        self.order = np.arange(len(rows))
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self.order) // BATCH_SIZE)

    def __getitem__(self, number: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return inputs (b, ...) and one-hot labels (b, k) float32."""
        rows = self.order[number * BATCH_SIZE : (number + 1) * BATCH_SIZE]
        return np.stack([self.input(row) for row in rows]), self.labels[rows]

    def on_epoch_end(self) -> None:
        """Put the rows in a new order."""
        if self.random is not None:
            self.order = self.random.permutation(len(self.order))

    def input(self, row: int) -> NDArray[Any]:
        """Return what the network is given of one row."""
        raise NotImplementedError


class TapBatches(_Split):
    """Batches of cached taps side by side, (b, values) float32, and one-hot labels.

    Parameters
    ----------
    features : Features
    taps : sequence of str
    split : str
    seed : int or None
        Rows come in a new order each epoch, by this seed; in path order if None.
    """

    def __init__(
        self, features: Features, taps: Sequence[str], split: str, *, seed: int | None = None
    ) -> None:
        super().__init__(features, split, seed=seed)
        self.taps = features.read(taps, split)

    def input(self, row: int) -> NDArray[np.float32]:
        """Return the taps of one photo, of shape (values,)."""
        values: NDArray[np.float32] = self.taps[row]
        return values


class Batches(_Split):
    """Batches of photos, (b, size, size, 3) uint8 RGB, and one-hot labels.

    Parameters
    ----------
    features : Features
        Says which photos, with which labels and digests.
    split : str
    size : int
        Side of the photos in pixels.
    seed : int or None
        Photos come in a new order each epoch, by this seed; in path order if None.
    """

    def __init__(
        self, features: Features, split: str, *, size: int, seed: int | None = None
    ) -> None:
        super().__init__(features, split, seed=seed)
        rows = features.rows(split)
        self.root = Path(str(features.attributes["root"]))
        self.paths = [features.paths[row] for row in rows]
        self.digests = [features.digests[row] for row in rows]
        self.size = size
        self.kept: dict[int, NDArray[np.uint8]] = {}

    def input(self, row: int) -> NDArray[np.uint8]:
        """Decode one photo, or remember it: shape (size, size, 3).

        Raises
        ------
        InputError
            If the file is not the one whose features were extracted.
        """
        if row in self.kept:
            return self.kept[row]
        item = pipeline.read(self.root, self.paths[row], size=self.size)
        if item.photo is None or item.digest != self.digests[row]:
            problem = item.reason or "has changed since its features were extracted"
            raise InputError(f"{self.root / self.paths[row]}: {problem}; run make features")
        if (len(self.kept) + 1) * item.photo.nbytes <= KEPT_BYTES:
            self.kept[row] = item.photo
        return item.photo


def one_hot(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Return one row a label, 1 in its column and 0 elsewhere: shape (n, classes), float32."""
    return np.eye(classes, dtype=np.float32)[labels]


def augmentation(seed: int) -> Any:
    """Return the layers that vary training photos: mirrored, turned, zoomed, lighter or darker."""
    return keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal", seed=seed),
            keras.layers.RandomRotation(0.05, seed=seed),
            keras.layers.RandomZoom(0.15, seed=seed),
            keras.layers.RandomContrast(0.2, value_range=(0, 255), seed=seed),
        ],
        name="augmentation",
    )
