"""The tables of a comparison, in one form for the page, the Markdown file and the terminal."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from classify.results import PHASES
from extract.photos import duplicates
from extract.store.features_file import SPLITS
from extract.system.console import count
from extract.vgg16.recipe import SIZES, named
from finetune.compare.comparison import Comparison
from finetune.compare.number_formats import (
    decimal,
    duration,
    file_size,
    interval,
    p_value,
    percent,
)
from finetune.compare.records import ModelRecord
from finetune.compare.repeated_splits import MetricSummaries

NONE = "—"
FROM_TRAIN = "From train alone"
"""The heading of the accuracies of models as fitted to train, which rank them."""
MAX_LISTED = 200
"""Entries shown of a list that may be as long as there are photos."""
METRICS = (
    ("accuracy", "Accuracy", percent),
    ("mean_class_recall", "Mean class recall", percent),
    ("macro_f1", "Macro F1", decimal),
    ("log_loss", "Log loss", decimal),
    ("calibration_error", "Calibration error", decimal),
    ("top5_accuracy", "Top-5 accuracy", percent),
)
"""The metrics of `results.metrics` with their headings and formats."""
PHASE_HEADINGS = {
    "features": "VGG16 pass",
    "activations": "Activations",
    "tune": "Tuning",
    "fit": "Training",
    "predict": "Test",
}
"""`PHASES`, and those that only networks have, in the order of the work."""
RECIPES = {named("recipe", size) for size in SIZES}
SHOWN_ELSEWHERE = {"asked", "data", "schema", "skipped_digest", "near_pairs", "near_photos"} | {
    named("seconds", size) for size in SIZES
}
PRIVATE = {"root", "manifest"}
"""Attributes that must not leave this machine: they are paths on it."""


class Cell(NamedTuple):
    """One cell of a table.

    Attributes
    ----------
    text : str
    key : float or None
        The value to sort by, if it is not the text.
    note : str
        Shown in smaller letters below the text, or in brackets after it.
    """

    text: str
    key: float | None = None
    note: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.note})" if self.note else self.text


Table = dict[str, list[Cell]]
"""Heading to cells, all columns of one length."""

EMPTY = Cell(NONE)


def rows(table: Table) -> list[list[Cell]]:
    """Return the rows of a table."""
    return [list(cells) for cells in zip(*table.values(), strict=True)]


def whole(n: int) -> Cell:
    """Return a cell with a whole number."""
    return Cell(f"{n:,}", n)


def metrics(comparison: Comparison) -> Table:
    """Return the metrics that all models have, with 95% intervals for most of them.

    If models learned from different photos, there is a column with the accuracy by which they are
    ranked.
    """
    models = comparison.models
    table = {"Model": [Cell(model.name) for model in models]}
    for name, heading, number in METRICS:
        if all(name in model.result.metrics for model in models):
            table[heading] = [
                Cell(
                    number(model.result.metrics[name]),
                    model.result.metrics[name],
                    interval(model.intervals[name], number) if name in model.intervals else "",
                )
                for model in models
            ]
        if name == "accuracy":
            table |= learned_from(models)
    return table


def learned_from(models: Sequence[ModelRecord]) -> Table:
    """Return what models learned from, and the accuracies that rank them, if these differ."""
    if len({tuple(model.result.learned_from) for model in models}) == 1:
        return {}
    return {
        "Learned from": [Cell(" + ".join(model.result.learned_from)) for model in models],
        FROM_TRAIN: [
            Cell(percent(model.compared_accuracy), model.compared_accuracy)
            if model.compared_from == ("train",)
            else EMPTY
            for model in models
        ],
    }


def novelty(comparison: Comparison) -> list[str]:
    """Return sentences that say how well heads tell strangers, one for heads that are alike."""
    by_sentence: dict[str, list[str]] = {}
    for model in comparison.models:
        found = model.result.novelty
        if {"rejected", "keep", "strangers"} <= found.keys():
            sentence = (
                f"rejects {percent(found['rejected'])} of strangers where {found['keep']:.0%} of "
                f"known photos are kept ({count(int(found['strangers']), 'photo')} of classes "
                "that were left out in turn)."
            )
            by_sentence.setdefault(sentence, []).append(model.name)
        elif found:
            sentence = (
                "answers none of these; this cannot be measured, because of two classes none can "
                "be left out."
            )
            by_sentence.setdefault(sentence, []).append(model.name)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in by_sentence.items()]


def costs(comparison: Comparison) -> Table:
    """Return the time that each model took to make, its speed and its size."""
    models = comparison.models
    recorded = {phase for model in models for phase in model.result.seconds}
    phases = [phase for phase in PHASE_HEADINGS if phase in recorded.union(PHASES)]
    phases += sorted(recorded.difference(phases))
    table = {
        "Model": [Cell(model.name) for model in models],
        "Total": [Cell(duration(model.total_seconds), model.total_seconds) for model in models],
    }
    for phase in phases:
        seconds = [model.result.seconds.get(phase, 0.0) for model in models]
        heading = PHASE_HEADINGS.get(phase, phase)
        table[heading] = [Cell(duration(s), s) if s else EMPTY for s in seconds]
    training = PHASE_HEADINGS["fit"]
    table[training] = [
        cell._replace(note=count(epochs, "epoch")) if epochs else cell
        for epochs, cell in zip(
            (model.result.epochs for model in models), table[training], strict=True
        )
    ]
    speeds = [model.photos_per_second for model in models]
    sizes = [model.model_bytes for model in models]
    return table | {
        "Photos/s": [Cell(f"{speed:,.1f}", speed) if speed else EMPTY for speed in speeds],
        "Size": [Cell(file_size(n), n) if n else EMPTY for n in sizes],
        "Parameters": [whole(model.result.parameters) for model in models],
    }


def paired_tests(comparison: Comparison) -> Table:
    """Return McNemar's test of every two models, marked where they learned from other photos."""
    tests = comparison.paired_tests
    table = {
        "Model A": [Cell(test.first) for test in tests],
        "Model B": [Cell(test.second) for test in tests],
        "Only A right": [whole(test.only_first_correct) for test in tests],
        "Only B right": [whole(test.only_second_correct) for test in tests],
        "p": [Cell(p_value(test.p), test.p) for test in tests],
        "p (Holm)": [Cell(p_value(test.p_holm), test.p_holm) for test in tests],
    }
    if not all(test.same_photos for test in tests):
        table["Same training photos"] = [
            Cell("yes" if test.same_photos else "no") for test in tests
        ]
    return table


