"""How sure a figure is, and whether two models differ by more than chance."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from classify import results
from classify.results import Predictions

LEVEL = 0.05
RESAMPLES = 1000

Interval = tuple[float, float]


def interval(correct: int, n: int) -> Interval:
    """Return the 95% Wilson score interval of an accuracy, within 0..1.

    It keeps its coverage for few photos and near 0 and 1, where the usual plus or minus two
    standard errors does not, and where a bootstrap finds no doubt at all in a model without a
    mistake: Wilson (1927), JASA 22, 209-212; recommended by Brown, Cai and DasGupta (2001),
    Statistical Science 16, 101-133.
    """
    bounds = binomtest(correct, n).proportion_ci(confidence_level=1 - LEVEL, method="wilson")
    return float(bounds.low), float(bounds.high)


def bootstrap(predictions: Predictions, *, seed: int = 0) -> dict[str, Interval]:
    """Return 95% intervals of the figures that have no interval in closed form.

    Photos are drawn with replacement from those of each class, because the test split has a fixed
    share of each; the interval holds the middle 95% of 1,000 such draws (Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993, chapter 13). The same seed draws the same photos for every
    model.

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
    first, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    true = np.bincount(labels, minlength=k)
    random = np.random.default_rng(seed)
    found: dict[str, list[float]] = {"mean_class_recall": [], "macro_f1": [], "log_loss": []}
    for _ in range(RESAMPLES):
        drawn = first + (random.random(len(labels)) * size).astype(np.intp)
        named = predicted[drawn]
        right = np.bincount(named[named == labels], minlength=k)
        all_named = np.bincount(named, minlength=k)
        found["mean_class_recall"].append(float(np.mean(right[present] / true[present])))
        found["macro_f1"].append(float(np.mean(2 * right / np.maximum(true + all_named, 1))))
        found["log_loss"].append(float(losses[drawn].mean()))
    ends = [LEVEL / 2, 1 - LEVEL / 2]
    return {name: _bounds(np.quantile(values, ends)) for name, values in found.items()}


def mcnemar(one_only: int, other_only: int) -> float:
    """Return the two-sided p-value of McNemar's exact test; 1 when the models never disagree.

    Of the photos that exactly one of two equally good models names rightly, each is as likely to
    be the one's as the other's: McNemar (1947), Psychometrika 12, 153-157; advised for comparing
    two classifiers on one test set by Dietterich (1998), Neural Computation 10, 1895-1923.
    """
    disagreed = one_only + other_only
    return float(binomtest(one_only, disagreed).pvalue) if disagreed else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Correct p-values for their number, keeping the order they came in.

    With it the chance of any false difference among all pairs stays below the level: Holm (1979),
    Scandinavian Journal of Statistics 6, 65-70.
    """
    order = np.argsort(p, kind="stable")
    steps = np.array(p, dtype=np.float64)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in corrected]


def _bounds(values: NDArray[np.float64]) -> Interval:
    low, high = values.tolist()
    return low, high
