"""The new top of VGG16, fitted to convergence as a logistic regression on cached features."""

import time
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from classify import search
from classify.arrays import Labels, Matrix
from extract.store.features_file import Features
from extract.vgg16.keras_backend import keras
from finetune.train import networks
from finetune.train.batches import balanced_sample_weights, one_hot
from finetune.train.networks import TOP_TAP

C_VALUES = (1e-3, 1e-2, 1e-1, 1.0)
"""Inverse regularisation strengths to try, the most regularised first."""

MAX_ITER = 500
NEVER_SEEN = -10.0
"""The bias of a class without a photo in the train split, relative to the smallest other bias.

It makes the probability of the class about 0.
"""


class Split(NamedTuple):
    """The photos of a split.

    Attributes
    ----------
    inputs : ndarray of shape (n, d), float32
    labels : ndarray of shape (n,), int64
        Indices of classes.
    """

    inputs: Matrix
    labels: Labels


class Solution(NamedTuple):
    """A softmax layer that minimises a convex loss.

    Attributes
    ----------
    kernel : ndarray of shape (d, k), float32
    bias : ndarray of shape (k,), float32
    losses : ndarray of shape (m,), float64
        Log losses of the val photos, in nats.
    """

    kernel: Matrix
    bias: Matrix
    losses: NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """A top, and a solution that its last layer may take.

    Attributes
    ----------
    top : keras.Model
    logarithm : bool
        See `networks.top`.
    C : float
        Inverse strength of the L2 regularisation.
    solution : Solution
    """

    top: keras.Model
    logarithm: bool
    C: float
    solution: Solution

    def describe(self) -> dict[str, Any]:
        """Return the hyperparameters."""
        return {"logarithm": self.logarithm, "C": self.C}


def solve(train: Split, val: Split, *, classes: int, C: float, balanced: bool = False) -> Solution:
    """Fit a softmax layer on the train split and compute its losses on the val split.

    Parameters
    ----------
    train, val : Split
    classes : int
    C : float
        Inverse strength of the L2 regularisation.
    balanced : bool
        Whether every class has the same total weight in the fit.
    """
    model = LogisticRegression(
        C=C, max_iter=MAX_ITER, class_weight="balanced" if balanced else None
    )
    # On matrices of this size, the threads of the linear algebra wait longer than they work.
    with threadpool_limits(1), warnings.catch_warnings():
        # A weakly regularised fit may not converge, and such a candidate does poorly on val.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train.inputs, train.labels)
    kernel, bias = _softmax_layer(model, classes)
    logits = (val.inputs @ kernel + bias).astype(np.float64)
    true_logits = logits[np.arange(len(logits)), val.labels]
    return Solution(kernel, bias, logsumexp(logits, axis=1) - true_logits)


def fit(
    features: Features, *, balanced: bool = False, label_smoothing: float = 0.0
) -> tuple[keras.Model, dict[str, list[Any]], dict[str, Any]]:
    """Build a top, fit its last layer on the train split and choose its hyperparameters on val.

    Parameters
    ----------
    features : Features
    balanced : bool
        Whether every class has the same total weight, in the fit and in the choice.
    label_smoothing : float in 0..1
        Applies only to the losses in the history, to make them comparable with those of later
        phases.

    Returns
    -------
    top : keras.Model
        See `finetune.train.networks.top`.
    history : dict of str to list
        As `finetune.train.loop.fit` returns it, with one entry.
    chosen : dict
        ``logarithm``, ``C``, and ``tried``, a list of all candidates with their ``val_loss``.
    """
    started = time.perf_counter()
    train, val = (
        Split(features.read((TOP_TAP,), name), features.labels[features.rows(name)])
        for name in ("train", "val")
    )
    classes = len(features.class_names)
    candidates = _candidates(train, val, classes, balanced=balanced)
    val_weights = _sample_weights(val, balanced=balanced)
    losses = [candidate.solution.losses for candidate in candidates]
    best = candidates[search.simplest(losses, val_weights.astype(np.float64))]
    best.top.layers[-1].set_weights([best.solution.kernel, best.solution.bias])
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)
    best.top.compile(loss=loss, weighted_metrics=["accuracy"])
    history: dict[str, list[Any]] = {
        **_evaluate(best.top, train, balanced=balanced),
        **{f"val_{name}": v for name, v in _evaluate(best.top, val, balanced=balanced).items()},
        "seconds": [time.perf_counter() - started],
        "phase": ["top"],
    }
    tried = [
        {**one.describe(), "val_loss": float(np.average(one.solution.losses, weights=val_weights))}
        for one in candidates
    ]
    return best.top, history, {**best.describe(), "tried": tried}


def _sample_weights(split: Split, *, balanced: bool) -> NDArray[np.float32]:
    if balanced:
        return balanced_sample_weights(split.labels)
    return np.ones(len(split.labels), np.float32)


def _candidates(train: Split, val: Split, classes: int, *, balanced: bool) -> list[Candidate]:
    """Solve for every combination of hyperparameters, the most regularised first."""
    tops = {flag: networks.top(train.inputs, classes, logarithm=flag) for flag in (True, False)}
    inputs = {flag: _last_inputs(top, train, val) for flag, top in tops.items()}
    return [
        Candidate(top, flag, C, solve(*inputs[flag], classes=classes, C=C, balanced=balanced))
        for C in C_VALUES
        for flag, top in tops.items()
    ]


def _last_inputs(top: keras.Model, *splits: Split) -> list[Split]:
    """Return splits whose inputs are those of the last layer of a top."""
    before = keras.Model(top.input, top.layers[-1].input)
    # Tracing a graph would take longer than running the layers once.
    before.compile(run_eagerly=True)
    return [split._replace(inputs=before.predict(split.inputs, verbose=0)) for split in splits]


def _evaluate(top: keras.Model, split: Split, *, balanced: bool) -> dict[str, list[float]]:
    """Return each metric of a compiled top on a split, in a list of one entry."""
    metrics = top.evaluate(
        split.inputs,
        one_hot(split.labels, top.output_shape[1]),
        sample_weight=_sample_weights(split, balanced=balanced),
        verbose=0,
        return_dict=True,
    )
    return {name: [float(value)] for name, value in metrics.items()}


def _softmax_layer(model: LogisticRegression, classes: int) -> tuple[Matrix, Matrix]:
    """Return kernel (d, k) and bias (k,) for all k classes, also those without a training photo."""
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        # For two classes scikit-learn has one row: the difference of their logits.
        coefficients = np.vstack([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    kernel = np.zeros((coefficients.shape[1], classes), np.float32)
    bias = np.full(classes, intercepts.min() + NEVER_SEEN, np.float32)
    kernel[:, model.classes_], bias[model.classes_] = coefficients.T, intercepts
    return kernel, bias
