"""Suspects: photos of train and val whose label a head, fitted without them, contradicts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from classify import cross_validation, out_of_core, results
from classify.arrays import TrainingData
from classify.labeling.suspects import Suspect, confident_learning
from extract.store.features_file import Features
from finetune.compare.records import ModelRecord

HEADS = ("svm", "logistic")
"""The heads that can check labels; the first that has a result does. The svm is fitted in closed
form and therefore fastest."""

MAX_MATRIX_VALUES = 2**24
"""The largest matrix, rows times columns, that five folds fit within a few seconds."""


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
    """

    head: str
    photos: int
    suspects: list[Suspect]


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
    labels, digests = features.labels[rows], [features.digests[row] for row in rows]
    data = TrainingData.weighted(X[sample], taps, labels)
    probabilities = cross_validation.out_of_fold(name, chosen, data, digests, seed=heads[name].seed)
    suspects = confident_learning(probabilities, labels)
    return LabelCheck(name, len(rows), [one._replace(row=int(rows[one.row])) for one in suspects])


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
