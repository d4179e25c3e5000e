"""Leakage: what accuracy would have been claimed if groups and twins had not been kept together."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from classify import train
from classify.arrays import TrainingData
from classify.search import Choice
from extract.photos import splits
from extract.store.features_file import Features
from finetune.compare.records import ModelRecord
from finetune.compare.suspects import HEADS, MAX_MATRIX_VALUES


class Leakage(NamedTuple):
    """What a split of single photos would have claimed.

    Attributes
    ----------
    head : str
        The head that was fitted on that split.
    photos : int
        The number of its test photos.
    known : int
        How many of them have a photo of their group, or the same picture, in training.
    claimed : float
        The accuracy on all its test photos.
    others : float
        The accuracy on those that have none in training; NaN if there are no others.
    """

    head: str
    photos: int
    known: int
    claimed: float
    others: float


def measure(features: Features, models: Sequence[ModelRecord]) -> Leakage | None:
    """Split the photos one by one, as if there were no groups, and fit a head with its choices.

    Returns
    -------
    Leakage or None
        None if there are no groups, the splits were given, no head has a result, or its matrix has
        more than 2^24 values.
    """
    rule = features.attributes["split_rule"]
    heads = {model.name: model.result for model in models if model.result.stage == "head"}
    name = next((name for name in HEADS if name in heads), None)
    if name is None or not any(features.groups) or not str(rule).startswith(splits.BY_DIGEST):
        return None
    chosen = heads[name].hyperparameters
    taps = {tap: features.taps[tap] for tap in chosen["taps"] if tap in features.taps}
    if len(features.paths) * sum(taps.values()) > MAX_MATRIX_VALUES or len(taps) < len(
        chosen["taps"]
    ):
        return None
    names = [features.class_names[label] for label in features.labels]
    one_by_one = splits.assign(
        features.class_names,
        names,
        features.digests,
        [""] * len(names),
        seed=int(features.attributes["seed"]),
    )
    X = features.read(taps, "train", "val", "test")
    fitted = np.flatnonzero(one_by_one != "test")
    tested = np.flatnonzero(one_by_one == "test")
    data = TrainingData.weighted(X[fitted], taps, features.labels[fitted])
    head = train.fit_head(name, Choice(chosen), data, seed=heads[name].seed)
    correct = head.predict(X[tested]) == features.labels[tested]
    trained = {features.units[row] for row in fitted}
    known = np.array([features.units[row] in trained for row in tested])
    others = float(correct[~known].mean()) if not known.all() else float("nan")
    return Leakage(name, len(tested), int(known.sum()), float(correct.mean()), others)
