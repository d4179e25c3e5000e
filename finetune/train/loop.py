"""Train a network in phases, keep its best weights by the val split, remember every epoch."""

import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from classify.results import Predictions
from extract.compute import activations
from extract.compute.activations import Activations
from extract.store.features_file import Features
from extract.system import atomic, console
from extract.system.console import InputError, Stopped, say, warn
from extract.vgg16 import keras_backend
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import SIZE
from extract.vgg16.weights import Weights
from finetune.train import checkpoint, logistic_top, networks
from finetune.train.batches import BATCH_SIZE, ActivationBatches, Batches, augmentation
from finetune.train.hardware import Hardware

History = dict[str, list[Any]]
Asked = dict[str, Any]

HERE = Hardware()
"""One processor."""

STATE = "training.h5"
"""File in the folder of a result while it is trained."""

LOGS = "tensorboard"
"""Folder in that of a result with the curves of its training, for TensorBoard."""

BEST_SO_FAR = "best-so-far.keras"
"""File in the folder of a result whose training was stopped."""


class Schedule(NamedTuple):
    """How long and how fast to train.

    Attributes
    ----------
    learning_rate : float
        Of AdamW at its highest, after `warmup` epochs; from there it falls along a cosine to 0.
    epochs : int
        At most.
    patience : int
        Epochs without a better `monitor` before training stops.
    monitor : str
        ``loss`` or ``accuracy``, of the val split.
    warmup : int
        Epochs in which the learning rate rises from 0.
    weight_decay : float
        Of AdamW: what share of a weight goes each step, times the learning rate.
    batch_size : int
    label_smoothing : float
        Share of each label that is given to all classes alike (Szegedy et al., arXiv 1512.00567).
    """

    learning_rate: float
    epochs: int
    patience: int
    monitor: str = "loss"
    warmup: int = 0
    weight_decay: float = 0.0
    batch_size: int = BATCH_SIZE
    label_smoothing: float = 0.0


