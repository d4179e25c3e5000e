"""How long it would take to train every layer of VGG16 on this machine, by timing one step."""

import time

import numpy as np

from extract.store.features_file import Features
from extract.system.console import count
from extract.system.forecast import rough
from extract.vgg16 import keras_backend
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import SIZE
from finetune.train import networks, schedule
from finetune.train.hardware import detect
from finetune.train.loop import compile_network
from finetune.train.request import TrainingOptions

TIMED_PHOTOS = 4
"""The photos of the timed step. A step of a whole batch would take seconds more."""

FORWARD = 1 / 3
"""The share of a step's time that a photo of val takes, which has no backward pass."""


def describe(features: Features, trained: keras.Model, options: TrainingOptions) -> str:
    """Return a clause that says how long it would take; empty if memory does not suffice.

    Parameters
    ----------
    features : Features
    trained : keras.Model
        The network to start from. Its weights are not changed.
    options : TrainingOptions
    """
    photos, val = (len(features.rows(split)) for split in ("train", "val"))
    phase = schedule.choose_phase("all", photos, options)
    try:
        seconds = (photos + FORWARD * val) * _seconds_per_photo(trained, phase.schedule)
    except Exception as error:
        if keras_backend.is_out_of_memory(error):
            return ""
        raise
    epochs = phase.schedule.epochs
    return (
        f", where it would take {rough(epochs * seconds)} at most "
        f"({count(epochs, 'epoch')} of {rough(seconds)}, as one step measured)"
    )


def _seconds_per_photo(trained: keras.Model, how: schedule.Schedule) -> float:
    """Return the time of a step on photos of noise, divided by their number."""
    hardware = detect()
    top, arrays = networks.parts_of(trained)
    network = networks.vgg16_with(
        keras.models.clone_model(top), arrays, precision=hardware.precision
    )
    networks.unfreeze(network, "all")
    compile_network(network, how, 1)
    photos = np.random.default_rng(0).integers(0, 256, (TIMED_PHOTOS, SIZE, SIZE, 3), np.uint8)
    labels = np.full((TIMED_PHOTOS, network.output_shape[1]), 1 / network.output_shape[1])
    # The first step also traces the graph.
    network.train_on_batch(photos, labels)
    started = time.perf_counter()
    network.train_on_batch(photos, labels)
    return (time.perf_counter() - started) / TIMED_PHOTOS
