"""Protocols: measure heads over many random splits, or against the number of training photos.

The hyper-parameters are chosen on the training photos of each split alone. If a photo occurs more
than once (equal digests), only one copy is used, so that no copy of a training photo is tested. Nor
is a photo of a group that trains.

Student's interval of the mean over the repeats covers which photos were drawn, and nothing else. A
record therefore has a second interval, ``low`` to ``high``, which also covers which photos are
tested; see `curve_interval` and `split_interval`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from classify import cross_validation, heads, results, search, search_space
from classify.arrays import Labels, Matrix, Rows, TrainingData
from classify.search import SearchPlan
from classify.train import check, fit_heads, predict
from extract.store.features_file import SPLITS, Features
from extract.system import atomic, console
from extract.system.console import InputError, count, say
from extract.system.provenance import now, versions

Metrics = dict[str, float]
Summary = dict[str, float]

SIZES = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))
"""Training photos per class of a learning curve."""


@dataclass(frozen=True)
class Measurement:
    """What to measure, and how often.

    Attributes
    ----------
    heads : sequence of str
        Keys of `classify.heads.HEADS`.
    repeats : int
        The number of random splits; in a learning curve, of each size.
    seed : int
        Repeat i draws with ``seed + i``.
    balanced : bool
        Whether every class counts the same in training.
    """

    heads: Sequence[str]
    repeats: int
    seed: int
    balanced: bool = False


def draw(
    labels: Labels,
    digests: Sequence[str],
    units: Sequence[str] | None = None,
    *,
    train: int,
    test: int,
    seed: int,
) -> tuple[Rows, Rows]:
    """Draw training and test rows of each class at random.

    Parameters
    ----------
    labels : ndarray of shape (n,), int64
    digests : sequence of str, length n
        Of rows with equal digests, only the first can be drawn.
    units : sequence of str, length n, optional
        Training rows are drawn unit by unit, and no row of these units is a test row.
    train : int
        The number of training rows of each class; a class must have more rows than this.
    test : int
        The number of test rows of each class, or fewer if it has no more.
    seed : int

    Returns
    -------
    ndarrays of row numbers, ascending, disjoint
    """
    random = np.random.default_rng(seed)
    distinct = _distinct(digests)
    _, unit_of = np.unique(digests if units is None else units, return_inverse=True)
    shuffled = [
        _unit_by_unit(random.permutation(distinct[labels[distinct] == label]), unit_of)
        for label in np.unique(labels)
    ]
    fitted = np.concatenate([rows[:train] for rows in shuffled])
    tested = [
        rows[train:][~np.isin(unit_of[rows[train:]], unit_of[fitted])][:test] for rows in shuffled
    ]
    return np.sort(fitted), np.sort(np.concatenate(tested))


def _unit_by_unit(rows: Rows, unit_of: Rows) -> Rows:
    """Bring the rows of each unit together, the unit first whose first row comes first."""
    _, first, unit = np.unique(unit_of[rows], return_index=True, return_inverse=True)
    together: Rows = rows[np.argsort(first[unit], kind="stable")]
    return together


def per_class(
    features: Features,
    measurement: Measurement,
    *,
    train: int,
    test: int,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, list[Metrics]]:
    """Train and test heads on repeated random splits of all photos of a data set.

    Parameters
    ----------
    features : Features
    measurement : Measurement
    train, test : int
        Photos per class; if a class has fewer left to test, all of them are tested.
    advance : callable
        Called with 1 after each repeat.

    Returns
    -------
    dict of head to list of the metrics of each repeat

    Raises
    ------
    InputError
        If a class has no photo left to test.
    """
    labels, digests = features.labels, features.digests
    photos = np.bincount(labels[_distinct(digests)], minlength=len(features.class_names))
    for name, has in zip(features.class_names, photos.tolist(), strict=True):
        if has <= train:
            raise InputError(
                f"class '{name}' has {count(has, 'distinct photo')}; "
                f"--train {train} needs at least one more, to test"
            )
    X = features.read(search_space.tried(features.taps), *SPLITS)
    measured: dict[str, list[Metrics]] = {name: [] for name in measurement.heads}
    for seed in range(measurement.seed, measurement.seed + measurement.repeats):
        split = draw(labels, digests, features.units, train=train, test=test, seed=seed)
        untested = set(range(len(features.class_names))) - set(labels[split[1]].tolist())
        if untested:
            raise InputError(
                f"class '{features.class_names[min(untested)]}' has no photo left to test, because "
                f"--train {train} takes photos of all its groups; choose a smaller number"
            )
        for name, metrics in _measure(features, measurement, X, split, seed=seed).items():
            measured[name].append(metrics)
        advance(1)
    return measured


def learning_curve(
    features: Features,
    measurement: Measurement,
    *,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[int, dict[str, list[Metrics]]]:
    """Train heads on more and more photos of train and val, and test each on the test split.

    A draw of more photos contains those of the smaller draw with the same seed.

    Parameters
    ----------
    features : Features
    measurement : Measurement
    advance : callable
        Called with 1 after each draw.

    Returns
    -------
    dict of photos per class to dict of head to list of the metrics of each draw
    """
    X = features.read(search_space.tried(features.taps), *SPLITS)
    rows, tested = features.rows("train", "val"), features.rows("test")
    labels, digests = features.labels[rows], [features.digests[row] for row in rows]
    measured: dict[int, dict[str, list[Metrics]]] = {}
    for size in curve_sizes(features):
        measured[size] = {name: [] for name in measurement.heads}
        for seed in range(measurement.seed, measurement.seed + measurement.repeats):
            fitted, _ = draw(labels, digests, train=size, test=0, seed=seed)
            split = rows[fitted], tested
            for name, metrics in _measure(features, measurement, X, split, seed=seed).items():
                measured[size][name].append(metrics)
            advance(1)
    return measured


def curve_sizes(features: Features) -> list[int]:
    """Return the sizes of a learning curve: 1, 2, 5, 10, ... photos, as far as every class goes."""
    rows = features.rows("train", "val")
    distinct = rows[_distinct([features.digests[row] for row in rows])]
    photos = np.bincount(features.labels[distinct], minlength=len(features.class_names)).min()
    return [size for size in SIZES if size <= photos]


def _distinct(digests: Sequence[str]) -> Rows:
    """Return the first row of every distinct photo, ascending."""
    return np.sort(np.unique(digests, return_index=True)[1])


def _measure(
    features: Features, measurement: Measurement, X: Matrix, split: tuple[Rows, Rows], *, seed: int
) -> dict[str, Metrics]:
    """Choose and fit heads on some rows, and measure them on others."""
    fitted, tested = split
    labels, taps = features.labels[fitted], search_space.tried(features.taps)
    spaces = search_space.search_spaces(measurement.heads, labels, taps)
    units = [features.units[row] for row in fitted]
    plan = SearchPlan(spaces, cross_validation.folds(labels, units, seed=seed), seed)
    data = TrainingData.weighted(X[fitted], taps, labels, balanced=measurement.balanced)
    choices = search.choose(search.search(data, plan))
    measured = {}
    for head in fit_heads(data, choices, plan):
        unseen = heads.select(X[tested], head.hyperparameters["taps"], among=taps)
        predictions = predict(head.pipeline, features, unseen, tested)
        measured[head.name] = results.metrics(predictions)
    return measured


def summary(values: Sequence[float]) -> Summary:
    """Summarise the values of a metric over the repeats.

    Returns
    -------
    dict
        ``mean``, ``sd`` (with n - 1 in the denominator) and ``half_width`` of the 95% interval of
        the mean by Student's t. With a single repeat, the latter two are 0.
    """
    n, mean = len(values), float(np.mean(values))
    sd = float(np.std(values, ddof=1)) if n > 1 else 0.0
    half_width = float(t.ppf(0.975, n - 1)) * sd / n**0.5 if n > 1 else 0.0
    return {"mean": mean, "sd": sd, "half_width": half_width}


def _at_least(summary: Summary, tests: int) -> Summary:
    """Widen the interval of an accuracy to Wilson's of all tests, if it is narrower.

    Splits without a mistake have no spread, and prove no perfect head.
    """
    if "low" not in summary:
        return {}
    low, high = results.wilson_interval(round(summary["mean"] * tests), tests)
    return {"low": max(0.0, min(summary["low"], low)), "high": min(1.0, max(summary["high"], high))}


def summaries(measured: Mapping[str, Sequence[Metrics]]) -> dict[str, dict[str, Summary]]:
    """Summarise every metric of every head."""
    return {
        name: {metric: summary([metrics[metric] for metrics in repeats]) for metric in repeats[0]}
        for name, repeats in measured.items()
    }


def curve_interval(summary: Summary, *, tested: int) -> Summary:
    """Return the 95% interval of an accuracy for draws of training photos and of test photos.

    All draws are tested on the same photos. Their spread around the mean is Student's interval, and
    that of the test photos is Wilson's. The two are independent, so their distances from the mean
    are added as squares: Zou and Donner, "Construction of confidence limits about effect measures:
    a general approach", Statistics in Medicine 27 (2008), 1693-1702, for a sum whose second part is
    0. Wilson's interval is that of a single draw, so the result is rather too wide than too narrow.

    Parameters
    ----------
    summary : dict
        The summary of the accuracy, see `summary`.
    tested : int
        The number of test photos.

    Returns
    -------
    dict
        ``low`` and ``high``, within 0..1. With a single draw, only the test photos are covered.
    """
    mean, draws = summary["mean"], summary["half_width"]
    low, high = results.wilson_interval(round(mean * tested), tested)
    return {
        "low": max(0.0, mean - float(np.hypot(max(0.0, mean - low), draws))),
        "high": min(1.0, mean + float(np.hypot(max(0.0, high - mean), draws))),
    }


def split_interval(summary: Summary, *, trained: int, tested: int, repeats: int) -> Summary:
    """Return the 95% interval of a metric for new photos, to train and to test.

    The random splits draw from the same photos, so their metrics are not independent, and Student's
    interval is too narrow. The variance of the mean is taken as (1 / repeats + tested / trained)
    times that of the splits: Nadeau and Bengio, "Inference for the generalization error", Machine
    Learning 52 (2003), 239-281, the corrected resampled t-test.

    Parameters
    ----------
    summary : dict
        The summary of the metric, see `summary`.
    trained, tested : int
        The number of photos that a split has to train and to test.
    repeats : int
        The number of splits.

    Returns
    -------
    dict
        ``low`` and ``high``; empty for a single split, which has no spread.
    """
    if repeats < 2:
        return {}
    half = summary["half_width"] * (1 + repeats * tested / trained) ** 0.5
    return {"low": summary["mean"] - half, "high": summary["mean"] + half}


def report_per_class(
    features: Features, measurement: Measurement, *, train: int, test: int, out: Path
) -> None:
    """Measure heads with `per_class`, print a row per head, and leave a record in ``runs/``."""
    with console.progress("repeats", measurement.repeats, unit="repeats") as advance:
        repeats = per_class(features, measurement, train=train, test=test, advance=advance)
    summary_of = summaries(repeats)
    seed = measurement.seed
    fitted, tested = draw(
        features.labels, features.digests, features.units, train=train, test=test, seed=seed
    )
    for by_metric in summary_of.values():
        for one in by_metric.values():
            one |= split_interval(
                one, trained=len(fitted), tested=len(tested), repeats=measurement.repeats
            )
        by_metric["accuracy"] |= _at_least(by_metric["accuracy"], len(tested) * measurement.repeats)
    say(
        f"{features.data}: {count(train, 'photo')} per class to train, at most {test} to test, "
        f"{count(measurement.repeats, 'random split')}; mean and standard deviation"
    )
    rows = [["Head", "Mean class recall", "Accuracy", "Log loss", "Calibration error"]]
    for name in measurement.heads:
        head_summary = summary_of[name]
        spreads = [
            _spread(head_summary[metric], "sd") for metric in ("mean_class_recall", "accuracy")
        ]
        means = [
            f"{head_summary[metric]['mean']:.3f}" for metric in ("log_loss", "calibration_error")
        ]
        rows.append([name, *spreads, *means])
    _print_table(rows)
    if measurement.repeats > 1:
        intervals = (f"{name} {_interval(summary_of[name]['accuracy'])}" for name in summary_of)
        say(
            "95% interval of the accuracy, which covers the draw of the training photos and of the "
            f"test photos: {', '.join(intervals)}"
        )
    counts = {"train": train, "test": test}
    record = _record(features, measurement, counts) | {"summary": summary_of, "repeats": repeats}
    _write(record, results.runs_of(features.data, out) / f"protocol-per-class-{train}-{test}.json")


def report_learning_curve(features: Features, measurement: Measurement, *, out: Path) -> None:
    """Measure heads with `learning_curve`, print a row per size, and leave a record in ``runs/``.

    Raises
    ------
    InputError
        If the splits are too small for training or testing.
    """
    check(features)
    draws = len(curve_sizes(features)) * measurement.repeats
    with console.progress("learning curve", draws, unit="draws") as advance:
        repeats = learning_curve(features, measurement, advance=advance)
    summary_of = {size: summaries(measured) for size, measured in repeats.items()}
    tested = len(features.rows("test"))
    for by_head in summary_of.values():
        for by_metric in by_head.values():
            by_metric["accuracy"] |= curve_interval(by_metric["accuracy"], tested=tested)
    say(
        f"{features.data}: accuracy on its {count(tested, 'test photo')}, "
        f"mean of {count(measurement.repeats, 'draw')}. In brackets is the 95% interval, which "
        "covers the draw of the training photos and of the test photos."
    )
    rows = [["Per class", *measurement.heads]]
    for size, by_head in summary_of.items():
        cells = [
            f"{by_head[name]['accuracy']['mean']:.1%} ({_interval(by_head[name]['accuracy'])})"
            for name in measurement.heads
        ]
        rows.append([f"{size:,}", *cells])
    _print_table(rows)
    record = _record(features, measurement, {}) | {"summary": summary_of, "repeats": repeats}
    _write(record, results.runs_of(features.data, out) / "learning-curve.json")


def _spread(summary: Summary, spread: str) -> str:
    return f"{summary['mean']:.1%} ± {100 * summary[spread]:.1f}"


def _interval(summary: Summary) -> str:
    return f"{100 * summary['low']:.1f} to {summary['high']:.1%}"


def table(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Arrange rows of cells in columns, the first left-aligned, the others right-aligned."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            str(cell).ljust(width) if position == 0 else str(cell).rjust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _print_table(rows: Sequence[Sequence[Any]]) -> None:
    for line in table(rows):
        say(line)


def _record(
    features: Features, measurement: Measurement, counts: Mapping[str, int]
) -> dict[str, Any]:
    """Return the origin of a measurement: its features and options."""
    return {
        "data": features.data,
        "data_digest": features.data_digest,
        "recipe_digest": features.recipe_digest,
        "options": {**counts, "seed": measurement.seed, "balanced": measurement.balanced},
        "versions": versions(),
        "created": now(),
    }


def _write(record: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.sweep(path.parent)
    atomic.write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    say(path)