def schedule(phase: str, photos: int) -> Schedule:
    """Choose a schedule from the number of training photos.

    As in BiT's hyper-rule (Kolesnikov et al., arXiv 1912.11370), what is fixed is about how many
    steps a phase takes: fewer photos are seen more often.

    Parameters
    ----------
    phase : str
        ``scratch``, or the first block that is trained: ``block5``, ``block4``, ``all``.
    photos : int
    """
    steps = -(-photos // BATCH_SIZE)
    if phase == "scratch":
        # With few photos the val loss of a network from scratch rises with its confidence long
        # before its accuracy stops rising.
        epochs = int(np.clip(5000 // steps, 40, 120))
        how = Schedule(1e-3, epochs, patience=epochs // 4, monitor="accuracy")
        return how._replace(warmup=2, weight_decay=1e-3)
    epochs = int(np.clip(400 // steps, 4, 12))
    return Schedule(1e-5, epochs, patience=2, warmup=1, weight_decay=1e-2)


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
        Of the phases ``features`` and ``activations``, where what is cached of them was used,
        whenever it was computed, and ``fit``, all epochs.
    parameters : int
        Numbers that were learned from these photos.
    """

    network: keras.Model
    history: History
    schedules: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    parameters: int


class _Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """What is done around each epoch: draw, time, remember the best weights, stop, keep the state.

    Attributes
    ----------
    history : dict of str to list
    best : list of ndarray
        Weights of the best epoch, or those before the first if none was better.
    """

    def __init__(
        self,
        network: keras.Model,
        train: Any,
        how: Schedule,
        *,
        before: float,
        keep: Callable[[checkpoint.State], None],
        advance: Callable[[int], None],
        on: Hardware,
    ) -> None:
        super().__init__()
        self.network, self.train, self.how, self.on = network, train, how, on
        self.sign = 1 if how.monitor == "accuracy" else -1
        self.before = before
        self.keep = keep
        self.advance = advance
        self.history: History = {}
        self.best: checkpoint.Arrays = network.get_weights()

    def waited(self) -> int:
        """Return how many epochs ago the best one was."""
        values = self.sign * np.array([self.before, *self.history.get(self.monitored, [])])
        return len(values) - 1 - int(np.argmax(values))

    @property
    def monitored(self) -> str:
        """What decides which epoch is the best."""
        return f"val_{self.how.monitor}"

    def resume(self, state: checkpoint.State) -> None:
        """Go on from the state after some epochs."""
        self.history, self.best = state.history, state.best
        for variable, value in zip(_variables(self.model), state.variables, strict=True):
            variable.assign(value)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.train.begin(epoch)
        self.started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.advance(1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = self.on.mean({name: float(value) for name, value in (logs or {}).items()})
        if not np.isfinite(logs["loss"]):
            # What is kept is from before.
            self.history.setdefault("loss", []).append(logs["loss"])
            self.model.stop_training = True
            return
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        self.history.setdefault("seconds", []).append(time.perf_counter() - self.started)
        if not self.waited():
            self.best = self.network.get_weights()
        self.model.stop_training = self.waited() >= self.how.patience
        values = [keras.ops.convert_to_numpy(variable) for variable in _variables(self.model)]
        self.keep(checkpoint.State(self.history, values, self.best))


def fit(
    network: keras.Model,
    train: Any,
    val: Any,
    *,
    phase: str,
    how: Schedule,
    augmentation: keras.Model | None = None,
    kept: Path | None = None,
    of: dict[str, Any] | None = None,
    logs: Path | None = None,
    on: Hardware = HERE,
) -> History:
    """Train what is not frozen of a network and leave it with the weights that did best on val.

    Weights that no epoch improved stay as they were. So it is left too when a signal stops the
    training.

    Parameters
    ----------
    network : keras.Model
        Ends in probabilities.
    train, val : keras.utils.PyDataset
        Of inputs and one-hot labels; `train` has a method ``begin(epoch)``.
    phase : str
        Name, for the history and the progress bar.
    how : Schedule
    augmentation : keras.Model or None
        Varies the training photos.
    kept : Path or None
        File that keeps the state after each epoch; training goes on from what it holds.
    of : dict or None
        What the state depends on besides `how`: one that was kept of something else is not used.
    logs : Path or None
        Folder for TensorBoard, emptied first unless training goes on.
    on : Hardware
        In whose scope `network` and `augmentation` were made.

    Returns
    -------
    dict of str to list
        ``loss``, ``val_loss``, ``accuracy``, ``val_accuracy``, ``seconds``, ``phase``: one entry
        an epoch.

    Raises
    ------
    InputError
        If the loss is no longer a number, or memory does not suffice.
    """
    described = {"of": of, "phase": phase, "how": how._asdict()}
    try:
        with on.scope():
            trained = network
            if augmentation is not None:
                photos = keras.Input(network.input_shape[1:])
                trained = keras.Sequential([photos, augmentation, network])
            _compile(network, how, len(train), on=on)
            before = on.mean(network.evaluate(val, verbose=0, return_dict=True))[how.monitor]
            _compile(trained, how, len(train), on=on)
        with console.progress(phase, how.epochs * len(train), unit="batches") as advance:

            def keep(state: checkpoint.State) -> None:
                if kept is not None and on.is_chief:
                    checkpoint.write(kept, state, of=described)

            epochs = _Epochs(network, train, how, before=before, keep=keep, advance=advance, on=on)
            epochs.set_model(trained)
            state = checkpoint.read(kept, of=described) if kept is not None else None
            if state is not None:
                epochs.resume(state)
                say(f"{phase}: going on after epoch {len(state.history['loss'])}")
            callbacks = [epochs]
            if on.between is None:
                # Amid an epoch workers would not all stop.
                callbacks.append(keras.callbacks.TerminateOnNaN())
            if logs is not None and on.is_chief:
                if state is None:
                    shutil.rmtree(logs, ignore_errors=True)
                callbacks.append(keras.callbacks.TensorBoard(logs, write_graph=False))
            done = len(epochs.history.get("loss", []))
            # Not every backend waits for the first epoch to begin before it fetches batches.
            train.begin(done)
            advance(done * len(train))
            if not done or epochs.waited() < how.patience:
                try:
                    trained.fit(
                        train,
                        validation_data=val,
                        epochs=how.epochs,
                        initial_epoch=done,
                        callbacks=callbacks,
                        # The order is drawn by `train`, and the same when training is resumed.
                        shuffle=False,
                        verbose=0,
                    )
                finally:
                    network.set_weights(epochs.best)
    except Exception as error:
        if not keras_backend.is_out_of_memory(error):
            raise
        raise InputError(
            f"{phase}: not enough memory for batches of {how.batch_size}; "
            f"try --batch-size {max(1, how.batch_size // 2)}"
        ) from error
    history = epochs.history
    if not np.all(np.isfinite(history["loss"])):
        raise InputError(
            f"{phase}: the loss is no longer a number after epoch {len(history['loss'])}; "
            "choose a smaller --learning-rate"
        )
    return {**history, "phase": [phase] * len(history["loss"])}


def _compile(network: keras.Model, how: Schedule, steps: int, *, on: Hardware = HERE) -> None:
    warmup = how.warmup * steps
    rate = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else how.learning_rate,
        max(1, how.epochs * steps - warmup),
        warmup_target=how.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    network.compile(
        optimizer=on.optimizer(learning_rate=rate, weight_decay=how.weight_decay),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=how.label_smoothing),
        weighted_metrics=["accuracy"],
        # XLA cannot average over workers.
        jit_compile="auto" if on.between is None else False,
    )
    network.optimizer.build(network.trainable_variables)


def _learned(network: keras.Model) -> int:
    """Count the numbers that were trained."""
    return sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)


def _variables(network: keras.Model) -> list[Any]:
    """Return all that changes in training: weights, random generators, optimizer."""
    return [*network.variables, *network.optimizer.variables]


def train_baseline(
    features: Features, *, seed: int, asked: Asked, folder: Path, on: Hardware = HERE
) -> Trained:
    """Train the small network from scratch on the train split.

    Parameters
    ----------
    features : Features
        Says which photos; its taps are not used.
    seed : int
    asked : dict
        ``batch_norm``, ``balanced``, and what of the schedule is to differ from the rule:
        ``learning_rate``, ``epochs``, ``batch_size``, ``label_smoothing``.
    folder : Path
        Of the result; the state after each epoch is kept there.
    on : Hardware
    """
    keras.utils.set_random_seed(seed)
    build = partial(
        networks.baseline, len(features.class_names), batch_norm=bool(asked["batch_norm"])
    )
    with on.scope():
        network, varied = build(precision=on.precision), augmentation(seed)
    photos = partial(
        Batches, features, size=networks.BASELINE_SIZE, balanced=bool(asked["balanced"])
    )
    how = _override(schedule("scratch", len(features.rows("train"))), asked)
    history = _last_phase(
        network,
        network,
        photos("train", seed=seed, batch_size=how.batch_size, share=on.train),
        photos("val", share=on.val),
        phase="scratch",
        how=how,
        augmentation=varied,
        folder=folder,
        of=_of(features, seed, asked, on),
        on=on,
    )
    seconds = {"fit": float(sum(history["seconds"]))}
    schedules = {"scratch": how._asdict()}
    return Trained(on.plain(network, build), history, schedules, seconds, _learned(network))


def train_finetuned(
    features: Features,
    vgg16: Weights,
    *,
    seed: int,
    asked: Asked,
    folder: Path,
    out: Path,
    on: Hardware = HERE,
) -> Trained:
    """Give VGG16 a new top, fitted on the cached features, then train its last layers.

    These are given cached activations, where frozen layers come before them and `asked` names a
    number of variants; otherwise photos that are augmented anew each time.

    Parameters
    ----------
    features : Features
    vgg16 : Weights
        Those that the features were made with.
    seed : int
    asked : dict
        ``unfreeze``, ``variants``, ``balanced``, and what of the last phase's schedule is to
        differ from the rule.
    folder : Path
        Of the result; the state after each epoch is kept there.
    out : Path
        Where ``features/`` is.
    on : Hardware
    """
    keras.utils.set_random_seed(seed)
    start, balanced = str(asked["unfreeze"]), bool(asked["balanced"])
    how = _override(schedule(start, len(features.rows("train"))), asked)

    with on.scope():
        top, first, chosen = logistic_top.fit(
            features, balanced=balanced, label_smoothing=how.label_smoothing
        )
        network = networks.vgg16_with(top, vgg16.arrays, precision=on.precision)

    def plain() -> keras.Model:
        return networks.vgg16_with(keras.models.clone_model(top), vgg16.arrays)

    networks.unfreeze(network, start)
    seconds = {"features": features.seconds_of(SIZE)}
    if start in networks.ENTERED_BY and asked["variants"]:
        layer = networks.ENTERED_BY[start]
        variants = cached(features, vgg16, layer, variants=asked["variants"], out=out)
        seconds["activations"] = sum(variant.seconds for variant in variants)
        batches = partial(ActivationBatches, features, balanced=balanced)
        train: Any = batches(
            "train", variants, seed=seed, batch_size=how.batch_size, share=on.train
        )
        val: Any = batches("val", variants[:1], share=on.val)
        with on.scope():
            trained, varied = networks.tail(network, start), None
    else:
        photos = partial(Batches, features, size=SIZE, balanced=balanced)
        train = photos("train", seed=seed, batch_size=how.batch_size, share=on.train)
        val = photos("val", share=on.val)
        with on.scope():
            trained, varied = network, augmentation(seed)
    second = _last_phase(
        trained,
        network,
        train,
        val,
        phase=start,
        how=how,
        augmentation=varied,
        folder=folder,
        of=_of(features, seed, asked, on),
        on=on,
    )
    history = {key: first[key] + second[key] for key in first}
    seconds["fit"] = sum(history["seconds"])
    return Trained(
        on.plain(network, plain),
        history,
        {"top": chosen, start: how._asdict()},
        seconds,
        _learned(network),
    )


def cached(
    features: Features, vgg16: Weights, layer: str, *, variants: int, out: Path
) -> list[Activations]:
    """Have the activations of a layer in the cache: of train in every variant, of val plain."""
    return [
        activations.make(
            features,
            ("train",) if variant else ("train", "val"),
            vgg16,
            layer=layer,
            variant=variant,
            out=out,
        )
        for variant in range(variants)
    ]


def _last_phase(
    trained: keras.Model,
    whole: keras.Model,
    train: Any,
    val: Any,
    *,
    folder: Path,
    on: Hardware,
    **options: Any,
) -> History:
    """Train as `fit` does, and keep the best network so far if a signal stops it."""
    try:
        return fit(trained, train, val, kept=folder / STATE, logs=folder / LOGS, on=on, **options)
    except Stopped:
        if not on.is_chief:
            raise
        path = folder / BEST_SO_FAR
        save(whole, path)
        warn(f"{path}: the best network so far")
        raise


def save(network: keras.Model, path: Path) -> None:
    """Write a network, whole or not at all."""
    with console.finishing(), tempfile.TemporaryDirectory() as temporary:
        # Keras wants the file's name to end in .keras.
        written = Path(temporary, "model.keras")
        network.save(written)
        atomic.write_bytes(path, written.read_bytes())


def _of(features: Features, seed: int, asked: Asked, on: Hardware) -> dict[str, Any]:
    """Describe what a state of training depends on besides its schedule."""
    return {
        "data_digest": features.data_digest,
        "weights_digest": str(features.attributes["weights_digest"]),
        "seed": seed,
        "asked": asked,
        "precision": on.precision,
        "parts": on.train.parts,
    }


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
    given = {
        key: asked[key]
        for key in ("learning_rate", "epochs", "batch_size", "label_smoothing")
        if asked[key] is not None
    }
    return how._replace(**given)
