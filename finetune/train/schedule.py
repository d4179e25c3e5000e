"""The schedule of a training: a rule decides it, unless the user sets options."""

from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from finetune.train.request import TrainingOptions

BATCH_SIZE = 32

LAYER_DECAY = 0.8
"""See `Schedule.layer_decay`. VGG16's first layer then has 0.05 of the learning rate of the top."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes
    ----------
    learning_rate : float
        Highest learning rate of AdamW. It rises from 0 to this value during `warmup` epochs and
        then falls to 0 along a cosine.
    epochs : int
        Largest number of epochs.
    patience : int
        Number of epochs without a better `monitor` after which training stops.
    monitor : str
        Metric of the val split that decides which epoch is the best: ``loss`` or ``accuracy``.
    warmup : int
        Number of epochs in which the learning rate rises.
    weight_decay : float
        AdamW's weight decay: each step reduces every variable by this share times the learning
        rate.
    batch_size : int
    label_smoothing : float in 0..1
        Share of each label that is spread evenly over all classes (Szegedy et al., "Rethinking
        the Inception architecture for computer vision", arXiv 1512.00567).
    layer_decay : float in 0..1
        Each layer has this share of the learning rate of the layer after it (discriminative
        fine-tuning: Howard and Ruder, "Universal language model fine-tuning for text
        classification", arXiv 1801.06146).
    """

    learning_rate: float
    epochs: int
    patience: int
    monitor: str = "loss"
    warmup: int = 0
    weight_decay: float = 0.0
    batch_size: int = BATCH_SIZE
    label_smoothing: float = 0.0
    layer_decay: float = 1.0

    def describe(self) -> dict[str, Any]:
        """Return the values that are recorded, with the keys of earlier versions."""
        described = asdict(self)
        if self.layer_decay == 1.0:
            del described["layer_decay"]
        return described


class Phase(NamedTuple):
    """A stretch of training with one schedule.

    Attributes
    ----------
    name : str
        ``scratch``, or the part of VGG16 that is trained: ``block5``, ``block4`` or ``all``.
    schedule : Schedule
    """

    name: str
    schedule: Schedule


def by_rule(phase: str, photos: int) -> Schedule:
    """Choose a schedule from the number of training photos.

    As in BiT's hyper-rule (Kolesnikov et al., "Big Transfer", arXiv 1912.11370), the number of
    steps of a phase is about constant, so a small data set gets more epochs.

    Parameters
    ----------
    phase : str
        See `Phase.name`.
    photos : int
        Size of the train split.
    """
    steps = -(-photos // BATCH_SIZE)
    if phase == "scratch":
        epochs = int(np.clip(5000 // steps, 40, 80))
        return Schedule(
            learning_rate=3e-3,
            epochs=epochs,
            # The accuracy rises most at the end, when the learning rate falls.
            patience=epochs // 2,
            # With few photos the network grows too confident: its val loss rises long before its
            # accuracy stops rising.
            monitor="accuracy",
            warmup=4,
            weight_decay=1e-3,
        )
    epochs = int(np.clip(400 // steps, 4, 12))
    if phase == "all":
        # Weight decay would not fall with the layers, and at such rates it changes nothing.
        return Schedule(
            learning_rate=3e-6, epochs=epochs, patience=2, warmup=1, layer_decay=LAYER_DECAY
        )
    return Schedule(learning_rate=1e-5, epochs=epochs, patience=2, warmup=1, weight_decay=1e-2)


def choose_phase(phase: str, photos: int, options: TrainingOptions) -> Phase:
    """Return a phase with the schedule of the rule, except for the options that the user set."""
    options_set: dict[str, Any] = {
        "learning_rate": options.learning_rate,
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "label_smoothing": options.label_smoothing,
    }
    changes = {name: value for name, value in options_set.items() if value is not None}
    return Phase(phase, replace(by_rule(phase, photos), **changes))
