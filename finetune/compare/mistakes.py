"""Which test photos and classes the models get wrong."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.store.features_file import Features
from finetune.compare.records import ModelRecord

SHOWN_PER_MODEL = 8


class Mistake(NamedTuple):
    """A test photo whose predicted class is not its label.

    Attributes
    ----------
    row : int
        Row of the photo among the features.
    label, predicted : int
    probability : float
        The probability of the predicted class.
    """

    row: int
    label: int
    predicted: int
    probability: float


def surest_mistakes(
    model: ModelRecord, features: Features, *, limit: int = SHOWN_PER_MODEL
) -> list[Mistake]:
    """Return a model's mistakes with the highest probabilities, highest first."""
    return _mistakes(model, features, ~model.correct, model.confidence)[:limit]


def shared_mistakes(models: Sequence[ModelRecord], features: Features) -> list[Mistake]:
    """Return the test photos for which all models predict the same wrong class.

    The highest mean probability comes first. There are none if there is only one model.
    """
    if len(models) < 2:
        return []
    first = models[0]
    same = np.all([model.predicted == first.predicted for model in models], axis=0)
    confidence = np.mean([model.confidence for model in models], axis=0)
    return _mistakes(first, features, same & ~first.correct, confidence)


def most_confused(confusion: NDArray[np.int64], *, limit: int = 10) -> list[tuple[int, int, int]]:
    """Return the most frequent mistakes as (true class, predicted class, photos), most first."""
    wrong = confusion * ~np.eye(len(confusion), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    found = [(int(i) // len(wrong), int(i) % len(wrong), int(wrong.flat[i])) for i in order]
    return [entry for entry in found if entry[2]]


def class_recalls(models: Sequence[ModelRecord]) -> NDArray[np.float64]:
    """Return the recall of each class by each model, of shape (k, models); NaN without photos."""
    with np.errstate(invalid="ignore"):
        return np.stack(
            [model.confusion.diagonal() / model.confusion.sum(axis=1) for model in models], axis=1
        )


def _mistakes(
    model: ModelRecord,
    features: Features,
    wrong: NDArray[np.bool_],
    confidence: NDArray[np.float64],
) -> list[Mistake]:
    test = np.flatnonzero(features.splits == "test")
    labels, found = model.predictions.labels, np.flatnonzero(wrong)
    return [
        Mistake(int(test[i]), int(labels[i]), int(model.predicted[i]), float(confidence[i]))
        for i in found[np.argsort(-confidence[found], kind="stable")]
    ]
