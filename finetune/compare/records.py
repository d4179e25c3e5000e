"""The records of the models: read from ``runs/``, and checked before anything is compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify import results
from classify.results import Interval, Predictions, Result, wilson_interval
from extract.store.features_file import Features
from extract.system.console import InputError, warn
from extract.vgg16.recipe import joint_digest, pairs_added, pairs_left_out
from finetune.compare.significance import bootstrap_intervals

MOST_EPOCHS = 100_000

METRICS_TOLERANCE = 1e-6
"""Relative difference up to which recorded metrics agree with those computed from predictions."""


@dataclass(frozen=True, eq=False)
class ModelRecord:
    """One model of the comparison.

    Attributes
    ----------
    name : str
        Name of the result's folder.
    result : Result
        Its metrics agree with `predictions`.
    predictions : Predictions
        Predictions for the n test photos, in the order of the features.
    accuracy_interval : tuple of two floats in 0..1
        See `classify.results.wilson_interval`.
    total_seconds : float
        The sum over all phases, including the shared VGG16 pass if the model used it.
    photos_per_second : float or None
        Measured speed from image file to predicted class. For a head, this includes VGG16. None if
        no time was recorded.
    model_bytes : int or None
        Size of the model's file; a head's file does not contain VGG16. None if there is no file.
    history : dict of str to list
        Learning curves, one value per epoch; empty for a model without epochs.
    compared : Predictions
        What ranks and tests use: `predictions`, or those of the same model fitted to fewer photos,
        see `finetune.compare.fairness`.
    compared_from : tuple of str
        The splits that the model of `compared` learned from.
    """

    name: str
    result: Result
    predictions: Predictions
    accuracy_interval: Interval
    total_seconds: float
    photos_per_second: float | None
    model_bytes: int | None
    history: dict[str, list[Any]]
    compared: Predictions
    compared_from: tuple[str, ...]

    @property
    def is_refitted(self) -> bool:
        """Whether ranks and tests use another fit than the model that was saved."""
        return self.compared is not self.predictions

    @cached_property
    def compared_metrics(self) -> dict[str, float]:
        """Metrics of `compared`."""
        return results.metrics(self.compared) if self.is_refitted else self.result.metrics

    @property
    def compared_accuracy(self) -> float:
        """Share of the test photos that `compared` has right, 0..1."""
        return self.compared_metrics["accuracy"]

    @cached_property
    def compared_correct(self) -> NDArray[np.bool_]:
        """Whether `compared` has each test photo right, of shape (n,)."""
        correct: NDArray[np.bool_] = (
            self.compared.probabilities.argmax(axis=1) == self.compared.labels
        )
        return correct

    @property
    def accuracy(self) -> float:
        """Share of the test photos that the model classified correctly, 0..1."""
        return self.result.metrics["accuracy"]

    @cached_property
    def predicted(self) -> NDArray[np.intp]:
        """Predicted classes, of shape (n,)."""
        predicted: NDArray[np.intp] = self.predictions.probabilities.argmax(axis=1)
        return predicted

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """Probabilities of the predicted classes, of shape (n,)."""
        confidence: NDArray[np.float64] = self.predictions.probabilities.max(axis=1).astype(float)
        return confidence

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each test photo was classified correctly, of shape (n,)."""
        correct: NDArray[np.bool_] = self.predicted == self.predictions.labels
        return correct

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Test photos by true class (rows) and predicted class (columns), of shape (k, k)."""
        k = self.predictions.probabilities.shape[1]
        counts = np.bincount(self.predictions.labels * k + self.predicted, minlength=k * k)
        return counts.reshape(k, k)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95% intervals by metric: Wilson's of the accuracy, the others by bootstrap."""
        return {"accuracy": self.accuracy_interval, **bootstrap_intervals(self.predictions)}


def read_records(
    features: Features, folders: Sequence[Path]
) -> tuple[list[ModelRecord], list[str]]:
    """Read the results that were made from these features' photos and splits.

    Returns
    -------
    records : list of ModelRecord
        In the order of the folders.
    refused : list of str
        One sentence for each result left out.
    """
    records, refused = [], []
    for folder in folders:
        try:
            records.append(_read_record(folder, features))
        except InputError as error:
            refused.append(f"{folder.name}: {error}")
    return records, refused


