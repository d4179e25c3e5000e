"""Protocols: how good heads are over many random splits, and how many photos they need.

Hyper-parameters are chosen on the training photos of each split alone. A photo that is there more
than once (equal digest) counts once, so that no copy of a training photo is tested.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t
from sklearn.pipeline import Pipeline

from classify import heads, results, search
from classify.results import Predictions
from extract.store.features_file import SPLITS, Features
from extract.system.console import InputError, count

Rows = NDArray[np.intp]
Figures = dict[str, float]

SIZES = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))
"""Training photos a class of a learning curve."""


def draw(
    labels: NDArray[np.int64], digests: Sequence[str], *, train: int, test: int, seed: int
) -> tuple[Rows, Rows]:
    """Draw training and test rows of each class at random.

    Parameters
    ----------
    labels : ndarray of shape (n,), int64
    digests : sequence of str, length n
        Of rows with equal digests the first alone can be drawn.
    train : int
        Rows of each class; a class must have more.
    test : int
        Rows of each class at most.
    seed : int

    Returns
    -------
    ndarrays of row numbers, ascending, disjoint
    """
    random = np.random.default_rng(seed)
    single = _distinct(digests)
    parts: tuple[list[Rows], list[Rows]] = ([], [])
    for label in np.unique(labels):
        mixed = random.permutation(single[labels[single] == label])
        parts[0].append(mixed[:train])
        parts[1].append(mixed[train : train + test])
    return np.sort(np.concatenate(parts[0])), np.sort(np.concatenate(parts[1]))


def per_class(
    features: Features,
    names: Sequence[str],
    *,
    train: int,
    test: int,
    repeats: int,
    seed: int,
    balanced: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, list[Figures]]:
    """Fit and test heads on repeated random splits of all photos of a data set.

    Parameters
    ----------
    names : sequence of str
        Keys of `classify.heads.HEADS`.
    train, test : int
        Photos a class; of those to test, as many as there are where there are fewer.
    repeats : int
    seed : int
        Repeat i draws with ``seed + i``.
    advance : callable
        Told of every repeat that is done.

    Returns
    -------
    dict of head to list of the metrics of each repeat

    Raises
    ------
    InputError
        If a class has no photo to test when `train` are taken.
    """
    labels, digests = features.labels, features.digests
    single = _distinct(digests)
    photos = np.bincount(labels[single], minlength=len(features.class_names))
    for name, has in zip(features.class_names, photos.tolist(), strict=True):
        if has <= train:
            raise InputError(
                f"class '{name}' has {count(has, 'distinct photo')}; "
                f"--train {train} needs one more, to test"
            )
    X = features.read(heads.tried(features.taps), *SPLITS)
    found: dict[str, list[Figures]] = {name: [] for name in names}
    for repeat in range(repeats):
        fitted, out = draw(labels, digests, train=train, test=test, seed=seed + repeat)
        for name, figures in _figures(
            features, names, X, fitted, out, seed=seed + repeat, balanced=balanced
        ).items():
            found[name].append(figures)
        advance(1)
    return found


def learning_curve(
    features: Features,
    names: Sequence[str],
    *,
    repeats: int,
    seed: int,
    balanced: bool = False,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[int, dict[str, list[Figures]]]:
    """Test heads on the test split that were fitted on few photos of train and val, then on more.

    Parameters
    ----------
    repeats : int
        Draws of each size.
    seed : int
        Draw i of every size has ``seed + i``, so that a larger draw contains the smaller.
    advance : callable
        Told of every draw that is done.

    Returns
    -------
    dict of photos a class to dict of head to list of the metrics of each draw
    """
    X = features.read(heads.tried(features.taps), *SPLITS)
    rows, out = features.rows("train", "val"), features.rows("test")
    labels, digests = features.labels[rows], [features.digests[row] for row in rows]
    found: dict[int, dict[str, list[Figures]]] = {}
    for size in curve_sizes(features):
        found[size] = {name: [] for name in names}
        for repeat in range(repeats):
            fitted, _ = draw(labels, digests, train=size, test=0, seed=seed + repeat)
            for name, figures in _figures(
                features, names, X, rows[fitted], out, seed=seed + repeat, balanced=balanced
            ).items():
                found[size][name].append(figures)
            advance(1)
    return found


def curve_sizes(features: Features) -> list[int]:
    """Return the sizes of a learning curve: 1, 2, 5, 10, ... that every class can fill."""
    rows = features.rows("train", "val")
    single = rows[_distinct([features.digests[row] for row in rows])]
    photos = np.bincount(features.labels[single], minlength=len(features.class_names)).min()
    return [size for size in SIZES if size <= photos]


def summary(values: Sequence[float]) -> Figures:
    """Summarise repeats.

    Returns
    -------
    dict
        ``mean``, ``sd`` (of the repeats, n - 1 in the denominator) and ``half_width`` of the mean's
        95% interval by Student's t; the latter two are 0 of a single repeat.
    """
    n, mean = len(values), float(np.mean(values))
    sd = float(np.std(values, ddof=1)) if n > 1 else 0.0
    half_width = float(t.ppf(0.975, n - 1)) * sd / n**0.5 if n > 1 else 0.0
    return {"mean": mean, "sd": sd, "half_width": half_width}


def summaries(repeats: Mapping[str, Sequence[Figures]]) -> dict[str, dict[str, Figures]]:
    """Summarise every metric of every head."""
    return {
        name: {metric: summary([one[metric] for one in figures]) for metric in figures[0]}
        for name, figures in repeats.items()
    }


def table(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Set rows of cells in columns, the first left-aligned, the others right-aligned."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            str(cell).ljust(width) if place == 0 else str(cell).rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _distinct(digests: Sequence[str]) -> Rows:
    """Return the first row of every photo, ascending."""
    return np.sort(np.unique(digests, return_index=True)[1])


def _figures(
    features: Features,
    names: Sequence[str],
    X: NDArray[np.float32],
    fitted: Rows,
    out: Rows,
    *,
    seed: int,
    balanced: bool,
) -> dict[str, Figures]:
    """Choose and fit heads on some rows and measure them on others."""
    taps, labels = heads.tried(features.taps), features.labels[fitted]
    the_spaces = search.spaces(names, labels, taps)
    the_folds = search.folds(labels, [features.digests[row] for row in fitted], seed=seed)
    tuned = search.tune(
        the_spaces, X[fitted], labels, the_folds, taps=taps, seed=seed, balanced=balanced
    )
    found = {}
    for name, one in tuned.items():
        unseen = heads.select(X[out], one.chosen["taps"], among=taps)
        found[name] = results.metrics(predictions(one.head, features, unseen, out))
    return found


def predictions(
    head: Pipeline, features: Features, X: NDArray[np.float32], rows: Rows
) -> Predictions:
    """Return what a head says of rows of a features file, given its taps of these rows."""
    return Predictions(
        paths=[features.paths[row] for row in rows],
        labels=features.labels[rows],
        probabilities=head.predict_proba(X).astype(np.float32),
    )
