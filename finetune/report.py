"""A comparison for readers: one self-contained HTML page, Markdown, JSON, a terminal table."""

import json
import re
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from classify.results import PHASES
from extract import atomic
from extract.console import count, one_line
from extract.recipe import SIZES, named
from extract.store import SPLITS
from finetune import charts
from finetune.compare import Comparison, Row, duration, most_confused

SCHEMA = 1
MATRIX_CLASSES = 20
CURVES = ("phase", "loss", "val_loss", "accuracy", "val_accuracy", "seconds")
BRIEF = ("Model", "Accuracy", "95% interval", "Mean class recall", "Log loss", "Total time")
OF_A_SIZE = {named(name, size) for name in ("recipe", "seconds") for size in SIZES}
ELSEWHERE = {"data", "root", "schema", "skipped_digest"} | OF_A_SIZE


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``index.html``, ``compare.md``, ``compare.json`` and ``compare.svg`` into `folder`.

    Returns
    -------
    list of Path
        The files, the page first. The same comparison gives the same bytes.
    """
    texts = {
        "index.html": page(comparison),
        "compare.md": markdown(comparison),
        "compare.json": json.dumps(record(comparison), indent=1) + "\n",
        "compare.svg": charts.alone(charts.cost(comparison)) + "\n",
    }
    for name, text in texts.items():
        atomic.write_text(folder / name, text)
    return [folder / name for name in texts]


def columns(comparison: Comparison) -> dict[str, list[str]]:
    """Return the table of all models, as every output shows it: heading to cells."""
    rows = comparison.rows
    figures = [row.result.metrics for row in rows]
    found = {
        "Model": [row.model for row in rows],
        "Accuracy": [f"{row.accuracy:.1%}" for row in rows],
        "95% interval": [f"{row.interval[0]:.1%} to {row.interval[1]:.1%}" for row in rows],
        "Mean class recall": [f"{figure['mean_class_recall']:.1%}" for figure in figures],
        "Macro F1": [f"{figure['macro_f1']:.3f}" for figure in figures],
        "Log loss": [f"{figure['log_loss']:.3f}" for figure in figures],
    }
    if all("calibration_error" in figure for figure in figures):
        found["Calibration error"] = [f"{figure['calibration_error']:.3f}" for figure in figures]
    if all("top5_accuracy" in figure for figure in figures):
        found["Top-5"] = [f"{figure['top5_accuracy']:.1%}" for figure in figures]
    return found | {
        "Total time": [duration(row.seconds) for row in rows],
        "Epochs": ["—" if row.result.epochs is None else str(row.result.epochs) for row in rows],
        "Parameters": [f"{row.result.parameters:,}" for row in rows],
    }


def table(comparison: Comparison) -> Table:
    """Return the table of all models for the terminal: what fits into 80 columns."""
    found = {heading: columns(comparison)[heading] for heading in BRIEF}
    drawn = Table(box=None, pad_edge=False)
    for heading in found:
        drawn.add_column(heading, justify="left" if heading == "Model" else "right")
    for cells in _lines(found):
        drawn.add_row(*(Text(one_line(cell), no_wrap=True) for cell in cells))
    return drawn


def markdown(comparison: Comparison) -> str:
    """Return the comparison as Markdown, for a pull request."""
    features = comparison.features
    found = columns(comparison)
    parts = [
        f"## {_plain(features.data)}",
        _plain(comparison.verdict),
        _grid([list(found), *_lines(found)]),
    ]
    if comparison.pairs:
        best = comparison.rows[0].model
        heading = [f"{best} against", f"only {best} right", "only the other right", "p", "p, Holm"]
        parts.append(_grid([heading, *_pair_cells(comparison)]))
    for title, lines in (
        ("Not compared", comparison.refused),
        ("Skipped", [f"{path}: {reason}" for path, reason in features.skipped]),
        (
            "Near-duplicates in different splits",
            [f"{one} and {other}: cosine {cosine}" for one, other, cosine in _near(comparison)],
        ),
    ):
        if lines:
            parts.append(f"### {title} ({len(lines):,})")
            parts.append("\n".join(f"- {_plain(line)}" for line in lines))
    return "\n\n".join(parts) + "\n"


def record(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as ``compare.json`` holds it.

    Returns
    -------
    dict
        ``schema`` (1), ``data``, ``data_digest``, ``recipe_digest``, ``class_names`` (k),
        ``test_photos``, ``verdict``, ``refused`` (sentences), ``skipped`` (``path``, ``reason``),
        ``near`` (``paths``, two, and their ``cosine``); ``models``, best first, each with
        ``model``, ``stage``, ``metrics`` (see `classify.results.metrics`),
        ``accuracy_interval`` (two shares, 95% Wilson), ``seconds``
        (by phase), ``total_seconds``, ``epochs`` (or null), ``parameters``, ``seed``,
        ``hyperparameters``, ``created``, ``versions``, ``confusion`` (k rows of true classes by
        k predicted); ``pairs``, the first model against each other one, each with ``best``,
        ``other``, ``best_only``, ``other_only`` (photos), ``p`` (McNemar, exact) and ``p_holm``.
    """
    features, rows = comparison.features, comparison.rows
    kept = ("stage", "metrics", "seconds", "epochs", "parameters", "seed", "hyperparameters")
    return {
        "schema": SCHEMA,
        "data": features.data,
        "data_digest": features.data_digest,
        "recipe_digest": features.recipe_digest,
        "class_names": features.class_names,
        "test_photos": len(rows[0].correct),
        "verdict": comparison.verdict,
        "models": [
            {"model": row.model}
            | {name: getattr(row.result, name) for name in (*kept, "created", "versions")}
            | {
                "accuracy_interval": list(row.interval),
                "total_seconds": row.seconds,
                "confusion": row.confusion.tolist(),
            }
            for row in rows
        ],
        "pairs": [
            {
                "best": rows[0].model,
                "other": pair.other,
                "best_only": pair.best_only,
                "other_only": pair.other_only,
                "p": pair.p,
                "p_holm": pair.corrected,
            }
            for pair in comparison.pairs
        ],
        "refused": comparison.refused,
        "skipped": [{"path": path, "reason": reason} for path, reason in features.skipped],
        "near": [
            {"paths": [features.paths[one], features.paths[other]], "cosine": cosine}
            for one, other, cosine in features.near
        ],
    }


