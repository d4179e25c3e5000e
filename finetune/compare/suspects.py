"""Labels to check: photos of train and val that a head, fitted on the others, calls otherwise."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify import cross_validation, out_of_core, results
from classify.arrays import TrainingData
from finetune.compare.comparison import Row

if TYPE_CHECKING:
    from extract.store.features_file import Features

HEADS = ("svm", "logistic")
"""Which heads are asked, the first that is there: the svm needs no iterations."""

VALUES = 2**24
"""Of a matrix, rows times columns, that five folds take a few seconds for."""


class Suspect(NamedTuple):
    """A photo whose label may be wrong.

    Attributes
    ----------
    photo : int
        Its row among the features.
    label, said : int
        The class by its label, and the class that the head names.
    own, probability : float
        Of the two.
    """

    photo: int
    label: int
    said: int
    own: float
    probability: float


class Suspects(NamedTuple):
    """What was found.

    Attributes
    ----------
    head : str
        Whose probabilities they are.
    photos : int
        How many photos of train and val were looked at.
    found : list of Suspect
        Those whose label is least probable against the class named first.
    """

    head: str
    photos: int
    found: list[Suspect]


def suspects(features: "Features", rows: Sequence[Row]) -> Suspects | None:
    """Look for wrong labels in train and val, with a head as it was chosen; None without one.

    Where the matrix of the chosen taps has more than 2^24 values, it is the best candidate tried
    with fewer; where the deepest tap alone has more, a sample of the photos is looked at.
    """
    found = {row.model: row.result for row in rows if row.result.stage == "head"}
    name = next((name for name in HEADS if name in found), None)
    if name is None:
        return None
    wanted = features.rows("train", "val")
    deepest = next(iter(features.taps.values()))
    some = out_of_core.sample(features.labels[wanted], rows=VALUES // deepest, seed=0)
    chosen = _affordable(found[name], features, rows=len(some))
    if chosen is None:
        return None
    taps = {tap: features.taps[tap] for tap in chosen["taps"]}
    X = out_of_core.read(features, taps, "train", "val")
    photos = wanted[some]
    labels, digests = features.labels[photos], [features.digests[photo] for photo in photos]
    data = TrainingData.weighted(X[some], taps, labels)
    probabilities = cross_validation.out_of_fold(name, chosen, data, digests, seed=found[name].seed)
    doubted = confident(probabilities, labels)
    return Suspects(
        name, len(some), [one._replace(photo=int(photos[one.photo])) for one in doubted]
    )


def confident(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> list[Suspect]:
    """Find labels that are probably wrong, by confident learning.

    A class is said of a photo when its probability reaches the mean that this class has among the
    photos labelled so; of several, the most probable. A photo of which another class than its label
    is said is a suspect: Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty
    in dataset labels", Journal of Artificial Intelligence Research 70 (2021), 1373-1411, equation 1
    with the off-diagonal of the confident joint. cleanlab, which would bring pandas, computes it by
    ``filter_by="confident_learning"``; its version 2.9 names the same 21 photos of `chess` and 2 of
    `cats_vs_dogs`, and 91 of the 92 of `caltech101`.

    Parameters
    ----------
    probabilities : ndarray of shape (n, k), float32
        Of photos that the model was not fitted on.
    labels : ndarray of shape (n,), int64

    Returns
    -------
    list of Suspect
        Rows by number; the largest probability of the other class less that of the label first.
        A class whose photos the model never saw in others, so that its label has probability 0
        throughout, has none.
    """
    n, k = probabilities.shape
    own = probabilities[np.arange(n), labels].astype(np.float64)
    photos = np.bincount(labels, minlength=k)
    means = np.bincount(labels, weights=own, minlength=k) / np.maximum(photos, 1)
    # A class that is never seen would be said of everything.
    thresholds = np.where(means > 0, means, np.inf)
    reached = np.where(probabilities >= thresholds, probabilities, -1)
    said = reached.argmax(axis=1)
    other = reached.max(axis=1)
    doubted = np.flatnonzero((other >= 0) & (said != labels) & (means[labels] > 0))
    order = doubted[np.argsort(own[doubted] - other[doubted], kind="stable")]
    return [
        Suspect(int(i), int(labels[i]), int(said[i]), float(own[i]), float(other[i])) for i in order
    ]


def _affordable(
    result: results.Result, features: "Features", *, rows: int
) -> dict[str, Any] | None:
    """Return the chosen candidate, or the best of which the matrix is small enough."""
    tried = [candidate for candidate in result.tried if "log_loss" in candidate]
    tried.sort(key=lambda candidate: candidate["log_loss"])
    for candidate in [result.hyperparameters, *tried]:
        taps = candidate.get("taps", [])
        known = taps and set(taps) <= features.taps.keys()
        if known and rows * sum(features.taps[tap] for tap in taps) <= VALUES:
            return candidate
    return None
