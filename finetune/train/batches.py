"""Batches of photos or cached activations, which threads read while the network trains."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_sample_weight

from extract.compute import reading
from extract.compute.activations import Activations
from extract.store.features_file import Features
from extract.system import locations, threads
from extract.system.console import InputError
from extract.system.machine import cores
from extract.vgg16.keras_backend import keras
from finetune.train import augmentation
from finetune.train.augmentation import Variation
from finetune.train.schedule import BATCH_SIZE

Batch = tuple[NDArray[Any], ...]

MOST_WORKERS = 8
"""Threads that make batches, at most. Each may hold a batch of block 3's activations, 26 MB."""

WORKERS = min(max(2, cores()), MOST_WORKERS)

PHOTO_CACHE_BYTES = 1 << 30
"""Largest total size of the decoded photos that are kept in memory for the next epoch."""

ACTIVATION_CACHE_BYTES = 1 << 28
"""The same for activations. To read and unpack those of one photo takes 2 ms."""


@dataclass(frozen=True)
class BatchPart:
    """The part of every batch that this process is given.

    Attributes
    ----------
    replicas : int
        Number of copies of the network, each on a device or machine of its own. A batch is divided
        among them evenly; a row that is repeated to make that possible has a sample weight of 0.
    replica : int or None
        The replica, counted from 0, that this process feeds. With None it feeds all replicas.
    """

    replicas: int = 1
    replica: int | None = None

    def select(
        self, rows: NDArray[np.intp], sample_weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Return this part of a batch: its rows and their sample weights, both of shape (m,).

        The sample weights are scaled so that the mean loss over all replicas is the mean loss over
        the n rows of the batch.

        Parameters
        ----------
        rows : ndarray of shape (n,), intp
        sample_weights : ndarray of shape (n,), float32
        """
        missing = -len(rows) % self.replicas
        scaled = np.append(sample_weights * (1 + missing / len(rows)), np.zeros(missing))
        padded = np.append(rows, np.repeat(rows[:1], missing))
        part = slice(None) if self.replica is None else slice(self.replica, None, self.replicas)
        return padded[part], scaled[part].astype(np.float32)


WHOLE_BATCH = BatchPart()


@dataclass(frozen=True)
class Batching:
    """How the rows of a split become batches.

    Attributes
    ----------
    batch_size : int
        Number of rows of a batch before it is divided among replicas.
    balanced : bool
        Whether rows have sample weights that give every class of the split the same total.
    part : BatchPart
    """

    batch_size: int = BATCH_SIZE
    balanced: bool = False
    part: BatchPart = WHOLE_BATCH


DEFAULT_BATCHING = Batching()


class _SplitBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """The rows of a split in batches. An epoch has every row once; its last batch may be smaller.

    All random draws depend only on the seed and the epoch. A resumed training therefore gets the
    same batches. Threads make the batches that come next. They are not Keras's own threads, because
    on JAX, Keras 3.15 begins an epoch with batches that those made for the epoch before.
    """

    def __init__(
        self, features: Features, split: str, *, seed: int | None, batching: Batching
    ) -> None:
        super().__init__()
        rows = features.rows(split)
        self.digests = [features.digests[row] for row in rows]
        self.labels = one_hot(features.labels[rows], len(features.class_names))
        self.sample_weights = (
            balanced_sample_weights(features.labels[rows])
            if batching.balanced
            else np.ones(len(rows), np.float32)
        )
        self.seed = seed
        self.batching = batching
        self.made: Generator[Batch, None, None] | None = None
        self.next_number = -1
        self.order = np.arange(len(rows))
        self.begin(0)

    def __len__(self) -> int:
        return -(-len(self.order) // self.batching.batch_size)

    def __getitem__(self, number: int) -> Batch:
        """Return a batch, counted from 0, or the part of it that this process is given.

        Returns
        -------
        inputs : ndarray of shape (m, ...)
        labels : ndarray of shape (m, k), float32
            One-hot.
        sample_weights : ndarray of shape (m,), float32
            Returned only if classes are balanced or batches divided.
        """
        if self.made is None or number != self.next_number:
            self.made = threads.ahead(
                self.batch, range(number, len(self)), workers=WORKERS, limit=WORKERS
            )
        self.next_number = number + 1
        batch = next(self.made)
        if self.next_number == len(self):
            # Otherwise its threads would wait for more until it is collected as garbage.
            self.made.close()
        return batch

    def batch(self, number: int) -> Batch:
        """Make a batch, counted from 0; threads call this."""
        size, part = self.batching.batch_size, self.batching.part
        rows = self.order[number * size : (number + 1) * size]
        rows, sample_weights = part.select(rows, self.sample_weights[rows])
        batch = np.stack([self.input(row) for row in rows]), self.labels[rows]
        is_weighted = self.batching.balanced or part != WHOLE_BATCH
        return (*batch, sample_weights) if is_weighted else batch

    def begin(self, epoch: int) -> None:
        """Draw the order of the rows for an epoch, counted from 0."""
        # What was made ahead is of the epoch before.
        self.next_number = -1
        if self.seed is not None:
            self.draw(np.random.default_rng([self.seed, epoch]))

    def draw(self, random: np.random.Generator) -> None:
        """Draw an order of the rows from `random`."""
        self.order = random.permutation(len(self.order))

    def input(self, row: int) -> NDArray[Any]:
        """Return the network's input for one row of the split."""
        raise NotImplementedError


class ActivationBatches(_SplitBatches):
    """Batches of cached activations, (m, height, width, channels) float32, and one-hot labels.

    Parameters
    ----------
    features : Features
        Its photos, labels and digests are used, not its taps.
    split : str
    variants : sequence of Activations
        Variants of the photos, all of one layer. One of them is drawn for each photo and epoch.
    seed : int or None
        Rows come in a new order each epoch, which depends on this seed. If None, they come in path
        order, and always of the first variant.
    batching : Batching
    """

    def __init__(
        self,
        features: Features,
        split: str,
        variants: Sequence[Activations],
        *,
        seed: int | None = None,
        batching: Batching = DEFAULT_BATCHING,
    ) -> None:
        self.variants = variants
        self.kept: dict[tuple[int, int], NDArray[np.float16]] = {}
        self.drawn = np.zeros(len(features.rows(split)), np.intp)
        super().__init__(features, split, seed=seed, batching=batching)

    def draw(self, random: np.random.Generator) -> None:
        """Draw an order of the rows, and a variant of each."""
        super().draw(random)
        self.drawn = random.integers(len(self.variants), size=len(self.order))

    def input(self, row: int) -> NDArray[np.float32]:
        """Return the activations of one photo, of shape (height, width, channels)."""
        variant = int(self.drawn[row])
        values = self.kept.get((variant, row))
        if values is None:
            values = self.variants[variant].read(self.digests[row])
            _keep(self.kept, (variant, row), values, largest=ACTIVATION_CACHE_BYTES)
        return values.astype(np.float32)


class PhotoBatches(_SplitBatches):
    """Batches of photos, (m, size, size, 3) uint8 RGB, and one-hot labels.

    Parameters
    ----------
    features : Features
        Its photos, labels and digests are used, not its taps.
    split : str
    size : int
        Side of the photos in pixels.
    seed : int or None
        Photos come in a new order each epoch, and each is varied at random; both depend on this
        seed. If None, they come in path order and as they are.
    batching : Batching
    """

    def __init__(
        self,
        features: Features,
        split: str,
        *,
        size: int,
        seed: int | None = None,
        batching: Batching = DEFAULT_BATCHING,
    ) -> None:
        self.variations: NDArray[np.float64] | None = None
        super().__init__(features, split, seed=seed, batching=batching)
        self.root = locations.location(str(features.attributes["root"]))
        self.paths = [features.paths[row] for row in features.rows(split)]
        self.size = size
        self.decoded: dict[int, NDArray[np.uint8]] = {}

    def draw(self, random: np.random.Generator) -> None:
        """Draw an order of the rows, and a variation of each."""
        super().draw(random)
        self.variations = augmentation.draw(random, len(self.order))

    def input(self, row: int) -> NDArray[np.uint8]:
        """Return one photo of shape (size, size, 3), varied if variations were drawn."""
        photo = self.photo(row)
        if self.variations is None:
            return photo
        return augmentation.vary(photo, Variation(*self.variations[row]))

    def photo(self, row: int) -> NDArray[np.uint8]:
        """Return one photo as it is, decoded now or in an earlier epoch.

        Raises
        ------
        InputError
            If the file cannot be read or has changed since its features were extracted.
        """
        if row in self.decoded:
            return self.decoded[row]
        item = reading.read(self.root, self.paths[row], size=self.size)
        if item.photo is None or item.digest != self.digests[row]:
            problem = item.reason or "has changed since its features were extracted"
            raise InputError(f"{self.root / self.paths[row]}: {problem}; run make features")
        _keep(self.decoded, row, item.photo, largest=PHOTO_CACHE_BYTES)
        return item.photo


def _keep(kept: dict[Any, Any], key: Any, values: NDArray[Any], *, largest: int) -> None:
    """Keep an array for the next epoch, unless all, which are as large, would be too large."""
    if (len(kept) + 1) * values.nbytes <= largest:
        kept[key] = values


@dataclass(frozen=True)
class TrainingData:
    """The data that a network is trained on and validated with.

    Attributes
    ----------
    train, val : keras.utils.PyDataset
        Inputs, one-hot labels and, if any differ, sample weights. The method ``begin(epoch)`` of
        `train` makes the random draws of an epoch.
    """

    train: Any
    val: Any


def for_keras(batches: keras.utils.PyDataset) -> Any:
    """Return batches as Keras should be given them.

    On TensorFlow, Keras makes a ``tf.data.Dataset`` of a PyDataset, which tunes how far it reads
    ahead. With TensorFlow 2.20, every second epoch or so then began with a wait of 0.9 s. Here
    nothing is tuned, because other threads make the batches ahead.

    Parameters
    ----------
    batches : keras.utils.PyDataset
        Only the first dimension of its arrays may differ between batches.

    Returns
    -------
    tf.data.Dataset, or `batches` on other backends
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    def epoch() -> Iterator[Batch]:
        batches.on_epoch_begin()
        for number in range(len(batches)):
            yield batches[number]

    untuned = tf.data.Options()
    untuned.autotune.enabled = False
    signature = tuple(tf.TensorSpec((None, *part.shape[1:]), part.dtype) for part in batches[0])
    dataset = tf.data.Dataset.from_generator(epoch, output_signature=signature)
    counted = tf.data.experimental.assert_cardinality(len(batches))
    return dataset.apply(counted).prefetch(1).with_options(untuned)


def one_hot(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Return a row for each of n labels, 1 in its column and 0 elsewhere: (n, classes) float32."""
    return np.eye(classes, dtype=np.float32)[labels]


def balanced_sample_weights(labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return a weight for each of n rows, of mean 1 and the same total in every class: (n,)."""
    sample_weights: NDArray[np.float64] = compute_sample_weight("balanced", labels)
    return sample_weights.astype(np.float32)
