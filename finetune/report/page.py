"""The comparison as one HTML page that needs no other file, no network and no script.

A small script sorts and filters the tables where scripts run; the page forbids the browser
everything else.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from classify import results
from extract.system.console import count, one_line
from finetune.compare.comparison import (
    Comparison,
    Mistake,
    Row,
    agreed,
    duration,
    mistakes,
    most_confused,
    recalls,
)
from finetune.compare.suspects import Suspect
from finetune.report import charts, tables
from finetune.report.tables import Cell, Table
from finetune.report.thumbnails import thumbnails

FOLDER = Path(__file__).parent
MATRIX_CLASSES = 20
CURVES = ("phase", "loss", "val_loss", "accuracy", "val_accuracy", "seconds")

MISTAKES = 8
"""Pictures of each model's."""
SHOWN = 24
"""Pictures, or pairs of them, in every other place."""
LISTED = 200
"""Rows of a list that may be as long as there are photos."""

Recalls = list[tuple[str, int, list[float | None]]]


def page(comparison: Comparison) -> str:
    """Return the page of one data set."""
    features, rows = comparison.features, comparison.rows
    test = features.labels[features.splits == "test"]
    k = len(features.class_names)
    picture = thumbnails(features)
    suspects = comparison.suspects
    return render(
        "report.html.j2",
        comparison=comparison,
        features=features,
        title=f"{features.data}: models compared",
        test_photos=count(len(test), "test photo"),
        classes=count(k, "class", "classes"),
        guess=f"{np.bincount(test).max() / len(test):.0%}",
        quality=tables.quality(comparison),
        spent=tables.cost(comparison),
        pairs=tables.pairs(comparison),
        cost=drawn(charts.cost(comparison)),
        scores=drawn(charts.scores(comparison)),
        matrices=k <= MATRIX_CLASSES,
        recalls=(by_class := _recalls(comparison)),
        hardest=_hardest(by_class),
        mistakes=[
            (row.model, int((~row.correct).sum()), _cards(comparison, found, picture))
            for row in rows
            if (found := mistakes(row, features, limit=MISTAKES))
        ],
        agreed=(every := agreed(rows, features)),
        agreed_cards=_cards(comparison, every[:SHOWN], picture),
        suspects=suspects,
        suspect_cards=_cards(comparison, suspects.found[:SHOWN] if suspects else [], picture),
        reliability=drawn(charts.reliability(rows)),
        bins=_bins(rows),
        curves=[_curves(row, place) for place, row in enumerate(rows) if row.history],
        needed=_needed(comparison),
        most_confused=most_confused,
        count=count,
        duration=duration,
        splits=tables.splits(comparison),
        skipped=tables.skipped(comparison, limit=LISTED),
        near=tables.near(comparison, limit=LISTED),
        provenance=tables.provenance(comparison),
        commands=tables.commands(comparison),
        near_cards=[
            (picture(one), picture(other), features.paths[one], features.paths[other], cosine)
            for one, other, cosine in features.near[:SHOWN]
        ],
        made=_made(comparison),
        limit=LISTED,
    )


def render(template: str, **values: Any) -> str:
    """Fill in a template with texts that may hold anything, and what every page needs."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else one_line(value),
    )
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        style=Markup(style), script=Markup(script), script_digest=digest, tables=tables, **values
    )


def drawn(chart: charts.Chart) -> dict[str, Markup]:
    """Mark a chart as markup: its texts were escaped when it was drawn."""
    return {"wide": Markup(chart.wide), "narrow": Markup(chart.narrow)}


def _recalls(comparison: Comparison) -> Recalls:
    """Return class, test photos and recall by each model, the hardest class first."""
    rows, names = comparison.rows, comparison.features.class_names
    found = recalls(rows)
    photos = rows[0].confusion.sum(axis=1).tolist()
    present = [label for label, n in enumerate(photos) if n]
    present.sort(key=lambda label: found[label].mean())
    absent = [label for label, n in enumerate(photos) if not n]
    return [
        (names[label], photos[label], [None if np.isnan(v) else float(v) for v in found[label]])
        for label in present + absent
    ]


def _hardest(by_class: Recalls) -> str:
    means = [
        (name, sum(filter(None, found)) / len(found)) for name, photos, found in by_class if photos
    ]
    return ", ".join(f"{name} ({tables.percent(mean)})" for name, mean in means[:5])


def _cards(
    comparison: Comparison,
    found: Sequence[Mistake | Suspect],
    picture: Callable[[int], str | None],
) -> list[dict[str, Any]]:
    features = comparison.features
    return [
        {
            "picture": picture(one.photo),
            "path": features.paths[one.photo],
            "label": features.class_names[one.label],
            "said": features.class_names[one.said],
            "sure": f"{one.probability:.0%}",
        }
        for one in found
    ]


def _bins(rows: Sequence[Row]) -> Table:
    told = [
        (row.model, int(n), sure, right)
        for row in rows
        for n, sure, right in zip(*results.reliability(row.confidence, row.correct), strict=True)
        if n
    ]
    return {
        "Model": [Cell(model) for model, *_ in told],
        "Photos": [Cell(f"{n:,}", n) for _, n, _, _ in told],
        "Mean probability": [Cell(tables.percent(sure), sure) for _, _, sure, _ in told],
        "Named rightly": [Cell(tables.percent(right), right) for *_, right in told],
    }


def _curves(row: Row, place: int) -> dict[str, Any]:
    chart = charts.curves(row, name=f"curves-{place}")
    names = [name for name in CURVES if row.history.get(name)]
    epochs = max((len(row.history[name]) for name in names), default=0)
    numbers = {"Epoch": [Cell(str(epoch + 1)) for epoch in range(epochs)]} | {
        name: [_entry(row.history[name], i) for i in range(epochs)] for name in names
    }
    return {"model": row.model, "chart": drawn(chart) if chart else None, "table": numbers}


def _entry(values: list[Any], place: int) -> Cell:
    value = values[place] if place < len(values) else tables.NONE
    return Cell(tables.number(value) if isinstance(value, float) else str(value))


def _needed(comparison: Comparison) -> dict[str, Any] | None:
    curve = comparison.repeats.curve
    if not curve:
        return None
    return {"chart": drawn(charts.photos_needed(curve)), "table": tables.curve(curve)}


def _made(comparison: Comparison) -> Table:
    rows = comparison.rows
    above = json.loads(comparison.features.attributes.get("versions", "{}"))
    versions = [row.result.versions for row in rows]
    return {
        "Model": [Cell(row.model) for row in rows],
        "Made": [Cell(row.result.created) for row in rows],
        "Seed": [Cell(str(row.result.seed)) for row in rows],
        "On": [Cell(row.result.machine or tables.NONE) for row in rows],
        "With": [Cell("as above" if of == above else tables.listed(of)) for of in versions],
    }