def learning_curve(curve: Mapping[int, Mapping[str, MetricSummaries]]) -> Table:
    """Return the accuracy of heads by training photos per class.

    Records of earlier versions have an interval for the draws of training photos alone.
    """
    heads = list(dict.fromkeys(head for by_head in curve.values() for head in by_head))
    sizes = sorted(curve)
    return {"Photos per class": [whole(n) for n in sizes]} | {
        head: [
            _with_interval(curve[n][head]["accuracy"]) if head in curve[n] else EMPTY for n in sizes
        ]
        for head in heads
    }


def protocol(by_head: Mapping[str, MetricSummaries]) -> Table:
    """Return the means of heads over random splits, with standard deviations.

    The interval of the accuracy also covers which photos are tested.
    """
    table = {"Head": [Cell(head) for head in by_head]}
    for metric, heading in (("mean_class_recall", "Mean class recall"), ("accuracy", "Accuracy")):
        table[heading] = [_mean(summaries[metric], "sd") for summaries in by_head.values()]
    accuracies = [summaries["accuracy"] for summaries in by_head.values()]
    if all("low" in accuracy for accuracy in accuracies):
        table["95% interval"] = [
            Cell(interval((accuracy["low"], accuracy["high"]))) for accuracy in accuracies
        ]
    for metric, heading in (("log_loss", "Log loss"), ("calibration_error", "Calibration error")):
        means = [summaries[metric]["mean"] for summaries in by_head.values()]
        table[heading] = [Cell(decimal(mean), mean) for mean in means]
    return table


def curve_covers(curve: Mapping[int, Mapping[str, MetricSummaries]]) -> str:
    """Say what the intervals of a learning curve cover."""
    if all("low" in summaries["accuracy"] for one in curve.values() for summaries in one.values()):
        return (
            "The 95% intervals cover which photos of train and val are drawn to train, and which "
            "photos are tested (Zou and Donner, 2008)."
        )
    return (
        "The 95% intervals cover which photos are drawn to train, but not which photos are tested. "
        "Measured again with --learning-curve, they cover both."
    )


