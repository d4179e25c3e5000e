"""Suspects: photos of train and val whose label a head, fitted without them, contradicts."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify import cross_validation, out_of_core, results
from classify.arrays import TrainingData
from extract.store.features_file import Features
from finetune.compare.records import ModelRecord

HEADS = ("svm", "logistic")
"""The heads that can check labels; the first that has a result does. The svm is fitted in closed
form and therefore fastest."""

MAX_MATRIX_VALUES = 2**24
"""The largest matrix, rows times columns, that five folds fit within a few seconds."""


class Suspect(NamedTuple):
    """A photo whose label may be wrong.

    Attributes
    ----------
    row : int
        Row of the photo among the features.
    label, predicted : int
    label_probability, probability : float
        The head's probabilities of the label and of the predicted class.
    """

    row: int
    label: int
    predicted: int
    label_probability: float
    probability: float


class HeldOut(NamedTuple):
    """What a head answers about photos that it was not fitted on.

    Attributes
    ----------
    rows : ndarray of shape (m,)
        Rows of the photos among the features.
    probabilities : ndarray of shape (m, k), float32
        The head was fitted on four fifths of the photos.
    after_half : ndarray of shape (m,), intp, or None
        The most probable class after the head was fitted on half as many photos; None if half of
        the photos are too few.
    """

    rows: NDArray[np.intp]
    probabilities: NDArray[np.float32]
    after_half: NDArray[np.intp] | None


class LabelCheck(NamedTuple):
    """The outcome of a check of labels.

    Attributes
    ----------
    head : str
        The head that checked them.
    photos : int
        Number of photos checked.
    suspects : list of Suspect
        The least plausible label first.
    held_out : HeldOut or None
        What the suspects were found by; None if only they are known.
    """

    head: str
    photos: int
    suspects: list[Suspect]
    held_out: HeldOut | None = None


def check_labels(features: Features, models: Sequence[ModelRecord]) -> LabelCheck | None:
    """Check the labels of train and val with a head and its chosen hyper-parameters.

    If the matrix of the chosen taps has more than 2^24 values, the best candidate with a smaller
    matrix takes its place. If even the deepest tap alone has more, only a sample of the photos is
    checked.

    Returns
    -------
    LabelCheck or None
        None if no head can check labels.
    """
    heads = {model.name: model.result for model in models if model.result.stage == "head"}
    name = next((name for name in HEADS if name in heads), None)
    if name is None:
        return None
    rows = features.rows("train", "val")
    deepest_tap_width = next(iter(features.taps.values()))
    sample = out_of_core.sample(
        features.labels[rows], rows=MAX_MATRIX_VALUES // deepest_tap_width, seed=0
    )
    chosen = _affordable(heads[name], features, photos=len(sample))
    if chosen is None:
        return None
    taps = {tap: features.taps[tap] for tap in chosen["taps"]}
    X = out_of_core.read(features, taps, "train", "val")
    rows = rows[sample]
    labels, units = features.labels[rows], [features.units[row] for row in rows]
    data = TrainingData.weighted(X[sample], taps, labels)
    answers = functools.partial(cross_validation.out_of_fold, name, chosen, seed=heads[name].seed)
    probabilities = answers(data, units)
    suspects = [
        one._replace(row=int(rows[one.row])) for one in confident_learning(probabilities, labels)
    ]
    after_half = None
    half = _halves(labels, units)
    parts = [np.flatnonzero(~half), np.flatnonzero(half)]
    if all(_can_be_fitted(labels[part], [units[i] for i in part]) for part in parts):
        after_half = np.empty(len(rows), np.intp)
        for part in parts:
            found = answers(data.subset(part), [units[i] for i in part])
            after_half[part] = found.argmax(axis=1)
    return LabelCheck(name, len(rows), suspects, HeldOut(rows, probabilities, after_half))


def _can_be_fitted(labels: NDArray[np.int64], units: Sequence[str]) -> bool:
    """Say whether two classes are left, whichever fold of the photos is held out."""
    names = np.array(units)
    of_class = [len(np.unique(names[labels == label])) for label in np.unique(labels)]
    return sum(n > 2 for n in of_class) > 1


def _halves(labels: NDArray[np.int64], units: Sequence[str]) -> NDArray[np.bool_]:
    """Return which photos are in the second half, for which the units of each class are dealt."""
    names, half = np.array(units), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        _, unit = np.unique(names[of_class], return_inverse=True)
        # Of every second class, the odd unit goes to the second half.
        half[of_class] = (unit + label) % 2 == 1
    return half


def confident_learning(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64]
) -> list[Suspect]:
    """Find labels that are probably wrong, by confident learning.

    A class is plausible for a photo if its probability reaches the mean probability that it has
    among the photos with its label. A photo is a suspect if the most probable of its plausible
    classes is not its label: Northcutt, Jiang and Chuang, "Confident learning: estimating
    uncertainty in dataset labels", Journal of Artificial Intelligence Research 70 (2021),
    1373-1411, equation 1 with the off-diagonal of the confident joint. cleanlab, which depends on
    pandas, computes it by ``filter_by="confident_learning"``; its version 2.9 finds the same 21
    photos of `chess` and 2 of `cats_vs_dogs`, and 91 of the 92 of `caltech101`.

    Parameters
    ----------
    probabilities : ndarray of shape (n, k), float32
        For photos that the model was not fitted on.
    labels : ndarray of shape (n,), int64

    Returns
    -------
    list of Suspect
        Their rows are those of `labels`. The label that falls furthest below the predicted class
        comes first. A label is never a suspect if its class has probability 0 for all its photos,
        because then the model was never fitted on that class.
    """
    n, k = probabilities.shape
    own = probabilities[np.arange(n), labels].astype(np.float64)
    photos = np.bincount(labels, minlength=k)
    means = np.bincount(labels, weights=own, minlength=k) / np.maximum(photos, 1)
    # Any probability would reach the mean 0 of a class that the model was never fitted on.
    thresholds = np.where(means > 0, means, np.inf)
    plausible = np.where(probabilities >= thresholds, probabilities, -1)
    predicted, probability = plausible.argmax(axis=1), plausible.max(axis=1)
    found = np.flatnonzero((probability >= 0) & (predicted != labels) & (means[labels] > 0))
    order = found[np.argsort(own[found] - probability[found], kind="stable")]
    return [
        Suspect(int(i), int(labels[i]), int(predicted[i]), float(own[i]), float(probability[i]))
        for i in order
    ]


def _affordable(
    result: results.Result, features: Features, *, photos: int
) -> dict[str, Any] | None:
    """Return the chosen candidate, or the best whose matrix is small enough."""
    tried = [candidate for candidate in result.tried if "log_loss" in candidate]
    tried.sort(key=lambda candidate: candidate["log_loss"])
    for candidate in [result.hyperparameters, *tried]:
        taps = candidate.get("taps", [])
        known = taps and set(taps) <= features.taps.keys()
        if known and photos * sum(features.taps[tap] for tap in taps) <= MAX_MATRIX_VALUES:
            return candidate
    return None
