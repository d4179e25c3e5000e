"""What to do next: at most five findings of a comparison, the largest gain first."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from classify.results import LEVEL
from extract.system.console import as_started, count
from finetune.compare.comparison import Comparison
from finetune.compare.mistakes import shared_mistakes
from finetune.compare.number_formats import alternatives, decimal, percent
from finetune.compare.records import ModelRecord
from finetune.compare.significance import PairedTest
from finetune.findings import power

WRONG = 0.51
"""The share of labels found by confident learning that people found wrong, on average over ten
data sets: Northcutt, Athalye and Mueller (2021), "Pervasive label errors in test sets destabilize
machine learning benchmarks", NeurIPS Datasets and Benchmarks."""

SMALLEST_DIFFERENCE = 0.01
"""A difference of accuracies that is worth finding, where the observed one is smaller."""

SMALLEST_GAIN = 0.0005
"""A smaller one would be shown as 0.0 points."""

MOST_CLASSES = 3

DEAR = 2
"""A model that takes so many times as long as the cheapest is asked to be worth it."""


@dataclass(frozen=True)
class Finding:
    """One thing to do.

    Attributes
    ----------
    kind : str
        ``labels``, ``test photos``, ``training photos``, ``copies`` or ``model``.
    gain : float
        The accuracy, 0..1, that it may add on average, or by which it may correct what is claimed.
    reason : str
        A few sentences.
    command : str
    """

    kind: str
    gain: float
    reason: str
    command: str


def next_steps(comparison: Comparison, *, data: str) -> list[Finding]:
    """Return the findings, the largest gain first; none without a gain.

    Parameters
    ----------
    comparison : Comparison
    data : str
        The name of the data set, quoted for a shell.
    """
    rules: list[Callable[[Comparison, str], Finding | None]] = [
        _labels,
        _test_photos,
        _training_photos,
        _copies,
        _model,
    ]
    found = [finding for rule in rules if (finding := rule(comparison, data))]
    return sorted((one for one in found if one.gain >= SMALLEST_GAIN), key=lambda one: -one.gain)


def _labels(comparison: Comparison, data: str) -> Finding | None:
    """Judge the labels that models contradict."""
    features, best, check = comparison.features, comparison.models[0], comparison.label_check
    agreed = len(shared_mistakes(comparison.models, features))
    found = agreed + (len(check.suspects) if check else 0)
    looked_at = len(best.correct) + (check.photos if check else 0)
    wrong = WRONG * found / looked_at
    return Finding(
        "labels",
        # Correct labels cannot take away more mistakes than there are.
        min(wrong, 1 - best.accuracy),
        f"Check {count(found, 'label')} of {looked_at:,}, which models contradict. In ten public "
        f"data sets, {WRONG:.0%} of such labels were wrong (Northcutt, Athalye and Mueller, 2021). "
        f"If that holds here, {percent(wrong)} of the labels are wrong, and a right prediction for "
        "such a photo counts as a mistake.",
        as_started(f"make label DATA={data}"),
    )


def _test_photos(comparison: Comparison, data: str) -> Finding | None:
    """Judge whether the test photos tell the best model from the others."""
    best = comparison.models[0]
    photos = len(best.correct)

    def loss(test: PairedTest) -> float:
        return power.expected_loss(test.only_first_correct, test.only_second_correct, photos)

    unclear = [t for t in comparison.paired_tests if t.first == best.name and t.p_holm > LEVEL]
    if not unclear:
        return None
    test = max(unclear, key=loss)
    first, second = test.only_first_correct / photos, test.only_second_correct / photos
    seen = first - second
    difference = max(seen, SMALLEST_DIFFERENCE)
    # The models disagree as often as they do here.
    disagree = max(first + second, difference)
    needed = power.photos_needed((disagree + difference) / 2, (disagree - difference) / 2)
    return Finding(
        "test photos",
        loss(test),
        f"Add test photos. {count(photos, 'test photo')} cannot tell {best.name} from "
        f"{test.second}: only {best.name} is right for {test.only_first_correct:,}, and only "
        f"{test.second} for {test.only_second_correct:,}. To find a difference of "
        f"{100 * difference:.1f} points in four of five cases, McNemar's test needs {needed:,} "
        "test photos (Connor, 1987). Until then, the choice may fall on the worse one.",
        as_started(f"make DATA={data}"),
    )


