"""A comparison for readers: a page, Markdown, JSON, a picture, a table for the terminal."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from classify import results
from extract.system import atomic
from extract.system.console import one_line
from finetune.compare.comparison import (
    Comparison,
    Mistake,
    Row,
    agreed,
    duration,
    mistakes,
    recalls,
)
from finetune.report import charts, page, tables

SCHEMA = 2


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``index.html``, ``compare.md``, ``compare.json`` and ``compare.svg`` into `folder`.

    Returns
    -------
    list of Path
        The files, the page first. The same comparison of the same photos gives the same bytes.
    """
    texts = {
        "index.html": page.page(comparison),
        "compare.md": markdown(comparison),
        "compare.json": json.dumps(record(comparison), indent=1) + "\n",
        "compare.svg": charts.alone(charts.cost(comparison)) + "\n",
    }
    return write_texts(texts, folder)


def write_texts(texts: dict[str, str], folder: Path) -> list[Path]:
    """Write texts by their names into a folder and return the files."""
    for name, text in texts.items():
        atomic.write_text(folder / name, text)
    return [folder / name for name in texts]


def table(comparison: Comparison) -> Table:
    """Return the table of all models for the terminal: what fits into 80 columns."""
    rows = comparison.rows
    metrics = [row.result.metrics for row in rows]
    return drawn(
        {
            "Model": [row.model for row in rows],
            "Accuracy": [tables.percent(row.accuracy) for row in rows],
            "95% interval": [tables.spread(row.interval) for row in rows],
            "Mean class recall": [tables.percent(one["mean_class_recall"]) for one in metrics],
            "Log loss": [tables.number(one["log_loss"]) for one in metrics],
            "Total time": [duration(row.seconds) for row in rows],
        }
    )


def drawn(columns: dict[str, list[str]]) -> Table:
    """Return columns as a table for the terminal, the first left-aligned."""
    found = Table(box=None, pad_edge=False)
    for place, heading in enumerate(columns):
        found.add_column(one_line(heading), justify="right" if place else "left")
    for cells in zip(*columns.values(), strict=True):
        found.add_row(*(Text(one_line(cell), no_wrap=True) for cell in cells))
    return found


def markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown, for a pull request or a paper."""
    features = comparison.features
    parts = [
        f"## {plain(features.data)}",
        plain(comparison.verdict),
        grid(tables.quality(comparison)),
        "In brackets are 95% intervals: Wilson's of the accuracy, else by a bootstrap of the test "
        "photos of each class.",
        grid(tables.cost(comparison)),
    ]
    if comparison.pairs:
        parts.append(grid(tables.pairs(comparison)))
    if comparison.repeats.curve:
        parts += ["### Accuracy by training photos", grid(tables.curve(comparison.repeats.curve))]
    for title, summary in comparison.repeats.protocols.items():
        parts += [f"### {plain(title)}", grid(tables.protocol(summary))]
    names = features.class_names
    found = comparison.suspects.found if comparison.suspects else []
    for title, lines in (
        ("Not compared", comparison.refused),
        ("Skipped", [f"{path}: {reason}" for path, reason in features.skipped]),
        (
            "Near-duplicates in different splits",
            [f"{one} and {other}: cosine {cosine}" for one, other, cosine in _near(comparison)],
        ),
        (
            "Test photos that all models call otherwise",
            [
                f"{features.paths[photo]}: labelled {names[label]}, called {names[said]}"
                for photo, label, said, _ in agreed(comparison.rows, features)
            ],
        ),
        (
            "Labels of train and val to check",
            [
                f"{features.paths[one.photo]}: labelled {names[one.label]}, called "
                f"{names[one.said]} ({one.probability:.0%} against {one.own:.0%})"
                for one in found
            ],
        ),
    ):
        if lines:
            parts.append(f"### {title} ({len(lines):,})")
            parts.append("\n".join(f"- {plain(line)}" for line in lines[: page.LISTED]))
        if len(lines) > page.LISTED:
            parts.append(f"... and {len(lines) - page.LISTED:,} more, in `compare.json`.")
    return "\n\n".join(parts) + "\n"


def record(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as ``compare.json`` holds it; ``docs/compare-schema.md`` tells how."""
    features, rows = comparison.features, comparison.rows
    classes = recalls(rows)
    return {
        "schema": SCHEMA,
        "data": features.data,
        "data_digest": features.data_digest,
        "recipe_digest": features.recipe_digest,
        "provenance": {
            name.text: value.text for name, value in tables.lines(tables.provenance(comparison))
        },
        "commands": tables.commands(comparison),
        "class_names": features.class_names,
        "test_photos": len(rows[0].correct),
        "features_seconds": features.seconds,
        "verdict": comparison.verdict,
        "models": [
            _model(row, comparison) | {"class_recall": [_finite(value) for value in recall]}
            for row, recall in zip(rows, classes.T.tolist(), strict=True)
        ],
        "pairs": [
            {
                "one": pair.one,
                "other": pair.other,
                "one_only": pair.one_only,
                "other_only": pair.other_only,
                "p": pair.p,
                "p_holm": pair.corrected,
            }
            for pair in comparison.pairs
        ],
        "refused": comparison.refused,
        "agreed": _mistakes(agreed(rows, features), comparison),
        "suspects": _suspects(comparison),
        "learning_curve": comparison.repeats.curve,
        "protocols": comparison.repeats.protocols,
        "skipped": [{"path": path, "reason": reason} for path, reason in features.skipped],
        "near": [
            {"paths": [features.paths[one], features.paths[other]], "cosine": cosine}
            for one, other, cosine in features.near
        ],
    }


