"""The comparison of all results of one data set: figures, doubts, and what to use."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify import results
from extract.system.console import InputError, count
from finetune.compare.significance import LEVEL, Interval, bootstrap, holm, interval, mcnemar

if TYPE_CHECKING:
    from extract.store.features_file import Features
    from finetune.compare.suspects import Suspects

COMMANDS = {"head": "make heads", "network": "make finetune"}
TEST = "McNemar's exact test with Holm's correction"

WORTH = 2
"""As many times the time of the cheapest may be spent on a difference that may be chance."""

Figures = Mapping[str, Mapping[str, float]]
"""Of one head: metric to ``mean``, ``sd`` and ``half_width``, see `classify.protocols.summary`."""


@dataclass(frozen=True, eq=False)
class Row:
    """One model that may be compared.

    Attributes
    ----------
    model : str
        Name of the result's folder.
    result : Result
        Its record, whose metrics were found to follow from its predictions.
    predictions : Predictions
        Of the n test photos, in the order of the features.
    interval : tuple of two floats in 0..1
        Of the accuracy, see `significance.interval`.
    seconds : float
        All phases together, the shared VGG16 pass included where the model used it.
    speed : float or None
        Photos a second from file to class, as it was measured: of a head, of VGG16's pass and the
        head together. None where it was not.
    size : int or None
        Bytes of the file that holds the model; of a head, without VGG16.
    history : dict of str to list
        Learning curves, one value an epoch; empty for a model without them.
    """

    model: str
    result: results.Result
    predictions: results.Predictions
    interval: Interval
    seconds: float
    speed: float | None
    size: int | None
    history: dict[str, list[Any]]

    @property
    def accuracy(self) -> float:
        """Share of the test photos named rightly, 0..1."""
        return self.result.metrics["accuracy"]

    @cached_property
    def predicted(self) -> NDArray[np.intp]:
        """Classes named, of shape (n,)."""
        predicted: NDArray[np.intp] = self.predictions.probabilities.argmax(axis=1)
        return predicted

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """Probabilities of the classes named, of shape (n,)."""
        confidence: NDArray[np.float64] = self.predictions.probabilities.max(axis=1).astype(float)
        return confidence

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each test photo was named rightly, of shape (n,)."""
        correct: NDArray[np.bool_] = self.predicted == self.predictions.labels
        return correct

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Test photos by true class (rows) and class named (columns), of shape (k, k)."""
        k = self.predictions.probabilities.shape[1]
        counts = np.bincount(self.predictions.labels * k + self.predicted, minlength=k * k)
        return counts.reshape(k, k)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95% intervals by metric: the accuracy's, and those of `significance.bootstrap`."""
        return {"accuracy": self.interval, **bootstrap(self.predictions)}


@dataclass(frozen=True)
class Pair:
    """Two models, photo by photo.

    Attributes
    ----------
    one, other : str
        The first as the rows are sorted, and the second.
    one_only, other_only : int
        Test photos that only the one, or only the other, named rightly.
    p : float
        Of McNemar's exact test, see `significance.mcnemar`.
    corrected : float
        The same after Holm's correction for all pairs, see `significance.holm`. Which model comes
        first is seen in the same photos, so that its pairs alone would be too few.
    """

    one: str
    other: str
    one_only: int
    other_only: int
    p: float
    corrected: float


class Mistake(NamedTuple):
    """A test photo that was named otherwise than its label says.

    Attributes
    ----------
    photo : int
        Its row among the features.
    label, said : int
        The class by its label, and the class named.
    probability : float
        Of the class named.
    """

    photo: int
    label: int
    said: int
    probability: float


