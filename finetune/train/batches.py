"""Photos to batches: RGB and one-hot labels, decoded in threads while the network trains."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_sample_weight

from extract.compute import pipeline
from extract.compute.activations import Activations
from extract.store.features_file import Features
from extract.system import locations
from extract.system.console import InputError
from extract.vgg16.keras_backend import keras

BATCH_SIZE = 32
Batch = tuple[NDArray[Any], ...]
# On JAX Keras 3.15 begins an epoch with batches that its threads fetched for the one before.
WORKERS = locations.DISK_READERS if keras.backend.backend() == "tensorflow" else 1
KEPT_BYTES = 1 << 30
"""Decoded photos are kept in memory for the next epoch up to this much."""


class Share(NamedTuple):
    """What one worker is given of every batch.

    Attributes
    ----------
    parts : int
        A batch is made up of so many of equal size; where rows are wanting one is repeated, with
        no weight.
    part : int or None
        The one that is given; all of them if None.
    """

    parts: int = 1
    part: int | None = None

    def of(
        self, rows: NDArray[np.intp], weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Return rows and weights of the share; the mean over all parts is that of the batch."""
        wanting = -len(rows) % self.parts
        weights = np.append(weights * (1 + wanting / len(rows)), np.zeros(wanting))
        rows = np.append(rows, np.repeat(rows[:1], wanting))
        given = slice(self.part, None, 1 if self.part is None else self.parts)
        return rows[given], weights[given].astype(np.float32)


WHOLE = Share()


class _Split(keras.utils.PyDataset):  # type: ignore[misc]
    """The rows of a split, in batches; every row once an epoch, the last batch may be smaller.

    What is drawn at random is a function of seed and epoch, so that training which is resumed is
    given what it would have been given.
    """

    def __init__(
        self,
        features: Features,
        split: str,
        *,
        seed: int | None,
        batch_size: int,
        balanced: bool,
        share: Share,
    ) -> None:
        super().__init__(workers=WORKERS, max_queue_size=4)
        rows = features.rows(split)
        self.digests = [features.digests[row] for row in rows]
        self.labels = one_hot(features.labels[rows], len(features.class_names))
        weights = class_weights(features.labels[rows]) if balanced else np.ones(len(rows))
        self.weights = weights.astype(np.float32)
        self.weighted = balanced or share != WHOLE
        self.share = share
        self.seed = seed
        self.batch_size = batch_size
        self.order = np.arange(len(rows))
        self.begin(0)

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        """Return inputs (b, ...), one-hot labels (b, k) and, if they differ, weights (b,)."""
        rows = self.order[number * self.batch_size : (number + 1) * self.batch_size]
        rows, weights = self.share.of(rows, self.weights[rows])
        batch = np.stack([self.input(row) for row in rows]), self.labels[rows]
        return (*batch, weights) if self.weighted else batch

    def begin(self, epoch: int) -> None:
        """Draw what is new in an epoch, counted from 0: the order of the rows."""
        if self.seed is not None:
            self.draw(np.random.default_rng([self.seed, epoch]))

    def draw(self, random: np.random.Generator) -> None:
        """Put the rows in an order drawn from `random`."""
        self.order = random.permutation(len(self.order))

    def input(self, row: int) -> NDArray[Any]:
        """Return what the network is given of one row."""
        raise NotImplementedError


class ActivationBatches(_Split):
    """Batches of cached activations, (b, height, width, channels) float32, and one-hot labels.

    Parameters
    ----------
    features : Features
    split : str
    variants : sequence of Activations
        Of one layer; each epoch one of them is drawn for every photo.
    seed : int or None
        Rows come in a new order each epoch, by this seed; in path order and the first variant if
        None.
    batch_size : int
    balanced : bool
        Whether each row comes with a weight by which all classes of the split weigh the same.
    share : Share
        Of every batch.
    """

    def __init__(
        self,
        features: Features,
        split: str,
        variants: Sequence[Activations],
        *,
        seed: int | None = None,
        batch_size: int = BATCH_SIZE,
        balanced: bool = False,
        share: Share = WHOLE,
    ) -> None:
        self.variants = variants
        self.drawn = np.zeros(len(features.rows(split)), np.intp)
        super().__init__(
            features, split, seed=seed, batch_size=batch_size, balanced=balanced, share=share
        )

    def draw(self, random: np.random.Generator) -> None:
        """Draw a variant of every row, too."""
        super().draw(random)
        self.drawn = random.integers(len(self.variants), size=len(self.order))

    def input(self, row: int) -> NDArray[np.float32]:
        """Return the activations of one photo, of shape (height, width, channels)."""
        values: NDArray[np.float16] = self.variants[self.drawn[row]].read(self.digests[row])
        return values.astype(np.float32)


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
    batch_size : int
    balanced : bool
        Whether each row comes with a weight by which all classes of the split weigh the same.
    share : Share
        Of every batch.
    """

    def __init__(
        self,
        features: Features,
        split: str,
        *,
        size: int,
        seed: int | None = None,
        batch_size: int = BATCH_SIZE,
        balanced: bool = False,
        share: Share = WHOLE,
    ) -> None:
        super().__init__(
            features, split, seed=seed, batch_size=batch_size, balanced=balanced, share=share
        )
        rows = features.rows(split)
        self.root = locations.location(str(features.attributes["root"]))
        self.paths = [features.paths[row] for row in rows]
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


def class_weights(labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the weight of each row by which all classes weigh the same, 1 on average: (n,)."""
    weights: NDArray[np.float64] = compute_sample_weight("balanced", labels)
    return weights.astype(np.float32)


def augmentation(seed: int) -> Any:
    """Return the layers that vary training photos: mirrored, turned, zoomed, moved, lit."""
    return keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal", seed=seed),
            keras.layers.RandomRotation(0.05, seed=seed + 1),
            keras.layers.RandomZoom(0.2, seed=seed + 2),
            keras.layers.RandomTranslation(0.1, 0.1, seed=seed + 3),
            keras.layers.RandomContrast(0.2, value_range=(0, 255), seed=seed + 4),
        ],
        name="augmentation",
    )