def protocol_covers(by_head: Mapping[str, MetricSummaries]) -> str:
    """Say what the spreads of random splits cover."""
    if all("low" in summaries["accuracy"] for summaries in by_head.values()):
        return (
            "The 95% interval covers which photos train and which are tested (Nadeau and Bengio, "
            "2003). It is wider than the splits suggest, because they share photos."
        )
    return "The splits share photos, so these deviations are no interval for new photos."


def _with_interval(accuracy: Mapping[str, float]) -> Cell:
    if "low" not in accuracy:
        return _mean(accuracy, "half_width")
    mean = accuracy["mean"]
    return Cell(percent(mean), mean, interval((accuracy["low"], accuracy["high"])))


def _mean(summary: Mapping[str, float], spread: str) -> Cell:
    mean = summary["mean"]
    return Cell(f"{percent(mean)} ± {100 * summary[spread]:.1f}", mean)


def splits(comparison: Comparison) -> Table:
    """Return the number of photos of each class in each split."""
    features = comparison.features
    counts = [dict.fromkeys(SPLITS, 0) for _ in features.class_names]
    for label, split in zip(features.labels, features.splits, strict=True):
        counts[label][split] += 1
    table = {"Class": [Cell(name) for name in features.class_names]}
    table |= {split: [whole(by_split[split]) for by_split in counts] for split in SPLITS}
    return table | {"total": [whole(sum(by_split.values())) for by_split in counts]}


def skipped(comparison: Comparison, *, limit: int | None = None) -> Table:
    """Return the files that gave no features, and why."""
    found = comparison.features.skipped[:limit]
    return {
        "File": [Cell(path) for path, _ in found],
        "Reason": [Cell(reason) for _, reason in found],
    }


def near_duplicates(comparison: Comparison, *, limit: int | None = None) -> Table:
    """Return the near-duplicates in different splits, the most similar first."""
    features = comparison.features
    found = features.near[:limit]

    def photos(rows: Iterable[int]) -> list[Cell]:
        return [Cell(f"{features.paths[row]} ({features.splits[row]})") for row in rows]

    return {
        "Photo": photos(first for first, _, _ in found),
        "Near-duplicate": photos(second for _, second, _ in found),
        "Cosine similarity": [Cell(decimal(cosine), cosine) for _, _, cosine in found],
    }


def near_summary(comparison: Comparison) -> str:
    """Return how many near-duplicates there are, and whether all of them are listed."""
    features = comparison.features
    return duplicates.summary(len(features.near), features.near_found, features.near_photos)


def groups(comparison: Comparison) -> str:
    """Say which photos were kept together, and what would have been claimed otherwise."""
    features, leakage = comparison.features, comparison.leakage
    sizes = Counter(group for group in features.groups if group)
    if not sizes:
        return ""
    present = set(features.digests)
    twins = {digest for pair in features.same for digest in pair[:2]} & present
    said = (
        f"{count(sizes.total(), 'photo')} in {count(len(sizes), 'group')}, none of which lies in "
        f"two splits; {count(len(twins), 'file')} among all photos show a picture that is stored "
        "more than once."
    )
    if leakage is None:
        return said
    others = f", and {leakage.others:.1%} on the others" if leakage.known < leakage.photos else ""
    return (
        f"{said} If photos had been split one by one, {leakage.known:,} of "
        f"{count(leakage.photos, 'test photo')} would have had a photo of their group in "
        f"training, and {leakage.head} would have had an accuracy of {leakage.claimed:.1%}{others}."
    )


def provenance(comparison: Comparison) -> Table:
    """Return what the features were made from, and with which versions."""
    features = comparison.features
    found = {"data_digest": features.data_digest, "recipe_digest": features.recipe_digest}
    hidden = SHOWN_ELSEWHERE | PRIVATE
    found |= {k: str(v) for k, v in features.attributes.items() if k not in hidden}
    for name in found.keys() & RECIPES:
        found[name] = _settings(json.loads(found[name]))
    if "versions" in found:
        found["versions"] = versions(json.loads(found["versions"]))
    return {
        "Property": [Cell(name.replace("_", " ")) for name in found],
        "Value": [Cell(value) for value in found.values()],
    }


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}: {json.dumps(value) if isinstance(value, dict | list) else value}"
        for name, value in settings.items()
    )


def versions(by_library: Mapping[str, str]) -> str:
    """Return versions on one line: ``numpy 2.1, python 3.11``."""
    return ", ".join(f"{name} {version}" for name, version in sorted(by_library.items()))