def _model(row: Row, comparison: Comparison) -> dict[str, Any]:
    kept = ("stage", "metrics", "seconds", "epochs", "parameters", "seed", "hyperparameters")
    bins = zip(*results.reliability(row.confidence, row.correct), strict=True)
    found = mistakes(row, comparison.features, limit=page.MISTAKES)
    return (
        {"model": row.model}
        | {name: getattr(row.result, name) for name in (*kept, "created", "versions", "machine")}
        | {
            "intervals": {name: list(bounds) for name, bounds in row.intervals.items()},
            "total_seconds": row.seconds,
            "photos_per_second": row.speed,
            "model_bytes": row.size,
            "confusion": row.confusion.tolist(),
            "reliability": [
                {"photos": int(n), "confidence": _finite(sure), "accuracy": _finite(right)}
                for n, sure, right in bins
            ],
            "mistakes": _mistakes(found, comparison),
        }
    )


def _mistakes(found: Sequence[Mistake], comparison: Comparison) -> list[dict[str, Any]]:
    features = comparison.features
    return [
        {
            "path": features.paths[one.photo],
            "label": features.class_names[one.label],
            "said": features.class_names[one.said],
            "probability": one.probability,
        }
        for one in found
    ]


def _suspects(comparison: Comparison) -> dict[str, Any] | None:
    if comparison.suspects is None:
        return None
    features = comparison.features
    return {
        "head": comparison.suspects.head,
        "photos": comparison.suspects.photos,
        "found": [
            {
                "path": features.paths[one.photo],
                "label": features.class_names[one.label],
                "said": features.class_names[one.said],
                "label_probability": one.own,
                "said_probability": one.probability,
            }
            for one in comparison.suspects.found
        ],
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def plain(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", one_line(text))


def grid(table: tables.Table) -> str:
    """Return a table in Markdown, the first column left-aligned."""
    rows = [list(table), *([str(cell) for cell in cells] for cells in tables.lines(table))]
    lines = ["| " + " | ".join(map(plain, cells)) + " |" for cells in rows]
    return "\n".join([lines[0], "| --- " + "| ---: " * (len(table) - 1) + "|", *lines[1:]])


def _near(comparison: Comparison) -> list[list[str]]:
    return [[cell.text for cell in cells] for cells in tables.lines(tables.near(comparison))]
