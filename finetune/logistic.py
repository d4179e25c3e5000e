"""The new top trained to convergence: logistic regression on cached features."""

import time
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from extract.backend import keras
from extract.store import Features
from finetune.batches import class_weights, one_hot
from finetune.networks import TOP_TAPS

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Values of C that are tried, from the most to the least regularised."""

MAX_ITER = 500
NEVER_SEEN = -10.0
"""Bias, below the others', of a class without a photo in train: its probability is about 0."""

Matrix = NDArray[np.float32]


class Solution(NamedTuple):
    """A softmax layer that is the minimum of a convex loss.

    Attributes
    ----------
    kernel : ndarray of shape (d, k), float32
    bias : ndarray of shape (k,), float32
    chosen : dict
        ``C``, and by its values the ``val_loss`` of every one tried.
    """

    kernel: Matrix
    bias: Matrix
    chosen: dict[str, Any]


def solve(
    inputs: Matrix,
    labels: NDArray[np.int64],
    val_inputs: Matrix,
    val_labels: NDArray[np.int64],
    *,
    classes: int,
    balanced: bool = False,
) -> Solution:
    """Fit a softmax layer on train, its L2 regularisation chosen by the log loss on val.

    Parameters
    ----------
    inputs, val_inputs : ndarrays of shape (n, d) and (m, d), float32
    labels, val_labels : ndarrays of shape (n,) and (m,), int64
    classes : int
    balanced : bool
        Whether all classes weigh the same, in the fit and in the choice.
    """
    losses, solutions = {}, {}
    weights = class_weights(val_labels) if balanced else None
    for strength in STRENGTHS:
        how = "balanced" if balanced else None
        model = LogisticRegression(C=strength, max_iter=MAX_ITER, class_weight=how)
        with warnings.catch_warnings():
            # Where it is hardly regularised the minimum may be far, and val does not choose it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(inputs, labels)
        kernel, bias = _softmax(model, classes)
        probabilities = _probabilities(val_inputs @ kernel + bias)
        losses[strength] = float(
            log_loss(val_labels, probabilities, labels=range(classes), sample_weight=weights)
        )
        solutions[strength] = kernel, bias
    best = min(losses, key=lambda strength: losses[strength])
    return Solution(*solutions[best], {"C": best, "val_loss": losses})


def fit(
    top: keras.Model, features: Features, *, balanced: bool = False, label_smoothing: float = 0.0
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Give the last layer of `top` the solution on the train split, chosen on val.

    Parameters
    ----------
    top : keras.Model
    features : Features
    balanced : bool
        Whether all classes weigh the same.
    label_smoothing : float
        Of the losses in the history only, so that they can be compared with those of later phases.

    Returns
    -------
    history : dict of str to list
        As of `finetune.train.fit`, with one entry.
    chosen : dict
        See `Solution`.
    """
    started = time.perf_counter()
    classes = len(features.class_names)
    dense = top.layers[-1]
    before = keras.Model(top.input, dense.input)
    taps = {split: features.read(TOP_TAPS, split) for split in ("train", "val")}
    inputs = {split: before.predict(values, verbose=0) for split, values in taps.items()}
    labels = {split: features.labels[features.rows(split)] for split in taps}
    found = solve(
        *(inputs["train"], labels["train"], inputs["val"], labels["val"]),
        classes=classes,
        balanced=balanced,
    )
    dense.set_weights([found.kernel, found.bias])
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)
    top.compile(loss=loss, weighted_metrics=["accuracy"])
    history: dict[str, list[Any]] = {}
    for split, prefix in (("train", ""), ("val", "val_")):
        wanted = one_hot(labels[split], classes)
        weights = class_weights(labels[split]) if balanced else None
        reached = top.evaluate(
            taps[split], wanted, sample_weight=weights, verbose=0, return_dict=True
        )
        history |= {f"{prefix}{name}": [float(value)] for name, value in reached.items()}
    history |= {"seconds": [time.perf_counter() - started], "phase": ["top"]}
    return history, found.chosen


def _softmax(model: LogisticRegression, classes: int) -> tuple[Matrix, Matrix]:
    """Return kernel (d, k) and bias (k,) of all classes, also those that were never seen."""
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        # Of two classes only the difference is kept.
        coefficients = np.vstack([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    kernel = np.zeros((coefficients.shape[1], classes), np.float32)
    bias = np.full(classes, intercepts.min() + NEVER_SEEN, np.float32)
    kernel[:, model.classes_], bias[model.classes_] = coefficients.T, intercepts
    return kernel, bias


def _probabilities(logits: Matrix) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities
