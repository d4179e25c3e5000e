"""The tables of a comparison, as every output shows them."""

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from classify.results import PHASES
from extract.store.features_file import SPLITS
from extract.system.console import count
from extract.vgg16.recipe import SIZE, SIZES, named
from finetune.compare.comparison import Comparison, Figures, Row, duration
from finetune.compare.significance import Interval

NONE = "—"
WORDS = {
    "features": "VGG16 pass",
    "activations": "Activations",
    "tune": "Tuning",
    "fit": "Training",
    "predict": "Test",
}
"""Phases in their order, and what they are called; `PHASES` and what networks add."""
RECIPES = {named("recipe", size) for size in SIZES}
ELSEWHERE = {"data", "root", "schema", "skipped_digest"} | {named("seconds", n) for n in SIZES}


class Cell(NamedTuple):
    """What stands in a table.

    Attributes
    ----------
    text : str
    key : float or None
        What to sort by where it is not the text.
    below : str
        In smaller letters, or in brackets.
    """

    text: str
    key: float | None = None
    below: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.below})" if self.below else self.text


Table = dict[str, list[Cell]]
"""Heading to cells, all columns of one length."""

ABSENT = Cell(NONE)


def lines(table: Table) -> list[list[Cell]]:
    """Return the rows of a table."""
    return [list(cells) for cells in zip(*table.values(), strict=True)]


def percent(value: float) -> str:
    """Write a share: ``84.5%``."""
    return f"{value:.1%}"


def number(value: float) -> str:
    """Write a figure that is no share: ``0.464``."""
    return f"{value:.3f}"


def chance(p: float) -> str:
    """Write a p-value: ``0.754``, ``< 0.001``."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def size(n: int) -> str:
    """Write a number of bytes: ``3.3 MB``."""
    return f"{n / 1e6:,.1f} MB" if n >= 1e5 else f"{n / 1e3:,.1f} kB"


def quality(comparison: Comparison) -> Table:
    """Return how good each model is, with 95% intervals where there are."""
    rows = comparison.rows
    found = {"Model": [Cell(row.model) for row in rows]}
    for name, heading, write in (
        ("accuracy", "Accuracy", percent),
        ("mean_class_recall", "Mean class recall", percent),
        ("macro_f1", "Macro F1", number),
        ("log_loss", "Log loss", number),
        ("calibration_error", "Calibration error", number),
        ("top5_accuracy", "Top-5", percent),
    ):
        if all(name in row.result.metrics for row in rows):
            found[heading] = [
                Cell(
                    write(row.result.metrics[name]),
                    row.result.metrics[name],
                    spread(row.intervals[name], write) if name in row.intervals else "",
                )
                for row in rows
            ]
    return found


def spread(interval: Interval, write: Callable[[float], str] = percent) -> str:
    """Write an interval: ``76.6% to 90.1%``."""
    return " to ".join(write(bound) for bound in interval)


def cost(comparison: Comparison) -> Table:
    """Return what each model cost to make, and what it costs to use."""
    rows = comparison.rows
    recorded = {phase for row in rows for phase in row.result.seconds}
    phases = [phase for phase in WORDS if phase in recorded.union(PHASES)]
    phases += sorted(recorded.difference(phases))
    found = {
        "Model": [Cell(row.model) for row in rows],
        "Total": [Cell(duration(row.seconds), row.seconds) for row in rows],
    }
    for phase in phases:
        seconds = [row.result.seconds.get(phase, 0.0) for row in rows]
        found[WORDS.get(phase, phase)] = [Cell(duration(s), s) if s else ABSENT for s in seconds]
    found[WORDS["fit"]] = [
        cell._replace(below=count(row.result.epochs, "epoch")) if row.result.epochs else cell
        for row, cell in zip(rows, found[WORDS["fit"]], strict=True)
    ]
    return found | {
        "Photos/s": [Cell(f"{row.speed:,.1f}", row.speed) if row.speed else ABSENT for row in rows],
        "Size": [Cell(size(row.size), row.size) if row.size else ABSENT for row in rows],
        "Parameters": [Cell(f"{row.result.parameters:,}", row.result.parameters) for row in rows],
    }


def pairs(comparison: Comparison) -> Table:
    """Return McNemar's test of every two models."""
    found = comparison.pairs
    return {
        "One model": [Cell(pair.one) for pair in found],
        "The other": [Cell(pair.other) for pair in found],
        "Only one right": [Cell(f"{pair.one_only:,}", pair.one_only) for pair in found],
        "Only the other": [Cell(f"{pair.other_only:,}", pair.other_only) for pair in found],
        "p": [Cell(chance(pair.p), pair.p) for pair in found],
        "p, Holm": [Cell(chance(pair.corrected), pair.corrected) for pair in found],
    }