def page(comparison: Comparison) -> str:
    """Return the comparison as one HTML page that needs no other file, network or script."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else one_line(value),
    )
    features, rows = comparison.features, comparison.rows
    test = features.labels[features.splits == "test"]
    k = len(features.class_names)
    found = columns(comparison)
    return environment.get_template("report.html.j2").render(
        comparison=comparison,
        features=features,
        test_photos=count(len(test), "test photo"),
        classes=count(k, "class", "classes"),
        guess=f"{np.bincount(test).max() / len(test):.0%}",
        columns=found,
        models=_lines(found),
        pairs=_pair_cells(comparison),
        cost=_drawn(charts.cost(comparison)),
        scores=_drawn(charts.scores(comparison)),
        matrices=k <= MATRIX_CLASSES,
        curves=[_curves(row, place) for place, row in enumerate(rows) if row.history],
        most_confused=most_confused,
        phases=list(dict.fromkeys([*PHASES, *(name for r in rows for name in r.result.seconds)])),
        duration=duration,
        splits=SPLITS,
        counts=_split_counts(comparison),
        near=_near(comparison),
        provenance=_provenance(comparison),
    )


def _lines(found: dict[str, list[str]]) -> list[list[str]]:
    return [list(cells) for cells in zip(*found.values(), strict=True)]


def _plain(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", one_line(text))


def _grid(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(map(_plain, cells)) + " |" for cells in rows]
    return "\n".join([lines[0], "| --- " + "| ---: " * (len(rows[0]) - 1) + "|", *lines[1:]])


def _pair_cells(comparison: Comparison) -> list[list[str]]:
    return [
        [p.other, f"{p.best_only:,}", f"{p.other_only:,}", f"{p.p:.3g}", f"{p.corrected:.3g}"]
        for p in comparison.pairs
    ]


def _near(comparison: Comparison) -> list[list[str]]:
    features = comparison.features
    return [
        [*(f"{features.paths[row]} ({features.splits[row]})" for row in pair), f"{cosine:.3f}"]
        for *pair, cosine in features.near
    ]


def _drawn(chart: charts.Chart) -> dict[str, Markup]:
    # The only markup that is not the template's own; its texts were escaped when it was drawn.
    return {"wide": Markup(chart.wide), "narrow": Markup(chart.narrow)}


def _curves(row: Row, place: int) -> dict[str, Any]:
    chart = charts.curves(row, name=f"curves-{place}")
    names = [name for name in CURVES if row.history.get(name)]
    epochs = max((len(row.history[name]) for name in names), default=0)
    return {
        "model": row.model,
        "chart": _drawn(chart) if chart else None,
        "names": names,
        "epochs": [[_entry(row.history[name], i) for name in names] for i in range(epochs)],
    }


def _entry(values: list[Any], place: int) -> str:
    value = values[place] if place < len(values) else "—"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _split_counts(comparison: Comparison) -> list[list[int]]:
    features = comparison.features
    counts = [[0] * len(SPLITS) for _ in features.class_names]
    for label, split in zip(features.labels, features.splits, strict=True):
        counts[label][SPLITS.index(split)] += 1
    return [[*row, sum(row)] for row in counts]


def _provenance(comparison: Comparison) -> list[tuple[str, str]]:
    """Return what the page says of its origin; not the root, which is a path of one machine."""
    features = comparison.features
    found = {"data_digest": features.data_digest, "recipe_digest": features.recipe_digest}
    found |= {k: v for k, v in features.attributes.items() if k not in ELSEWHERE}
    if "versions" in found:
        versions = json.loads(found["versions"])
        found["versions"] = ", ".join(f"{name} {number}" for name, number in versions.items())
    return [(name.replace("_", " "), str(value)) for name, value in found.items()]
