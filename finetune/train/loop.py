"""The training loop: it keeps the best weights by the val split and remembers every epoch."""

import os
import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from extract.system import console
from extract.system.console import InputError, count, say, warn
from extract.vgg16 import keras_backend
from extract.vgg16.keras_backend import keras
from finetune.train import networks
from finetune.train.batches import TrainingData, for_keras
from finetune.train.checkpoint import Arrays, Checkpoint, State
from finetune.train.hardware import ONE_PROCESSOR, Hardware
from finetune.train.schedule import Phase, Schedule

History = dict[str, list[Any]]


class _Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Start and end epochs: draw batches, measure time, keep the best weights, save, stop early.

    Attributes
    ----------
    history : dict of str to list
        One entry per epoch.
    best : list of ndarray
        Weights after the best epoch, or the initial ones if no epoch was better than they are.
    """

    def __init__(
        self,
        network: keras.Model,
        train: Any,
        schedule: Schedule,
        *,
        initial: dict[str, float],
        checkpoint: Checkpoint | None,
        hardware: Hardware,
    ) -> None:
        super().__init__()
        self.set_model(network)
        self.train, self.schedule = train, schedule
        self.initial = initial
        self.checkpoint = checkpoint
        self.hardware = hardware
        self.history: History = {}
        self.best: Arrays = network.get_weights()

    @property
    def done(self) -> int:
        """Number of epochs that have ended."""
        return len(self.history.get("loss", []))

    @property
    def since_best(self) -> int:
        """Number of epochs since the best one, which is none whose loss is no number."""
        sign = 1 if self.schedule.monitor == "accuracy" else -1
        monitored = self.history.get(f"val_{self.schedule.monitor}", [])
        values = sign * np.array([self.initial[self.schedule.monitor], *monitored])
        losses = [self.initial["loss"], *self.history.get("val_loss", [])]
        values[~np.isfinite(losses)] = -np.inf
        return len(values) - 1 - int(np.argmax(values))

    @property
    def is_finished(self) -> bool:
        """Whether training ends because the best epoch was too long ago."""
        return self.done > 0 and self.since_best >= self.schedule.patience

    def resume(self) -> None:
        """Continue from the checkpoint, if it has a state of this training."""
        state = self.checkpoint.read() if self.checkpoint else None
        if self.checkpoint is None or state is None:
            return
        if not self._fits(state):
            warn(f"{self.checkpoint.path}: of another network, so the training begins anew")
            return
        self.history, self.best = state.history, state.best
        for variable, value in zip(self._variables(), state.variables, strict=True):
            variable.assign(value)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.train.begin(epoch)
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        metrics = self.hardware.mean({name: float(value) for name, value in (logs or {}).items()})
        if not np.isfinite(metrics["loss"]) or not _are_finite(self.model.get_weights()):
            # The best weights and the checkpoint stay those of earlier epochs.
            self.history.setdefault("loss", []).append(np.nan)
            self.model.stop_training = True
            return
        for name, value in metrics.items():
            self.history.setdefault(name, []).append(value)
        self.history.setdefault("seconds", []).append(time.perf_counter() - self.started)
        if not self.since_best:
            self.best = self.model.get_weights()
        self.model.stop_training = self.is_finished
        if self.checkpoint is not None and self.hardware.is_chief:
            values = [keras.ops.convert_to_numpy(variable) for variable in self._variables()]
            self.checkpoint.write(State(self.history, values, self.best))

    def _variables(self) -> list[Any]:
        """Return everything that changes in training: weights, random generators, optimizer."""
        return [*self.model.variables, *self.model.optimizer.variables]

    def _fits(self, state: State) -> bool:
        """Say whether a state is of this network, which another version of Keras may change."""
        return [array.shape for array in (*state.variables, *state.best)] == [
            tuple(array.shape) for array in (*self._variables(), *self.best)
        ]


def _are_finite(weights: Arrays) -> bool:
    return all(np.isfinite(array).all() for array in weights)


def fit(
    network: keras.Model,
    data: TrainingData,
    phase: Phase,
    *,
    checkpoint: Checkpoint | None = None,
    logs: Path | None = None,
    hardware: Hardware = ONE_PROCESSOR,
) -> History:
    """Train the layers of a network that are not frozen, and leave it with its best weights.

    The best weights are those after the epoch that did best on the val split, or the initial ones
    if no epoch improved on them. This also holds if a signal stops the training.

    Parameters
    ----------
    network : keras.Model
        It returns probabilities.
    data : TrainingData
    phase : Phase
    checkpoint : Checkpoint or None
        Holds the state after each epoch. Training goes on from a state that it holds already.
    logs : Path or None
        Folder for TensorBoard, which is emptied first unless training goes on. Nothing is
        written there without TensorFlow.
    hardware : Hardware
        `network` was made in its scope.

    Returns
    -------
    dict of str to list
        ``loss``, ``val_loss``, ``accuracy``, ``val_accuracy``, ``seconds``, ``phase``: one entry
        per epoch.

    Raises
    ------
    InputError
        If the loss is no longer a number, or there is not enough memory.
    OSError
        If the disk is full.
    """
    try:
        epochs = _epochs(network, data, phase.schedule, checkpoint=checkpoint, hardware=hardware)
        _run(epochs, data, phase, logs=logs)
    except Exception as error:
        if number := keras_backend.full_disk(error):
            raise OSError(number, os.strerror(number), str(logs)) from error
        if not keras_backend.is_out_of_memory(error):
            raise
        size = phase.schedule.batch_size
        raise InputError(
            f"{phase.name}: not enough memory for batches of {size}; "
            f"try --batch-size {max(1, size // 2)}"
        ) from error
    _check_losses(epochs, phase)
    return {**epochs.history, "phase": [phase.name] * epochs.done}


def _check_losses(epochs: _Epochs, phase: Phase) -> None:
    """Raise InputError if the training left the numbers."""
    if not np.all(np.isfinite(epochs.history["loss"])):
        raise InputError(
            f"{phase.name}: the loss is no longer a number after epoch {epochs.done}; "
            "choose a smaller --learning-rate"
        )
    if not np.any(np.isfinite(epochs.history["val_loss"])):
        raise InputError(
            f"{phase.name}: the loss on val was no number after any of {epochs.done} epochs; "
            "choose a smaller --learning-rate"
        )


def compile_network(
    network: keras.Model, schedule: Schedule, steps: int, *, hardware: Hardware = ONE_PROCESSOR
) -> None:
    """Give a network its loss, its metrics and an optimizer that follows a schedule.

    Parameters
    ----------
    network : keras.Model
    schedule : Schedule
    steps : int
        Number of batches of an epoch.
    hardware : Hardware
    """
    decay = schedule.layer_decay
    factors = () if decay == 1.0 else networks.rate_factors(network, layer_decay=decay)
    warmup = schedule.warmup * steps
    rate = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else schedule.learning_rate,
        max(1, schedule.epochs * steps - warmup),
        warmup_target=schedule.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    network.compile(
        optimizer=hardware.optimizer(
            factors=factors, learning_rate=rate, weight_decay=schedule.weight_decay
        ),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=schedule.label_smoothing),
        weighted_metrics=["accuracy"],
        jit_compile=hardware.jit_compile,
    )
    network.optimizer.build(network.trainable_variables)


def _epochs(
    network: keras.Model,
    data: TrainingData,
    schedule: Schedule,
    *,
    checkpoint: Checkpoint | None,
    hardware: Hardware,
) -> _Epochs:
    """Return the callback of a compiled model, in the state that the checkpoint has."""
    steps = len(data.train)
    with hardware.scope():
        compile_network(network, schedule, steps, hardware=hardware)
        metrics = hardware.mean(network.evaluate(for_keras(data.val), verbose=0, return_dict=True))
    epochs = _Epochs(
        network,
        data.train,
        schedule,
        initial=metrics,
        checkpoint=checkpoint,
        hardware=hardware,
    )
    epochs.resume()
    return epochs


def _run(epochs: _Epochs, data: TrainingData, phase: Phase, *, logs: Path | None) -> None:
    """Run the epochs that are left, then give the network its best weights."""
    done, steps = epochs.done, len(data.train)
    if done:
        say(f"{phase.name}: going on after epoch {done}")
    stage = f"{epochs.model.name}, {count(phase.schedule.epochs, 'epoch')}"
    total = phase.schedule.epochs * steps
    with console.progress(stage, total, unit="batches", done=done * steps, at_most=True) as advance:
        # Some backends fetch batches before the first epoch begins.
        data.train.begin(done)
        try:
            if not epochs.is_finished:
                epochs.model.fit(
                    for_keras(data.train),
                    validation_data=for_keras(data.val),
                    epochs=phase.schedule.epochs,
                    initial_epoch=done,
                    callbacks=[
                        keras.callbacks.LambdaCallback(
                            on_train_batch_end=lambda batch, logs: advance(1)
                        ),
                        epochs,
                        *_callbacks(epochs, logs),
                    ],
                    # `data.train` draws the order, the same when training is resumed.
                    shuffle=False,
                    verbose=0,
                )
        finally:
            epochs.model.set_weights(epochs.best)


def _callbacks(epochs: _Epochs, logs: Path | None) -> list[keras.callbacks.Callback]:
    """Return those of Keras's own callbacks that this hardware can use."""
    callbacks = []
    if epochs.hardware.worker_strategy is None:
        # A worker must not stop in the middle of an epoch while the others go on.
        callbacks.append(keras.callbacks.TerminateOnNaN())
    if logs is not None and epochs.hardware.is_chief:
        if not epochs.done:
            shutil.rmtree(logs, ignore_errors=True)
        # Keras writes curves with TensorFlow, which another backend does without.
        if find_spec("tensorflow"):
            callbacks.append(keras.callbacks.TensorBoard(logs, write_graph=False))
    return callbacks
