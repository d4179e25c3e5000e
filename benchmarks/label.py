"""Count the labels that a labelling session needs: ``python -m benchmarks.label chess``.

The true labels answer. A session begins with one photo of each class, drawn by the seed, and the
rest of train and val is its pool. Accuracy is measured on the test split, which is neither fitted
nor asked for. With ``--develop`` the test split is left out, and each seed draws a fifth of train
and val to measure on, so that choices can be made without the test split.

Printed are the labels after which the mean accuracy reaches the one of 200 labels in random order.
Then all labels of train and val are given, 5% of them wrong, and the wrong ones are counted among
twice as many answers; the head is refitted after each 1% of the labels. Run ``make features`` for
the data sets first.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify import protocols
from classify.arrays import Labels
from classify.labeling import learner, queue
from classify.labeling.learner import Photos
from extract import options as shared
from extract.photos import datasets
from extract.store import features_file
from extract.system import console

RANDOM_LABELS = 200
WRONG = 0.05
FOUND = 0.9
LEFT_OUT = (datasets.BACKGROUND, "Faces_easy")
"""Not classes of their own: the second has the photos of another one, cropped."""
SMOOTHING = 5
"""Numbers of labels over which a curve is averaged, so that a chance peak reaches nothing."""


@dataclass(frozen=True, eq=False)
class Case:
    """A session with one seed."""

    photos: Photos
    labels: Labels
    classes: int
    seed: int

    def accuracy(self, fitted: learner.Fitted) -> float:
        """Return the accuracy on the held-out photos."""
        held_out = self.photos.held_out
        predicted = fitted.probabilities[held_out].argmax(axis=1)
        return float((predicted == self.labels[held_out]).mean())


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label", description=__doc__)
    parser.add_argument("data", nargs="+", help="data sets that have features, or features files")
    shared.add_out(parser, "features/")
    parser.add_argument("--seeds", type=int, default=5, help="sessions of each data set")
    parser.add_argument("--labels", type=int, default=200, help="when a session ends")
    parser.add_argument(
        "--classes", type=int, default=20, help="of more classes, this many, spread over the names"
    )
    parser.add_argument("--develop", action="store_true", help="leave the test split out")
    parser.add_argument("--json", type=shared.path, help="a file to write the figures to")
    options = parser.parse_args()
    measured = [_measure(data, options) for data in options.data]
    for line in protocols.table(_table(measured)):
        print(line)
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1) + "\n")


def _measure(data: str, options: argparse.Namespace) -> dict[str, Any]:
    name, cases = _cases(data, options)
    random = [in_random_order(case) for case in cases]
    curves, asked, fitted = [], [], []
    for case in cases:
        curve, question_seconds, fit_seconds = session(case, options.labels)
        curves.append(curve)
        asked += question_seconds
        fitted += fit_seconds
    curve, target = np.mean(curves, axis=0), float(np.mean(random))
    found = [wrong_labels(case) for case in cases]
    every = np.where(cases[0].photos.held_out, -1, cases[0].labels)
    full = min(learner.fit(cases[0].photos, every, cases[0].classes).seconds for _ in range(3))
    console.say(f"{name}: done")
    return {
        "data": name,
        "photos": len(cases[0].labels),
        "classes": cases[0].classes,
        "random": target,
        "labels": reached(curve, target, first=cases[0].classes),
        "each": [reached(each, target, first=cases[0].classes) for each in curves],
        "last": cases[0].classes + len(curve) - 1,
        "curve": [round(float(value), 4) for value in curve],
        "wrong": sum(wrong for wrong, _ in found),
        "met": sum(met for _, met in found),
        "question_seconds": float(np.median(asked)),
        "fit_seconds": float(np.median(fitted)),
        "full_seconds": full,
    }


def _table(measured: Sequence[dict[str, Any]]) -> list[list[str]]:
    rows = [
        [
            *("Data", "Photos", "Classes", f"Accuracy of {RANDOM_LABELS}", "Labels"),
            *("Seed by seed", "Wrong met", "Question", "Refit", "All labels"),
        ]
    ]
    for one in measured:
        rows.append(
            [
                one["data"],
                f"{one['photos']:,}",
                str(one["classes"]),
                f"{one['random']:.1%}",
                str(one["labels"] or f"more than {one['last']}"),
                " ".join(str(each or "-") for each in one["each"]),
                f"{one['met'] / one['wrong']:.0%} of {one['wrong']}",
                f"{one['question_seconds'] * 1000:.0f} ms",
                f"{one['fit_seconds'] * 1000:.0f} ms",
                f"{one['full_seconds'] * 1000:.0f} ms",
            ]
        )
    return rows


def _cases(data: str, options: argparse.Namespace) -> tuple[str, list[Case]]:
    """Read the features once, and hold out the photos that each seed measures on."""
    with features_file.open(features_file.file_of(data, options.out)) as features:
        splits = ("train", "val") if options.develop else features_file.SPLITS
        rows, taps = features.rows(*splits), {tap: features.taps[tap] for tap in learner.TAPS}
        X = features.read(taps, *splits)
        labels, test = features.labels[rows], features.splits[rows] == "test"
        names, name = features.class_names, features.data
    kept, labels = _spread(names, labels, options.classes)
    X, labels, test = learner.prepared(X[kept], taps), labels[kept], test[kept]
    photos, cases = Photos(X, test), []
    for seed in range(options.seeds):
        if options.develop:
            order = np.random.default_rng(seed).permutation(len(labels))
            photos = Photos(X, order < len(labels) // 5)
        cases.append(Case(photos, labels, int(labels.max()) + 1, seed))
    return name, cases


def _spread(names: Sequence[str], labels: Labels, classes: int) -> tuple[NDArray[np.bool_], Labels]:
    """Keep some classes, each of them the last of as many that follow each other by name.

    Returns
    -------
    ndarrays of shape (n,): whether a photo is kept, and the labels, renumbered
    """
    own = [label for label, name in enumerate(names) if name not in LEFT_OUT]
    if len(own) > classes:
        step = len(own) // classes
        own = own[step - 1 :: step][:classes]
    number = np.full(len(names), -1)
    number[own] = np.arange(len(own))
    return number[labels] >= 0, number[labels]


def _begun(case: Case) -> tuple[Labels, NDArray[np.intp]]:
    """Return the labels that a session begins with, and its pool in random order."""
    order = np.random.default_rng(case.seed).permutation(len(case.labels))
    order = order[~case.photos.held_out[order]]
    first = [order[case.labels[order] == label][0] for label in range(case.classes)]
    given = np.full(len(case.labels), -1)
    given[first] = case.labels[first]
    return given, order[given[order] < 0]


def in_random_order(case: Case) -> float:
    """Return the accuracy of `RANDOM_LABELS` labels."""
    given, pool = _begun(case)
    drawn = pool[: RANDOM_LABELS - case.classes]
    given[drawn] = case.labels[drawn]
    return case.accuracy(learner.fit(case.photos, given, case.classes))


def session(case: Case, labels: int) -> tuple[list[float], list[float], list[float]]:
    """Answer what the queue asks; return the accuracy after each number of labels, and seconds.

    Returns
    -------
    accuracies, from one label of each class on; seconds per question; seconds per fit
    """
    given, _ = _begun(case)
    answered = given >= 0
    curve: list[float] = []
    asking: list[float] = []
    fitting: list[float] = []
    while True:
        fitted = learner.fit(case.photos, given, case.classes)
        curve.append(case.accuracy(fitted))
        fitting.append(fitted.seconds)
        if len(curve) > labels - case.classes:
            return curve, asking, fitting
        started = time.perf_counter()
        asked = queue.questions(case.photos, fitted, given, answered=answered, twins=[], n=1)
        asking.append(time.perf_counter() - started)
        if not asked:
            return curve, asking, fitting
        given[asked[0].row] = case.labels[asked[0].row]
        answered[asked[0].row] = True


def reached(curve: Sequence[float], target: float, *, first: int) -> int | None:
    """Return the number of labels from which a smoothed curve has reached an accuracy."""
    smooth = np.convolve(curve, np.full(SMOOTHING, 1 / SMOOTHING), mode="valid")
    found = np.flatnonzero(smooth >= target)
    return int(found[0]) + SMOOTHING // 2 + first if len(found) else None


def wrong_labels(case: Case) -> tuple[int, int]:
    """Give all labels, some of them wrong, and ask twice as many questions as there are wrong ones.

    Returns
    -------
    how many are wrong, and how many of them were asked for
    """
    random = np.random.default_rng(case.seed)
    rows = np.flatnonzero(~case.photos.held_out)
    wrong = random.choice(rows, round(WRONG * len(rows)), replace=False)
    given = np.where(case.photos.held_out, -1, case.labels)
    given[wrong] = (given[wrong] + random.integers(1, case.classes, len(wrong))) % case.classes
    answered = np.zeros(len(given), bool)
    while left := 2 * len(wrong) - int(answered.sum()):
        fitted = learner.fit(case.photos, given, case.classes)
        n = min(left, max(1, len(rows) // 100))
        asked = queue.questions(case.photos, fitted, given, answered=answered, twins=[], n=n)
        if not asked:
            break
        checked = [question.row for question in asked]
        given[checked], answered[checked] = case.labels[checked], True
    return len(wrong), int(answered[wrong].sum())


if __name__ == "__main__":
    console.run(main)
