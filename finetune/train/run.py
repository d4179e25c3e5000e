"""From a request to a result: train a network and write its files."""

import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from classify import results
from classify.results import Predictions, Result
from extract.store import shards
from extract.store.features_file import Features
from extract.system import atomic, console
from extract.system.console import InputError, Stopped, say, warn
from extract.system.machine import machine
from extract.system.provenance import now, versions
from extract.vgg16 import weights
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import SIZE, digest_without_pairs
from extract.vgg16.weights import Weights
from finetune.train import setup, start
from finetune.train.batches import for_keras
from finetune.train.checkpoint import Checkpoint
from finetune.train.hardware import Hardware, detect
from finetune.train.loop import History, fit
from finetune.train.request import (
    BaselineOptions,
    FinetunedAllOptions,
    FinetunedOptions,
    Request,
)
from finetune.train.setup import Setup

CHECKPOINT = "training.h5"
"""The file in the folder of a result while its network is being trained."""

BEST_SO_FAR = "best-so-far.keras"
"""The file in the folder of a result after a signal stopped the training."""

LOGS = "tensorboard"
"""The folder, inside the folder of a result, with curves for TensorBoard."""


@dataclass(frozen=True)
class Trained:
    """A network that has been trained.

    Attributes
    ----------
    network : keras.Model
        Photos to probabilities, for any machine.
    history : dict of str to list
        Learning curves of all phases, one entry per epoch.
    hyperparameters : dict
        ``precision``, ``parts``, `Setup.hyperparameters` and those of the last phase.
    seconds : dict of str to float
        `Setup.seconds` and ``fit``, the sum over all epochs.
    parameters : int
        Number of parameters that were learned from the photos.
    """

    network: keras.Model
    history: History
    hyperparameters: dict[str, Any]
    seconds: dict[str, float]
    parameters: int


def train(features: Features, request: Request) -> keras.Model:
    """Train a network and write its result, or go on with a training that was stopped.

    Returns
    -------
    keras.Model
        The network, in single precision.

    Raises
    ------
    InputError
        If a split has no photo, a photo cannot be read or has changed, the weights are not those of
        the features, or the options, the hardware or the memory do not allow the training.
    """
    request.check(features)
    hardware = detect()
    model, folder = request.options.model, request.folder(features)
    prepared = _set_up(features, request, hardware)
    trained = _fit(prepared, features, request, hardware)
    if not hardware.is_chief:
        say(f"{model}: trained; worker 0 writes the result")
        hardware.wait()
        return trained.network
    started = time.perf_counter()
    part = setup.part_of(trained.network, prepared.starts_at)
    predictions = predict(part, prepared.test, features)
    seconds = time.perf_counter() - started
    result = _result(features, request, trained, predictions, seconds=seconds)
    results.save(folder, result, predictions, write_model=partial(_write_model, trained))
    for name in (CHECKPOINT, BEST_SO_FAR):
        (folder / name).unlink(missing_ok=True)
    photos = f"{len(predictions.labels):,} test photos"
    accuracy = f"accuracy {result.metrics['accuracy']:.4f}"
    epochs = f"{result.epochs} epochs, {trained.seconds['fit']:.0f} s"
    say(f"{model}: {accuracy} on {photos}, {epochs}: {folder}")
    # Another network may start from the files of this one.
    hardware.wait()
    return trained.network


def predict(
    network: keras.Model, batches: keras.utils.PyDataset, features: Features
) -> Predictions:
    """Return the predictions of a network for the test split, whose batches are in path order."""
    rows = features.rows("test")
    with console.progress(f"{network.name}, test", len(batches), unit="batches") as advance:
        shown = keras.callbacks.LambdaCallback(on_predict_batch_end=lambda batch, logs: advance(1))
        probabilities = network.predict(for_keras(batches), verbose=0, callbacks=[shown])
    assert len(probabilities) == len(rows)
    return Predictions(
        paths=[features.paths[row] for row in rows],
        labels=features.labels[rows],
        probabilities=np.asarray(probabilities, dtype=np.float32),
    )


def save_network(network: keras.Model, path: Path) -> None:
    """Write a network to a ``.keras`` file, whole or not at all."""
    with atomic.replacing_files(path.parent) as new:
        _write_network(network, new / path.name)


