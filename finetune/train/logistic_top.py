"""The new top trained to convergence: logistic regression on cached features."""

import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from classify import search
from extract.store.features_file import Features
from extract.vgg16.keras_backend import keras
from finetune.train import networks
from finetune.train.batches import class_weights, one_hot
from finetune.train.networks import TOP_TAP

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
    losses : ndarray of shape (m,), float64
        Log losses of the val photos.
    """

    kernel: Matrix
    bias: Matrix
    losses: NDArray[np.float64]


def solve(
    inputs: Matrix,
    labels: NDArray[np.int64],
    val_inputs: Matrix,
    val_labels: NDArray[np.int64],
    *,
    classes: int,
    strength: float,
    balanced: bool = False,
) -> Solution:
    """Fit a softmax layer on train and see how good it is on val.

    Parameters
    ----------
    inputs, val_inputs : ndarrays of shape (n, d) and (m, d), float32
    labels, val_labels : ndarrays of shape (n,) and (m,), int64
    classes : int
    strength : float
        C of the L2 regularisation; the smaller the more.
    balanced : bool
        Whether all classes weigh the same in the fit.
    """
    how = "balanced" if balanced else None
    model = LogisticRegression(C=strength, max_iter=MAX_ITER, class_weight=how)
    # On matrices this small threads of the linear algebra wait longer than they work.
    with threadpool_limits(1), warnings.catch_warnings():
        # Where it is hardly regularised the minimum may be far, and val does not choose it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(inputs, labels)
    kernel, bias = _softmax(model, classes)
    logits = (val_inputs @ kernel + bias).astype(np.float64)
    own = logits[np.arange(len(logits)), val_labels]
    return Solution(kernel, bias, logsumexp(logits, axis=1) - own)


def fit(
    features: Features, *, balanced: bool = False, label_smoothing: float = 0.0
) -> tuple[keras.Model, dict[str, list[Any]], dict[str, Any]]:
    """Build a top whose last layer is the solution on the train split, chosen on val.

    Parameters
    ----------
    features : Features
    balanced : bool
        Whether all classes weigh the same, in the fit and in the choice.
    label_smoothing : float
        Of the losses in the history only, so that they can be compared with those of later phases.

    Returns
    -------
    top : keras.Model
        See `finetune.train.networks.top`.
    history : dict of str to list
        As of `finetune.train.loop.fit`, with one entry.
    chosen : dict
        ``logarithm``, ``C``, and what was ``tried``, each with its ``val_loss``.
    """
    started = time.perf_counter()
    classes = len(features.class_names)
    taps = {split: features.read((TOP_TAP,), split) for split in ("train", "val")}
    labels = {split: features.labels[features.rows(split)] for split in taps}
    weights = {
        split: class_weights(of) if balanced else np.ones(len(of), np.float32)
        for split, of in labels.items()
    }
    tops = {flag: networks.top(taps["train"], classes, logarithm=flag) for flag in (True, False)}
    inputs = {flag: _inputs(top, taps) for flag, top in tops.items()}
    tried = [
        (
            {"logarithm": flag, "C": strength},
            solve(
                *(inputs[flag]["train"], labels["train"], inputs[flag]["val"], labels["val"]),
                classes=classes,
                strength=strength,
                balanced=balanced,
            ),
        )
        for strength in STRENGTHS
        for flag in tops
    ]
    best = search.simplest([found.losses for _, found in tried], weights["val"].astype(np.float64))
    chosen, found = tried[best]
    top = tops[bool(chosen["logarithm"])]
    top.layers[-1].set_weights([found.kernel, found.bias])
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing)
    top.compile(loss=loss, weighted_metrics=["accuracy"])
    history: dict[str, list[Any]] = {}
    for split, prefix in (("train", ""), ("val", "val_")):
        wanted = one_hot(labels[split], classes)
        reached = top.evaluate(
            taps[split], wanted, sample_weight=weights[split], verbose=0, return_dict=True
        )
        history |= {f"{prefix}{name}": [float(value)] for name, value in reached.items()}
    history |= {"seconds": [time.perf_counter() - started], "phase": ["top"]}
    listed = [
        {**how, "val_loss": float(np.average(one.losses, weights=weights["val"]))}
        for how, one in tried
    ]
    return top, history, {**chosen, "tried": listed}


def _inputs(top: keras.Model, taps: Mapping[str, Matrix]) -> dict[str, Matrix]:
    """Return what the last layer of a top is given of each split."""
    before = keras.Model(top.input, top.layers[-1].input)
    # To trace a graph takes longer than this.
    before.compile(run_eagerly=True)
    return {split: before.predict(values, verbose=0) for split, values in taps.items()}


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
