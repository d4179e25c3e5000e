"""The comparison of all results of one data set: figures, intervals, tests of significance."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from classify import results
from extract.console import InputError

if TYPE_CHECKING:
    from extract.store import Features

LEVEL = 0.05
COMMANDS = {"head": "make heads", "network": "make finetune"}


@dataclass(frozen=True, eq=False)
class Row:
    """One model that may be compared.

    Attributes
    ----------
    model : str
        Name of the result's folder.
    result : Result
        Its record, whose metrics were found to follow from its predictions.
    interval : tuple of two floats in 0..1
        Of the accuracy, see `interval`.
    seconds : float
        All phases together, the shared VGG16 pass included where the model used it.
    correct : ndarray of shape (n,), bool
        Whether each test photo was named rightly.
    confusion : ndarray of shape (k, k), int64
        Test photos by true class (rows) and predicted class (columns).
    history : dict of str to list
        Learning curves, one value an epoch; empty for a model without them.
    """

    model: str
    result: results.Result
    interval: tuple[float, float]
    seconds: float
    correct: NDArray[np.bool_]
    confusion: NDArray[np.int64]
    history: dict[str, list[Any]]

    @property
    def accuracy(self) -> float:
        """Share of the test photos named rightly, 0..1."""
        return self.result.metrics["accuracy"]


@dataclass(frozen=True)
class Pair:
    """The best model against another one, photo by photo.

    Attributes
    ----------
    other : str
    best_only, other_only : int
        Test photos that only the one, or only the other, named rightly.
    p : float
        Of McNemar's exact test, see `mcnemar`.
    corrected : float
        The same after Holm's correction for the number of pairs, see `holm`.
    """

    other: str
    best_only: int
    other_only: int
    p: float
    corrected: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every comparable result of one data set.

    Attributes
    ----------
    features : Features
        The published features, which say what was to be predicted.
    rows : list of Row
        Highest accuracy first, ties by lower log loss, then by name.
    pairs : list of Pair
        The first row against each of the others, in their order.
    refused : list of str
        One sentence for each result left out.
    verdict : str
        One sentence.
    """

    features: "Features"
    rows: list[Row]
    pairs: list[Pair]
    refused: list[str]
    verdict: str


def compare(features: "Features", folders: Sequence[Path]) -> Comparison:
    """Compare the results in `folders` that were made from these features' photos and splits.

    Raises
    ------
    InputError
        If no result is left to compare.
    """
    rows, refused = [], []
    for folder in folders:
        try:
            rows.append(_row(folder, features))
        except InputError as error:
            refused.append(f"{folder.name}: {error}")
    if not rows:
        reasons = "".join(f"; {reason}" for reason in refused)
        raise InputError(f"{features.data}: no result to compare, run `make heads`{reasons}")
    rows.sort(key=lambda row: (-row.accuracy, row.result.metrics["log_loss"], row.model))
    pairs = _pairs(rows)
    return Comparison(features, rows, pairs, refused, verdict(rows, pairs))


def interval(correct: int, n: int) -> tuple[float, float]:
    """Return the 95% Wilson score interval of an accuracy, within 0..1.

    It keeps its coverage for few photos and near 0 and 1, where the usual plus or minus two
    standard errors does not: Wilson (1927), JASA 22, 209-212; recommended by Brown, Cai and
    DasGupta (2001), Statistical Science 16, 101-133.
    """
    bounds = binomtest(correct, n).proportion_ci(confidence_level=1 - LEVEL, method="wilson")
    return float(bounds.low), float(bounds.high)


def mcnemar(best_only: int, other_only: int) -> float:
    """Return the two-sided p-value of McNemar's exact test; 1 when the models never disagree.

    Of the photos that exactly one of two equally good models names rightly, each is as likely to
    be the one's as the other's: McNemar (1947), Psychometrika 12, 153-157; advised for comparing
    two classifiers on one test set by Dietterich (1998), Neural Computation 10, 1895-1923.
    """
    disagreed = best_only + other_only
    return float(binomtest(best_only, disagreed).pvalue) if disagreed else 1.0


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