def _set_up(features: Features, request: Request, hardware: Hardware) -> Setup:
    options, seed = request.options, request.seed
    if isinstance(options, BaselineOptions):
        return setup.baseline(features, options, seed=seed, hardware=hardware)
    if isinstance(options, FinetunedAllOptions):
        begun = start.load(features, request)
        return setup.finetuned_all(features, begun, options, seed=seed, hardware=hardware)
    assert isinstance(options, FinetunedOptions)
    vgg16 = _weights(features, request)
    return setup.finetuned(features, vgg16, options, out=request.out, seed=seed, hardware=hardware)


def _weights(features: Features, request: Request) -> Weights:
    """Load VGG16's weights, which must be those that the features were made with."""
    loaded = weights.load(request.weights_file, cache=shards.cache_of(request.out))
    if loaded.digest != features.attributes["weights_digest"]:
        raise InputError(
            f"{loaded.origin}: not the weights the features were made with; name those with "
            "--weights, or run make features with these"
        )
    return loaded


def _fit(prepared: Setup, features: Features, request: Request, hardware: Hardware) -> Trained:
    """Run the last phase. If a signal stops it, write the best network so far."""
    folder, phase = request.folder(features), prepared.phase
    try:
        last = fit(
            prepared.trained_part,
            prepared.data,
            phase,
            checkpoint=_checkpoint(prepared, features, request, hardware),
            logs=folder / LOGS,
            hardware=hardware,
        )
    except Stopped:
        if hardware.is_chief:
            portable = hardware.portable(prepared.network, prepared.build)
            save_network(portable, folder / BEST_SO_FAR)
            warn(f"{folder / BEST_SO_FAR}: the best network so far")
        raise
    history = {
        name: prepared.history.get(name, []) + last[name] for name in prepared.history or last
    }
    trainable = prepared.network.trainable_weights
    return Trained(
        hardware.portable(prepared.network, prepared.build),
        history,
        hyperparameters={
            "precision": hardware.precision,
            "parts": hardware.train_part.replicas,
            **prepared.hyperparameters,
            phase.name: phase.schedule.describe(),
        },
        seconds={**prepared.seconds, "fit": float(sum(history["seconds"]))},
        parameters=sum(int(np.prod(variable.shape)) for variable in trainable),
    )


def _checkpoint(
    prepared: Setup, features: Features, request: Request, hardware: Hardware
) -> Checkpoint:
    # The keys are those of earlier versions, whose unfinished trainings can go on.
    depends_on: dict[str, Any] = {
        "of": {
            "data_digest": features.data_digest,
            "weights_digest": str(features.attributes["weights_digest"]),
            "seed": request.seed,
            "asked": asdict(request.options),
            "precision": hardware.precision,
            "parts": hardware.train_part.replicas,
        },
        "phase": prepared.phase.name,
        "how": prepared.phase.schedule.describe(),
    }
    if begun := prepared.hyperparameters.get("started_from"):
        depends_on["started_from"] = begun
    return Checkpoint(request.folder(features) / CHECKPOINT, depends_on)


def _result(
    features: Features,
    request: Request,
    trained: Trained,
    predictions: Predictions,
    *,
    seconds: float,
) -> Result:
    """Describe the training; the predictions took `seconds`."""
    return Result(
        model=request.options.model,
        stage="network",
        data=features.data,
        data_digest=features.data_digest,
        recipe_digest=digest_without_pairs(features.recipes[SIZE]),
        class_names=features.class_names,
        hyperparameters={"asked": asdict(request.options), **trained.hyperparameters},
        tried=[],
        seconds={**trained.seconds, "predict": seconds},
        epochs=len(trained.history["phase"]),
        parameters=trained.parameters,
        seed=request.seed,
        metrics=results.metrics(predictions),
        versions=versions(),
        created=now(),
        machine=machine(),
        learned_from=["train"],
    )


def _write_model(trained: Trained, folder: Path) -> None:
    # JSON has no NaN, which the loss of an epoch may be.
    history = {
        name: [None if value != value else value for value in values]
        for name, values in trained.history.items()
    }
    (folder / "history.json").write_bytes(json.dumps(history).encode() + b"\n")
    _write_network(trained.network, folder / "model.keras")


def _write_network(network: keras.Model, path: Path) -> None:
    with console.finishing():
        network.save(path)