def _training_photos(comparison: Comparison, data: str) -> Finding | None:
    """Find the classes that would gain most from more photos."""
    features, check = comparison.features, comparison.label_check
    if check is None or check.held_out is None or check.held_out.after_half is None:
        return None
    held_out, after_half = check.held_out, check.held_out.after_half
    labels, names = features.labels[held_out.rows], features.class_names
    wrong = held_out.probabilities.argmax(axis=1) != labels
    wrong_after_half = int((after_half != labels).sum())
    if not wrong.sum() < wrong_after_half:
        return None
    # Twice as many photos take away the same share of the mistakes once more.
    avoided = 1 - int(wrong.sum()) / wrong_after_half
    lost = np.bincount(labels, weights=wrong, minlength=len(names)) / len(labels)
    worst = np.argsort(-lost, kind="stable")[:MOST_CLASSES]
    worst = worst[lost[worst] > 0]
    photos = np.bincount(labels, minlength=len(names))
    wanted = [f"{count(int(photos[label]), 'photo')} of {names[label]}" for label in worst]
    listed = alternatives(wanted).replace(" or ", " and ")
    return Finding(
        "training photos",
        float(avoided * lost[worst].sum()),
        f"Add {listed}, which is as many again. These classes cost most: {check.head} gets "
        f"{percent(float(lost[worst].sum()))} of all photos of train and val wrong because of "
        f"them, when it is fitted without the photo. Fitted on half of the photos, it makes "
        f"{wrong_after_half:,} mistakes instead of {int(wrong.sum()):,}. If twice as many help as "
        f"much again, {avoided:.0%} of the mistakes go.",
        as_started(f"make label DATA={data} POOL=FOLDER"),
    )


def _copies(comparison: Comparison, data: str) -> Finding | None:
    """Judge the test photos that training has nearly seen."""
    features, best = comparison.features, comparison.models[0]
    rows = np.flatnonzero(features.splits == "test")
    known = {row for pair in features.near for row in pair[:2]}
    seen = np.isin(rows, list(known))
    if not seen.any() or seen.all():
        return None
    others = float(best.correct[~seen].mean())
    return Finding(
        "copies",
        best.accuracy - others,
        f"Look at {count(int(seen.sum()), 'test photo')} that nearly equal a photo of train or "
        f"val. {best.name} is right for {percent(float(best.correct[seen].mean()))} of them and "
        f"for {percent(others)} of the others, so its accuracy flatters. Give photos that belong "
        "together the same group in the manifest, and make everything anew from it.",
        as_started(f"python -m extract manifest {data} --to photos.csv"),
    )


def _model(comparison: Comparison, data: str) -> Finding | None:
    """Judge the best model if it costs more than others."""
    best = comparison.models[0]
    limit = DEAR * min(model.total_seconds for model in comparison.models)
    cheap = next(model for model in comparison.models if model.total_seconds <= limit)
    if cheap is best:
        return None
    return Finding(
        "model",
        best.accuracy - cheap.accuracy,
        f"Decide whether {best.name} is worth its cost. It is right for "
        f"{percent(best.accuracy)}, and {cheap.name} for {percent(cheap.accuracy)}. It takes "
        f"{_times(best, cheap)} as long to make. The difference has p = "
        f"{decimal(_p_value(comparison, cheap))} (McNemar's exact test, Holm).",
        as_started(f"make serve DATA={data} MODEL={shlex.quote(best.name)}"),
    )


def _times(dear: ModelRecord, cheap: ModelRecord) -> str:
    return f"{dear.total_seconds / max(cheap.total_seconds, 0.01):,.1f} times"


def _p_value(comparison: Comparison, other: ModelRecord) -> float:
    best = comparison.models[0].name
    pair = {best, other.name}
    tests = [test for test in comparison.paired_tests if {test.first, test.second} == pair]
    return tests[0].p_holm if tests else 1.0