@results.consistent
def _read_record(folder: Path, features: Features) -> ModelRecord:
    result = results.load(folder)
    if result.data_digest != features.data_digest:
        raise InputError(f"made from other photos or another split; run `{result.command}` again")
    if not _has_recipe(result, features):
        raise InputError(
            "made with other weights or pixels than these features; run `make features`, then "
            f"`{result.command}` again"
        )
    predictions = results.load_predictions(folder)
    try:
        _check_predictions(result, predictions, features)
        _check_metrics(result, predictions)
        total_seconds = float(sum(result.seconds.values()))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"damaged: {error}; run `{result.command}` again") from error
    photos = len(predictions.labels)
    correct = int((predictions.probabilities.argmax(axis=1) == predictions.labels).sum())
    return ModelRecord(
        name=folder.name,
        result=result,
        predictions=predictions,
        accuracy_interval=wilson_interval(correct, photos),
        total_seconds=total_seconds,
        photos_per_second=_photos_per_second(result, features, photos),
        model_bytes=results.model_bytes(folder),
        history=_read_history(folder),
        compared=predictions,
        compared_from=tuple(result.learned_from),
    )


def _has_recipe(result: Result, features: Features) -> bool:
    """Say whether a result was made with a recipe of these features, as far as they tell.

    Features may have gained or lost sizes or pairs of channels since, which changes nothing about
    the others.
    """
    if result.recipe_digest == features.recipe_digest or not set(result.sizes) <= set(
        features.sizes
    ):
        return True
    recipes = [pairs_left_out(features.recipes[size]) for size in result.sizes]
    with_pairs = map(pairs_added, recipes)
    return result.recipe_digest in (joint_digest(recipes), joint_digest(with_pairs))


def _check_predictions(result: Result, predictions: Predictions, features: Features) -> None:
    test = np.flatnonzero(features.splits == "test")
    if predictions.paths != [features.paths[row] for row in test]:
        raise ValueError("its photos are not the test photos in their order")
    if not np.array_equal(predictions.labels, features.labels[test]):
        raise ValueError("its true classes are not those of the test photos")
    k = len(features.class_names)
    if result.class_names != features.class_names or predictions.probabilities.shape[1:] != (k,):
        raise ValueError("its classes are not those of the features")


def _check_metrics(result: Result, predictions: Predictions) -> None:
    expected = results.metrics(predictions)
    if expected.keys() != result.metrics.keys() or not np.allclose(
        list(expected.values()),
        [result.metrics[name] for name in expected],
        rtol=METRICS_TOLERANCE,
    ):
        raise ValueError("its metrics do not follow from its predictions")


def _photos_per_second(result: Result, features: Features, photos: int) -> float | None:
    seconds_per_photo = result.seconds.get("predict", 0.0) / photos
    if not seconds_per_photo:
        return None
    if result.stage == "head" or "predicted_from" in result.hyperparameters:
        # VGG16 saw each distinct photo once.
        seconds_per_photo += result.seconds.get("features", 0.0) / len(set(features.digests))
    return 1 / seconds_per_photo


def _read_history(folder: Path) -> dict[str, list[Any]]:
    """Read the learning curves. A damaged file is told, because only the curves are missing."""
    path = folder / "history.json"
    try:
        history = results.read_json(path)
        if not isinstance(history, dict):
            raise ValueError("not an object")
        curves = {name: _curve(name, values) for name, values in history.items()}
        if len({len(values) for values in curves.values()}) > 1:
            raise ValueError("its columns have different lengths")
        return curves
    except FileNotFoundError:
        return {}
    except ValueError as error:
        warn(f"{path}: damaged ({error}), so the report has no learning curves of {folder.name}")
        return {}


def _curve(name: str, values: Any) -> list[Any]:
    """Return one value per epoch; a number that JSON cannot hold was written as null."""
    if not isinstance(values, list) or len(values) > MOST_EPOCHS:
        raise ValueError(f"{name} is no list of values, one per epoch")
    if not all(_is_value(name, value) for value in values):
        raise ValueError(f"{name} has something else than one value per epoch")
    return [math.nan if value is None else value for value in values]


def _is_value(name: str, value: Any) -> bool:
    if name == "phase":
        return isinstance(value, str)
    if isinstance(value, int):
        return abs(value) < results.LARGEST_NUMBER
    return value is None or isinstance(value, float)