def verdict(rows: Sequence[Row], pairs: Sequence[Pair]) -> str:
    """Say in one sentence which model the test photos favour, or that they favour none."""
    best = rows[0]
    low, high = best.interval
    score = f"accuracy {best.accuracy:.1%} (95% interval {low:.1%} to {high:.1%})"
    if not pairs:
        return f"{best.model} is the only model: {score} in {duration(best.seconds)}."
    test = "McNemar's exact test with Holm's correction"
    rivals = {pair.other: pair.corrected for pair in pairs if pair.corrected > LEVEL}
    if not rivals:
        largest = max(pair.corrected for pair in pairs)
        return (
            f"{best.model} is the most accurate, beyond chance against every other model "
            f"({test}, largest p = {largest:.2g}): {score} in {duration(best.seconds)}."
        )
    cheapest = min([best, *(r for r in rows if r.model in rivals)], key=lambda row: row.seconds)
    return (
        f"No clear winner: {best.model} comes first with {score}, but {len(best.correct):,} test "
        f"photos do not tell it from {listing(list(rivals))} ({test}, smallest p = "
        f"{min(rivals.values()):.2g}); the cheapest of them is {cheapest.model}, "
        f"{cheapest.accuracy:.1%} in {duration(cheapest.seconds)}."
    )


def most_confused(confusion: NDArray[np.int64], *, limit: int = 10) -> list[tuple[int, int, int]]:
    """Return the largest (true class, predicted class, photos) off the diagonal, most first."""
    wrong = confusion * ~np.eye(len(confusion), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    found = [(int(i) // len(wrong), int(i) % len(wrong), int(wrong.flat[i])) for i in order]
    return [entry for entry in found if entry[2]]


def duration(seconds: float) -> str:
    """Write a time as people say it: ``0.12 s``, ``4.0 s``, ``1 min 40 s``, ``2 h 5 min``."""
    if seconds < 9.95:
        return f"{seconds:.{1 if seconds >= 0.995 else 2}f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min"


def listing(names: Sequence[str]) -> str:
    """Write names as a sentence has them: ``a``, ``a or b``, ``a, b or c``."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _row(folder: Path, features: "Features") -> Row:
    result = results.load(folder)
    if result.data_digest != features.data_digest:
        command = COMMANDS.get(result.stage, "make")
        raise InputError(f"made from other photos or another split; run `{command}` again")
    predictions = results.load_predictions(folder)
    test = np.flatnonzero(features.splits == "test")
    labels = features.labels[test]
    if predictions.paths != [features.paths[i] for i in test]:
        raise _damaged(result, "its photos are not the test photos in their order")
    if not np.array_equal(predictions.labels, labels):
        raise _damaged(result, "its true classes are not those of the test photos")
    k = len(features.class_names)
    if result.class_names != features.class_names or predictions.probabilities.shape[1:] != (k,):
        raise _damaged(result, "its classes are not those of the features")
    try:
        expected = results.metrics(predictions)
        same = expected.keys() == result.metrics.keys() and np.allclose(
            list(expected.values()), [result.metrics[name] for name in expected], rtol=1e-6
        )
        seconds = float(sum(result.seconds.values()))
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(result, str(error)) from error
    if not same:
        raise _damaged(result, "its metrics do not follow from its predictions")
    predicted = predictions.probabilities.argmax(axis=1)
    confusion = np.zeros((k, k), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    correct = predicted == labels
    bounds = interval(int(correct.sum()), len(correct))
    return Row(folder.name, result, bounds, seconds, correct, confusion, _history(folder))


def _damaged(result: results.Result, reason: str) -> InputError:
    return InputError(f"damaged, {reason}; run `{COMMANDS.get(result.stage, 'make')}` again")


def _history(folder: Path) -> dict[str, list[Any]]:
    try:
        record = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(record, dict):
        return {}
    return {name: values for name, values in record.items() if isinstance(values, list)}


def _pairs(rows: Sequence[Row]) -> list[Pair]:
    best, *others = rows
    counts = [
        (int((best.correct & ~row.correct).sum()), int((row.correct & ~best.correct).sum()))
        for row in others
    ]
    p = [mcnemar(*count) for count in counts]
    return [
        Pair(row.model, *count, value, corrected)
        for row, count, value, corrected in zip(others, counts, p, holm(p), strict=True)
    ]
