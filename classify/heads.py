"""Heads: scikit-learn pipelines over the taps, and the space that is searched for each."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler
from sklearn.svm import SVC

from extract.recipe import TAPS

TAP_SETS = (1, 2, 5, 7)
"""How many taps to use, deepest first: block5 pooled, its quarters, with block4, with block3."""

EARLY_STOPPING_ROWS = 1000
"""With fewer photos the tenth that early stopping sets aside is dearer than what it saves."""

CALIBRATION_FOLDS = 5

TRUSTED = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
)
"""Types in a saved head beyond those that skops itself knows to run no code."""


class Head(NamedTuple):
    """A classifier and the values of its one regularisation parameter that are tried.

    Attributes
    ----------
    classifier : callable
        Given the parameter's value, the number of rows and a seed, makes an unfitted classifier.
    parameter : str
    values : tuple of float
        From the most to the least regularised.
    linear : bool
        Whether its solution lies in the span of the rows, so that it may be searched there.
    """

    classifier: Callable[[float, int, int], ClassifierMixin]
    parameter: str
    values: tuple[float, ...]
    linear: bool


def _logistic(value: float, rows: int, seed: int) -> ClassifierMixin:
    return LogisticRegression(C=value, max_iter=500)


def _svm(value: float, rows: int, seed: int) -> ClassifierMixin:
    return SVC(kernel="linear", C=value)


def _mlp(value: float, rows: int, seed: int) -> ClassifierMixin:
    return MLPClassifier(
        hidden_layer_sizes=(128,),
        alpha=value,
        max_iter=50,
        early_stopping=rows >= EARLY_STOPPING_ROWS,
        random_state=seed,
    )


HEADS = {
    "logistic": Head(_logistic, "C", (1e-4, 1e-3, 1e-2, 1e-1, 1.0), linear=True),
    "svm": Head(_svm, "C", (1e-4, 1e-3, 1e-2), linear=True),
    "mlp": Head(_mlp, "alpha", (10.0, 1.0), linear=False),
}


def columns(taps: Sequence[str]) -> dict[str, slice]:
    """Return where each tap lies in a matrix of `taps` side by side."""
    ends = np.cumsum([TAPS[tap] for tap in taps]).tolist()
    return {tap: slice(end - TAPS[tap], end) for tap, end in zip(taps, ends, strict=True)}


def preparation(taps: Sequence[str]) -> Pipeline:
    """Make the steps before a classifier: per-tap square root and L2 norm, then standardise.

    Parameters
    ----------
    taps : sequence of str
        The taps of which (n, 4608) matrices of all taps, deepest first, are reduced to.
    """
    places = columns(list(TAPS))
    per_tap = [
        (tap, make_pipeline(FunctionTransformer(np.sqrt), Normalizer()), places[tap])
        for tap in taps
    ]
    return Pipeline([("taps", ColumnTransformer(per_tap)), ("scale", StandardScaler())])


def pipeline(
    name: str, taps: Sequence[str], value: float, *, samples: Sequence[int], seed: int
) -> Pipeline:
    """Make an unfitted head from what was chosen.

    Parameters
    ----------
    name : str
        Key of `HEADS`.
    taps : sequence of str
    value : float
        Of the head's regularisation parameter.
    samples : sequence of int, length k
        Photos of each class that it will be fitted on.
    seed : int
    """
    classifier = HEADS[name].classifier(value, sum(samples), seed)
    if name == "svm":
        # Platt's sigmoids on out-of-fold scores; a class needs a photo in every fold.
        folds = min(CALIBRATION_FOLDS, *samples)
        classifier = CalibratedClassifierCV(classifier, cv=folds, ensemble=False)
    return Pipeline([*preparation(taps).steps, ("classifier", classifier)])


def parameters(head: Pipeline) -> int:
    """Count the numbers a fitted head learned in its classifier."""
    classifier = head[-1]
    if isinstance(classifier, MLPClassifier):
        arrays = [*classifier.coefs_, *classifier.intercepts_]
    elif isinstance(classifier, CalibratedClassifierCV):
        calibrated = classifier.calibrated_classifiers_[0]
        arrays = [calibrated.estimator.coef_, calibrated.estimator.intercept_]
        # Two numbers a sigmoid.
        arrays += [np.empty(2) for _ in calibrated.calibrators]
    else:
        arrays = [classifier.coef_, classifier.intercept_]
    return int(sum(array.size for array in arrays))
