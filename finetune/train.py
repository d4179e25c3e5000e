"""Train a network in phases, keep its best weights by the val split, remember every epoch."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from classify.results import Predictions
from extract import console
from extract.backend import keras
from extract.console import InputError
from extract.recipe import SIZE
from extract.store import Features
from extract.weights import Weights
from finetune import networks
from finetune.batches import BATCH_SIZE, Batches, TapBatches, augmentation

History = dict[str, list[Any]]
Asked = dict[str, Any]


class Schedule(NamedTuple):
    """How long and how fast to train.

    Attributes
    ----------
    learning_rate : float
        Of Adam.
    epochs : int
        At most.
    patience : int
        Epochs without a better `monitor` before training stops.
    monitor : str
        ``loss`` or ``accuracy``, of the val split.
    """

    learning_rate: float
    epochs: int
    patience: int
    monitor: str = "loss"


def schedule(phase: str, photos: int) -> Schedule:
    """Choose a schedule from the number of training photos.

    As in BiT's hyper-rule (Kolesnikov et al., arXiv 1912.11370), what is fixed is about how many
    steps a phase takes: fewer photos are seen more often.

    Parameters
    ----------
    phase : str
        ``scratch``, ``top``, or the first block that is trained: ``block5``, ``block4``, ``all``.
    photos : int
    """
    steps = -(-photos // BATCH_SIZE)
    if phase == "scratch":
        # With few photos the val loss of a network from scratch rises with its confidence long
        # before its accuracy stops rising.
        epochs = int(np.clip(4000 // steps, 40, 120))
        return Schedule(1e-3, epochs, patience=epochs // 4, monitor="accuracy")
    if phase == "top":
        return Schedule(1e-3, int(np.clip(8000 // steps, 50, 300)), patience=10)
    return Schedule(1e-5, int(np.clip(200 // steps, 4, 12)), patience=2)


class Trained(NamedTuple):
    """A network that was trained on a data set.

    Attributes
    ----------
    network : keras.Model
        Photos to probabilities, without the augmentation.
    history : dict of str to list
        One entry an epoch, of all phases.
    schedules : dict of str to dict
        By phase.
    seconds : dict of str to float
        Of the phases ``features`` (only where cached features were used) and ``fit``.
    parameters : int
        Numbers that were learned from these photos.
    """

    network: keras.Model
    history: History
    schedules: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    parameters: int


class _Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Show the batches as they are done; time the epochs."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        super().__init__()
        self.advance = advance
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.advance(1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def fit(
    network: keras.Model,
    train: Any,
    val: Any,
    *,
    phase: str,
    how: Schedule,
    augmentation: keras.Model | None = None,
) -> History:
    """Train what is not frozen of a network and leave it with the weights that did best on val.

    Weights that no epoch improved stay as they were.

    Parameters
    ----------
    network : keras.Model
        Ends in probabilities.
    train, val : keras.utils.PyDataset
        Of inputs and one-hot labels.
    phase : str
        Name, for the history and the progress bar.
    how : Schedule
    augmentation : keras.Model or None
        Varies the training photos.

    Returns
    -------
    dict of str to list
        ``loss``, ``val_loss``, ``accuracy``, ``val_accuracy``, ``seconds``, ``phase``: one entry
        an epoch.

    Raises
    ------
    InputError
        If the loss is no longer a number.
    """
    _compile(network, how.learning_rate)
    before = network.evaluate(val, verbose=0, return_dict=True)[how.monitor]
    weights = network.get_weights()
    trained = network
    if augmentation is not None:
        trained = keras.Sequential([keras.Input(network.input_shape[1:]), augmentation, network])
        _compile(trained, how.learning_rate)
    with console.progress(phase, how.epochs * len(train), unit="batches") as advance:
        epochs = _Epochs(advance)
        stop = keras.callbacks.EarlyStopping(
            f"val_{how.monitor}",
            mode="min" if how.monitor == "loss" else "max",
            patience=how.patience,
            restore_best_weights=True,
        )
        history = trained.fit(
            train,
            validation_data=val,
            epochs=how.epochs,
            callbacks=[epochs, stop, keras.callbacks.TerminateOnNaN()],
            verbose=0,
        ).history
    if not np.all(np.isfinite(history["loss"])):
        network.set_weights(weights)
        raise InputError(
            f"{phase}: the loss is no longer a number after epoch {len(history['loss'])}; "
            "choose a smaller --learning-rate"
        )
    values = history[f"val_{how.monitor}"]
    if min(values) >= before if how.monitor == "loss" else max(values) <= before:
        network.set_weights(weights)
    return {**history, "seconds": epochs.seconds, "phase": [phase] * len(epochs.seconds)}


def _compile(network: keras.Model, learning_rate: float) -> None:
    network.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )


def train_baseline(features: Features, *, seed: int, asked: Asked) -> Trained:
    """Train the small network from scratch on the train split.

    Parameters
    ----------
    features : Features
        Says which photos; its taps are not used.
    seed : int
    asked : dict
        What of the schedule is to differ from the rule: ``learning_rate``, ``epochs``.
    """
    keras.utils.set_random_seed(seed)
    started = time.perf_counter()
    network = networks.baseline(len(features.class_names))
    size = networks.BASELINE_SIZE
    train = Batches(features, "train", size=size, seed=seed)
    how = _override(schedule("scratch", len(train.paths)), asked)
    history = fit(
        network,
        train,
        Batches(features, "val", size=size),
        phase="scratch",
        how=how,
        augmentation=augmentation(seed),
    )
    seconds = {"fit": time.perf_counter() - started}
    return Trained(network, history, {"scratch": how._asdict()}, seconds, network.count_params())


def train_finetuned(features: Features, vgg16: Weights, *, seed: int, asked: Asked) -> Trained:
    """Give VGG16 a new top, trained on the cached features, then train its last layers.

    Parameters
    ----------
    features : Features
    vgg16 : Weights
        Those that the features were made with.
    seed : int
    asked : dict
        ``unfreeze``, and what of the last phase's schedule is to differ from the rule.
    """
    keras.utils.set_random_seed(seed)
    started = time.perf_counter()
    classes = len(features.class_names)
    top = networks.top(features.read(networks.TOP_TAPS, "train"), classes)
    network = networks.vgg16_with(top, vgg16.arrays)
    photos = len(features.rows("train"))
    how_top = schedule("top", photos)
    first = fit(
        top,
        TapBatches(features, networks.TOP_TAPS, "train", seed=seed),
        TapBatches(features, networks.TOP_TAPS, "val"),
        phase="top",
        how=how_top,
    )
    start = str(asked["unfreeze"])
    networks.unfreeze(network, start)
    how = _override(schedule(start, photos), asked)
    second = fit(
        network,
        Batches(features, "train", size=SIZE, seed=seed),
        Batches(features, "val", size=SIZE),
        phase=start,
        how=how,
        augmentation=augmentation(seed),
    )
    return Trained(
        network,
        {key: first[key] + second[key] for key in first},
        {"top": how_top._asdict(), start: how._asdict()},
        {"features": features.seconds, "fit": time.perf_counter() - started},
        sum(int(np.prod(weight.shape)) for weight in network.trainable_weights),
    )


def predict(network: keras.Model, features: Features) -> Predictions:
    """Predict the test split, in path order."""
    test = Batches(features, "test", size=network.input_shape[1])
    rows = features.rows("test")
    probabilities = network.predict(test, verbose=0)
    assert len(probabilities) == len(rows)
    return Predictions(
        paths=test.paths,
        labels=features.labels[rows],
        probabilities=np.asarray(probabilities, dtype=np.float32),
    )


def _override(how: Schedule, asked: Asked) -> Schedule:
    given = {key: asked[key] for key in ("learning_rate", "epochs") if asked[key] is not None}
    return how._replace(**given)