@dataclass(frozen=True)
class Repeats:
    """What `python -m classify` measured over random splits, of the same photos.

    Attributes
    ----------
    curve : dict of photos a class to dict of head to Figures
        By ``--learning-curve``.
    protocols : dict of str to dict of head to Figures
        By ``--protocol``, what was asked in words.
    """

    curve: dict[int, dict[str, Figures]] = field(default_factory=dict)
    protocols: dict[str, dict[str, Figures]] = field(default_factory=dict)


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
        Every row against each of those after it, in their order.
    refused : list of str
        One sentence for each result left out.
    verdict : str
        One sentence that says what to use and why.
    repeats : Repeats
    suspects : Suspects or None
        Labels of train and val to check; None where they were not looked for.
    """

    features: "Features"
    rows: list[Row]
    pairs: list[Pair]
    refused: list[str]
    verdict: str
    repeats: Repeats = field(default_factory=Repeats)
    suspects: "Suspects | None" = None


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


def verdict(rows: Sequence[Row], pairs: Sequence[Pair]) -> str:
    """Say in one sentence which model to use and why.

    Where the test photos do not tell the most accurate model from others, the one to use is the
    most accurate of those that cost at most twice the time of the cheapest.
    """
    best = rows[0]
    n = count(len(best.correct), "test photo")
    low, high = best.interval
    score = f"accuracy {best.accuracy:.1%} (95% interval {low:.1%} to {high:.1%})"
    guess = float(np.bincount(best.predictions.labels).max() / len(best.correct))
    if low <= guess:
        return (
            f"Use none of them yet: {best.model} comes first with {score}, and {n} do not tell "
            f"that from always naming the most frequent class, which is right for {guess:.1%}."
        )
    mine = [pair for pair in pairs if pair.one == best.model]
    if not mine:
        return f"{best.model} is the only model: {score} in {duration(best.seconds)}."
    rivals = {pair.other: pair.corrected for pair in mine if pair.corrected > LEVEL}
    if not rivals:
        largest = max(pair.corrected for pair in mine)
        return (
            f"Use {best.model}: it is the most accurate, beyond chance against every other model "
            f"({TEST}, largest p = {largest:.2g}), with {score} in {duration(best.seconds)}."
        )
    equals = [best, *(row for row in rows if row.model in rivals)]
    limit = WORTH * min(row.seconds for row in equals)
    chosen = next(row for row in equals if row.seconds <= limit)
    if chosen is best:
        return (
            f"No clear winner, use {best.model}: it comes first with {score} in "
            f"{duration(best.seconds)}, {n} do not tell it from {listing(list(rivals))} ({TEST}, "
            f"smallest p = {min(rivals.values()):.2g}), and none of them costs less than half."
        )
    return (
        f"No clear winner, use {chosen.model}: accuracy {chosen.accuracy:.1%} in "
        f"{duration(chosen.seconds)}; {best.model} comes first with {score}, but took "
        f"{duration(best.seconds)}, and {n} do not tell the two apart ({TEST}, "
        f"p = {rivals[chosen.model]:.2g})."
    )


def most_confused(confusion: NDArray[np.int64], *, limit: int = 10) -> list[tuple[int, int, int]]:
    """Return the largest (true class, predicted class, photos) off the diagonal, most first."""
    wrong = confusion * ~np.eye(len(confusion), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    found = [(int(i) // len(wrong), int(i) % len(wrong), int(wrong.flat[i])) for i in order]
    return [entry for entry in found if entry[2]]


def recalls(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Return the recall of each class by each model, of shape (k, models); NaN without photos."""
    with np.errstate(invalid="ignore"):
        return np.stack(
            [row.confusion.diagonal() / row.confusion.sum(axis=1) for row in rows], axis=1
        )


def mistakes(row: Row, features: "Features", *, limit: int) -> list[Mistake]:
    """Return the mistakes of which a model was most sure, the surest first."""
    wrong = np.flatnonzero(~row.correct)
    return _listed(row, features, wrong, row.confidence)[:limit]


def agreed(rows: Sequence[Row], features: "Features") -> list[Mistake]:
    """Return the test photos that all models, two at least, give one other class than the label.

    The surest first, by the mean probability of all models.
    """
    first = rows[0]
    named = np.stack([row.predicted for row in rows])
    same = (named == named[0]).all(axis=0) & ~first.correct
    sure = np.mean([row.confidence for row in rows], axis=0)
    return _listed(first, features, np.flatnonzero(same), sure) if len(rows) > 1 else []


def repeats_of(runs: Path, features: "Features") -> tuple[Repeats, list[str]]:
    """Read what was measured over random splits, and say in a sentence each what is left out."""
    found, refused = Repeats(), []
    for path in sorted([*runs.glob("learning-curve.json"), *runs.glob("protocol-*.json")]):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["data_digest"] != features.data_digest:
                refused.append(f"{path.name}: made from other photos or splits; run it again")
            elif path.name == "learning-curve.json":
                found.curve.update({int(size): by for size, by in record["summary"].items()})
            else:
                asked = record["options"]
                title = (
                    f"{asked['train']} photos a class to train, at most {asked['test']} to test, "
                    f"{len(next(iter(record['repeats'].values())))} random splits"
                )
                found.protocols[title] = record["summary"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            refused.append(f"{path.name}: not such a record ({error}); run it again")
    return found, refused


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
    correct = int((predictions.probabilities.argmax(axis=1) == labels).sum())
    return Row(
        folder.name,
        result,
        predictions,
        interval(correct, len(labels)),
        seconds,
        _speed(result, features, len(labels)),
        results.model_bytes(folder),
        _history(folder),
    )


def _speed(result: results.Result, features: "Features", photos: int) -> float | None:
    a_photo = result.seconds.get("predict", 0.0) / photos
    if not a_photo:
        return None
    if result.stage == "head":
        a_photo += result.seconds.get("features", 0.0) / len(set(features.digests))
    return 1 / a_photo


def _listed(
    row: Row, features: "Features", places: NDArray[np.intp], sure: NDArray[np.float64]
) -> list[Mistake]:
    test = np.flatnonzero(features.splits == "test")
    labels = row.predictions.labels
    return [
        Mistake(int(test[i]), int(labels[i]), int(row.predicted[i]), float(sure[i]))
        for i in places[np.argsort(-sure[places], kind="stable")]
    ]


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
    both = list(combinations(rows, 2))
    counts = [
        (int((one.correct & ~other.correct).sum()), int((other.correct & ~one.correct).sum()))
        for one, other in both
    ]
    p = [mcnemar(*counted) for counted in counts]
    return [
        Pair(one.model, other.model, *counted, value, corrected)
        for (one, other), counted, value, corrected in zip(both, counts, p, holm(p), strict=True)
    ]
