"""The network that another one starts from: what was trained before, with its record."""

import math
from typing import NamedTuple

from classify import results
from classify.results import Result
from extract.engines import keras_engine
from extract.store.features_file import Features
from extract.system.console import InputError
from extract.vgg16 import keras_backend
from extract.vgg16.architecture import CONVOLUTIONS
from extract.vgg16.keras_backend import keras
from finetune.train.loop import History
from finetune.train.request import FinetunedOptions, Request


class Start(NamedTuple):
    """A trained network to start from.

    Attributes
    ----------
    network : keras.Model
        In single precision.
    result : Result
        Its record.
    history : dict of str to list
        Its learning curves.
    """

    network: keras.Model
    result: Result
    history: History


def load(features: Features, request: Request) -> Start:
    """Load the network that a request starts from.

    Raises
    ------
    InputError
        If there is none, or it is damaged or not such a network.
    """
    folder = results.runs_of(features.data, request.out) / FinetunedOptions.model
    result = request.start(features)
    if result is None:
        raise InputError(
            f"{folder}: {request.options.model} starts from this network, and there is none of "
            f"these photos and seed {request.seed}; train it too: --models "
            f"{FinetunedOptions.model} {request.options.model}"
        )
    classes = len(features.class_names)
    members = results.read_model(folder, result, largest=keras_engine.largest(classes))
    network = keras_backend.load(results.model_path(folder, result), members)
    names = {layer.name for layer in network.layers}
    if not names >= {"top", *CONVOLUTIONS} or network.output_shape != (None, classes):
        raise _unusable("its network is not VGG16 with a top", folder)
    try:
        history = results.read_json(folder / "history.json")
        return Start(network, result, {name: _numbers(history[name]) for name in history})
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(f"its history.json is missing or damaged ({error})", folder) from error


def _unusable(problem: str, folder: object) -> InputError:
    return InputError(
        f"{folder}: no network can start from it, because {problem}; train it again with "
        f"--models {FinetunedOptions.model} --again"
    )


def _numbers(values: list[object]) -> list[object]:
    """Return a curve as it was before JSON, which has null where there was no number."""
    return [math.nan if value is None else value for value in values]
