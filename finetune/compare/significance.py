"""Statistics: how certain a metric is, and whether two models differ by more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from classify import results
from classify.results import LEVEL, Interval, Predictions

RESAMPLES = 1000
"""Bootstrap samples of the test photos."""


@dataclass(frozen=True)
class PairedTest:
    """McNemar's test of two models, which compares them photo by photo.

    Attributes
    ----------
    first, second : str
        The models; `first` has the better rank.
    only_first_correct, only_second_correct : int
        Test photos that only one of the two models classified correctly.
    p : float
        See `mcnemar`.
    p_holm : float
        `p` after Holm's correction for the number of pairs, see `holm`. All pairs count, not only
        those of the best model, because the same photos decide which model is the best.
    same_photos : bool
        Whether both learned from the same photos.
    """

    first: str
    second: str
    only_first_correct: int
    only_second_correct: int
    p: float
    p_holm: float
    same_photos: bool = True


def paired_tests(correct: Mapping[str, NDArray[np.bool_]]) -> list[PairedTest]:
    """Test every two models.

    Parameters
    ----------
    correct : mapping of str to ndarray of shape (n,), bool
        For each model, best first, whether it classified each test photo correctly.

    Returns
    -------
    list of PairedTest
        The first model with each of the others, then the second with those after it, and so on.
    """
    pairs = list(combinations(correct, 2))
    counts = [
        (
            int((correct[first] & ~correct[second]).sum()),
            int((correct[second] & ~correct[first]).sum()),
        )
        for first, second in pairs
    ]
    p_values = [mcnemar(*count) for count in counts]
    return [
        PairedTest(*pair, *count, p, p_holm)
        for pair, count, p, p_holm in zip(pairs, counts, p_values, holm(p_values), strict=True)
    ]


def bootstrap_intervals(predictions: Predictions, *, seed: int = 0) -> dict[str, Interval]:
    """Return 95% intervals of the metrics whose interval has no closed form.

    Each of the 1,000 samples draws photos with replacement within each class, because every class
    has a fixed share of the test split. The interval holds the middle 95% of the samples (Efron and
    Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). The same seed draws the same
    photos for every model.

    Returns
    -------
    dict
        Bounds of ``mean_class_recall``, ``macro_f1`` and ``log_loss``, as `results.metrics`
        defines them.
    """
    order = np.argsort(predictions.labels, kind="stable")
    labels = predictions.labels[order]
    predicted = predictions.probabilities.argmax(axis=1)[order]
    losses = results.losses(predictions)[order]
    k = predictions.probabilities.shape[1]
    present, starts, sizes = np.unique(labels, return_index=True, return_counts=True)
    class_start, class_size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    true_count = np.bincount(labels, minlength=k)
    random = np.random.default_rng(seed)
    samples: dict[str, list[float]] = {"mean_class_recall": [], "macro_f1": [], "log_loss": []}
    for _ in range(RESAMPLES):
        drawn = class_start + (random.random(len(labels)) * class_size).astype(np.intp)
        drawn_predicted = predicted[drawn]
        correct = np.bincount(drawn_predicted[drawn_predicted == labels], minlength=k)
        predicted_count = np.bincount(drawn_predicted, minlength=k)
        f1 = 2 * correct / np.maximum(true_count + predicted_count, 1)
        samples["mean_class_recall"].append(float(np.mean(correct[present] / true_count[present])))
        samples["macro_f1"].append(float(np.mean(f1)))
        samples["log_loss"].append(float(losses[drawn].mean()))
    return {metric: _middle(values) for metric, values in samples.items()}


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test; 1 if the models never disagree.

    If two models are equally good, a photo that only one of them gets right is equally likely to be
    the first's or the second's: McNemar (1947), Psychometrika 12, 153-157; recommended for
    comparing two classifiers on one test set by Dietterich (1998), Neural Computation 10,
    1895-1923.

    Parameters
    ----------
    only_first, only_second : int
        Photos that only the first, or only the second, model classified correctly.
    """
    disagreements = only_first + only_second
    return float(binomtest(only_first, disagreements).pvalue) if disagreements else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons, in the order in which they were given.

    The correction keeps the chance of even one false difference among all pairs below the level:
    Holm (1979), Scandinavian Journal of Statistics 6, 65-70.
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in corrected]


def _middle(samples: Sequence[float]) -> Interval:
    low, high = np.quantile(samples, [LEVEL / 2, 1 - LEVEL / 2]).tolist()
    return low, high