def curve(curve: Mapping[int, Mapping[str, Figures]]) -> Table:
    """Return the accuracy of heads by training photos a class."""
    names = list(dict.fromkeys(name for by_head in curve.values() for name in by_head))
    sizes = sorted(curve)
    return {"Photos a class": [Cell(f"{n:,}", n) for n in sizes]} | {
        name: [
            _mean(curve[n][name]["accuracy"], "half_width") if name in curve[n] else ABSENT
            for n in sizes
        ]
        for name in names
    }


def protocol(summary: Mapping[str, Figures]) -> Table:
    """Return the means of heads over random splits, with standard deviations."""
    found = {"Head": [Cell(name) for name in summary]}
    for metric, heading in (("mean_class_recall", "Mean class recall"), ("accuracy", "Accuracy")):
        found[heading] = [_mean(figures[metric], "sd") for figures in summary.values()]
    for metric, heading in (("log_loss", "Log loss"), ("calibration_error", "Calibration error")):
        means = [figures[metric]["mean"] for figures in summary.values()]
        found[heading] = [Cell(number(mean), mean) for mean in means]
    return found


def _mean(figures: Mapping[str, float], what: str) -> Cell:
    mean = figures["mean"]
    return Cell(f"{mean:.1%} ± {100 * figures[what]:.1f}", mean)


def splits(comparison: Comparison) -> Table:
    """Return the number of photos of each class in each split."""
    features = comparison.features
    counts = [[0] * len(SPLITS) for _ in features.class_names]
    for label, split in zip(features.labels, features.splits, strict=True):
        counts[label][SPLITS.index(split)] += 1
    found = {"Class": [Cell(name) for name in features.class_names]}
    for place, split in enumerate(SPLITS):
        found[split] = [Cell(f"{own[place]:,}", own[place]) for own in counts]
    return found | {"all": [Cell(f"{sum(own):,}", sum(own)) for own in counts]}


def skipped(comparison: Comparison, *, limit: int | None = None) -> Table:
    """Return the files that gave no features, and why."""
    found = comparison.features.skipped[:limit]
    return {
        "File": [Cell(path) for path, _ in found],
        "Reason": [Cell(reason) for _, reason in found],
    }


def near(comparison: Comparison, *, limit: int | None = None) -> Table:
    """Return the near-duplicates in different splits, the most alike first."""
    features = comparison.features
    found = features.near[:limit]

    def told(rows: Iterable[int]) -> list[Cell]:
        return [Cell(f"{features.paths[row]} ({features.splits[row]})") for row in rows]

    return {
        "Photo": told(one for one, _, _ in found),
        "Looks like": told(other for _, other, _ in found),
        "Cosine": [Cell(number(cosine), cosine) for _, _, cosine in found],
    }


def provenance(comparison: Comparison) -> Table:
    """Return what was compared; not the root, which is a path of one machine."""
    features = comparison.features
    found = {"data_digest": features.data_digest, "recipe_digest": features.recipe_digest}
    found |= {k: str(v) for k, v in features.attributes.items() if k not in ELSEWHERE}
    for name in found.keys() & RECIPES:
        found[name] = settings(json.loads(found[name]))
    if "versions" in found:
        found["versions"] = listed(json.loads(found["versions"]))
    return {
        "Features": [Cell(name.replace("_", " ")) for name in found],
        "Value": [Cell(value) for value in found.values()],
    }


def settings(found: Mapping[str, Any]) -> str:
    """Write settings on one line: ``network: VGG16, size: 224``."""
    return ", ".join(
        f"{name}: {json.dumps(value) if isinstance(value, dict | list) else value}"
        for name, value in found.items()
    )


def listed(versions: Mapping[str, str]) -> str:
    """Write versions on one line: ``numpy 2.1, python 3.11``."""
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def commands(comparison: Comparison) -> list[str]:
    """Return the commands that make this again, from what is recorded.

    Whether heads were made with ``--balanced`` is not.
    """
    features = comparison.features
    data = shlex.quote(features.data)
    seed = features.attributes.get("seed", 0)
    further = [str(n) for n in SIZES[1:] if named("seconds", n) in features.attributes]
    sizes = f" --sizes {SIZE} {' '.join(further)}" if further else ""
    found = [f"python -m extract {data} --seed {seed}{sizes}"]
    for row in sorted(comparison.rows, key=lambda row: (row.result.stage, row.model)):
        if row.result.stage == "head":
            found.append(f"python -m classify {data} --heads {_asked(row)}")
        else:
            found.append(f"python -m finetune train {data} --models {_asked(row)}")
    return [*found, f"python -m finetune compare {data}"]


def _asked(row: Row) -> str:
    words = [row.result.model, "--seed", str(row.result.seed)]
    asked = row.result.hyperparameters.get("asked", {})
    for option, value in asked.items() if isinstance(asked, dict) else ():
        if value is None or value is False:
            continue
        words.append(f"--{option.replace('_', '-')}")
        words += [] if value is True else _words(value)
    return shlex.join(words)


def _words(value: object) -> Sequence[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
