"""The comparison as one HTML page that needs no other file, no network and no script.

Where scripts run, a small one sorts and filters the tables, and tells of the photos of the map. The
page's content security policy forbids everything else.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from classify import results
from extract.store.features_file import Features
from extract.system.console import as_started, count, one_line
from finetune.compare import significance
from finetune.compare.comparison import Comparison
from finetune.compare.mistakes import (
    Mistake,
    class_recalls,
    most_confused,
    shared_mistakes,
    surest_mistakes,
)
from finetune.compare.number_formats import decimal, duration, percent
from finetune.compare.records import ModelRecord
from finetune.compare.suspects import Suspect
from finetune.findings.next_steps import next_steps
from finetune.photo_map.sheet import COLUMNS
from finetune.photo_map.view import photo_map
from finetune.report import charts, tables
from finetune.report.commands import commands, quoted
from finetune.report.cost_chart import cost_chart
from finetune.report.heatmaps import NO_HEATMAPS, Heatmaps, Shown
from finetune.report.svg import Chart
from finetune.report.tables import MAX_LISTED, Cell, Table
from finetune.report.thumbnails import Thumbnails

TEMPLATES = Path(__file__).parent / "templates"

MANY_CLASSES = 20
"""With more classes, lists of them are folded away and confusion matrices become lists."""
MANY_ROWS = 12
"""Longer tables have a filter."""
MAX_PICTURES = 24
"""Pictures, or pairs of pictures, in one gallery."""
HARDEST_CLASSES = 5

HISTORY_COLUMNS = ("phase", "loss", "val_loss", "accuracy", "val_accuracy", "seconds")

Picture = Callable[[int], str | None]


@dataclass(frozen=True)
class ClassRecall:
    """One class: its name, test photos, and recall by each model, None without photos."""

    name: str
    photos: int
    recalls: list[float | None]


@dataclass(frozen=True)
class Card:
    """One photo with what it is labelled and what it was predicted to be."""

    picture: str | None
    path: str
    label: str
    predicted: str
    probability: str
    heat: Shown | None = None


def page(comparison: Comparison, heatmaps: Heatmaps = NO_HEATMAPS) -> str:
    """Return the page of one data set, with heatmaps of some photos."""
    features = comparison.features
    k = len(features.class_names)
    test = features.labels[features.splits == "test"]
    return render(
        "report.html.j2",
        title=f"{features.data}: models compared",
        comparison=comparison,
        features=features,
        test_photos=count(len(test), "test photo"),
        classes=count(k, "class", "classes"),
        many_classes=k > MANY_CLASSES,
        guess=f"{np.bincount(test).max() / len(test):.0%}",
        class_recalls=(by_class := _class_recalls(comparison)),
        hardest=_hardest(by_class),
        **_tables(comparison),
        **_charts(comparison),
        **_galleries(comparison, heatmaps, picture := Thumbnails(features)),
        map=photo_map(comparison, picture.webp),
        next_steps=next_steps(comparison, data=quoted(features.data)),
    )


def render(template: str, **values: Any) -> str:
    """Fill in a template, escaping every value that is not markup.

    Besides `values`, every template has the style sheet, the script, and the functions and limits
    that templates share.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else one_line(value),
    )
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    environment.globals |= {
        "style": Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "count": count,
        "decimal": decimal,
        "duration": duration,
        "percent": percent,
        "tables": tables,
        "most_confused": most_confused,
        "significance": significance,
        "max_listed": MAX_LISTED,
        "many_rows": MANY_ROWS,
        "map_columns": COLUMNS,
    }
    return environment.get_template(template).render(**values)


def _tables(comparison: Comparison) -> dict[str, Any]:
    return {
        "metrics": tables.metrics(comparison),
        "novelty": tables.novelty(comparison),
        "costs": tables.costs(comparison),
        "paired_tests": tables.paired_tests(comparison),
        "bins": _bins(comparison.models),
        "splits": tables.splits(comparison),
        "skipped": tables.skipped(comparison, limit=MAX_LISTED),
        "near_duplicates": tables.near_duplicates(comparison, limit=MAX_LISTED),
        "provenance": tables.provenance(comparison),
        "origins": _origins(comparison),
        "commands": commands(comparison),
        "heads_command": as_started("make heads"),
    }


def _charts(comparison: Comparison) -> dict[str, Any]:
    models, curve = comparison.models, comparison.repeated_splits.learning_curve
    return {
        "cost_chart": _markup(cost_chart(comparison)),
        "score_chart": _markup(charts.score_chart(comparison)),
        "calibration_chart": _markup(charts.calibration_chart(models)),
        "curves": [_curves(model, place) for place, model in enumerate(models) if model.history],
        "photos_needed": {
            "chart": _markup(charts.photos_needed_chart(curve)),
            "table": tables.learning_curve(curve),
        }
        if curve
        else None,
    }


def _galleries(comparison: Comparison, heatmaps: Heatmaps, picture: Picture) -> dict[str, Any]:
    features, check = comparison.features, comparison.label_check
    shared = shared_mistakes(comparison.models, features)
    suspects = check.suspects[:MAX_PICTURES] if check else []

    def with_heat(cards: list[Card], photos: Sequence[Mistake], model: str) -> list[Card]:
        return [
            replace(card, heat=heatmaps.shown.get((model, photo.row)))
            for card, photo in zip(cards, photos, strict=True)
        ]

    seen = [
        Mistake(row, int(features.labels[row]), one.predicted, one.probability)
        for row in heatmaps.rows
        for one in [heatmaps.shown[heatmaps.of_classes, row]]
    ]
    return {
        "heatmaps_of": heatmaps.of_classes,
        "seen_cards": with_heat(_cards(features, seen, picture), seen, heatmaps.of_classes),
        "mistakes": [
            (
                model.name,
                int((~model.correct).sum()),
                with_heat(_cards(features, mistakes, picture), mistakes, model.name),
            )
            for model in comparison.models
            if (mistakes := surest_mistakes(model, features))
        ],
        "shared_mistakes": shared,
        "shared_cards": _cards(features, shared[:MAX_PICTURES], picture),
        "label_check": check,
        "suspect_cards": _cards(features, suspects, picture),
        "near_summary": tables.near_summary(comparison),
        "groups": tables.groups(comparison),
        "near_cards": [
            {
                "pictures": [(picture(row), features.paths[row]) for row in (first, second)],
                "cosine": decimal(cosine),
            }
            for first, second, cosine in features.near[:MAX_PICTURES]
        ],
    }


def _markup(chart: Chart) -> dict[str, Markup]:
    """Mark a chart as safe: its texts were escaped when it was drawn."""
    return {"wide": Markup(chart.wide), "narrow": Markup(chart.narrow)}


def _class_recalls(comparison: Comparison) -> list[ClassRecall]:
    """Return the recall of each class by each model, the hardest class first."""
    models, names = comparison.models, comparison.features.class_names
    recalls = class_recalls(models)
    photos = models[0].confusion.sum(axis=1).tolist()
    present = [label for label, n in enumerate(photos) if n]
    present.sort(key=lambda label: recalls[label].mean())
    absent = [label for label, n in enumerate(photos) if not n]
    return [
        ClassRecall(
            names[label],
            photos[label],
            [None if np.isnan(recall) else float(recall) for recall in recalls[label]],
        )
        for label in present + absent
    ]


def _hardest(by_class: Sequence[ClassRecall]) -> str:
    means = [
        (one.name, sum(filter(None, one.recalls)) / len(one.recalls))
        for one in by_class
        if one.photos
    ]
    return ", ".join(f"{name} ({percent(mean)})" for name, mean in means[:HARDEST_CLASSES])


def _cards(features: Features, photos: Sequence[Mistake | Suspect], picture: Picture) -> list[Card]:
    return [
        Card(
            picture=picture(one.row),
            path=features.paths[one.row],
            label=features.class_names[one.label],
            predicted=features.class_names[one.predicted],
            probability=f"{one.probability:.0%}",
        )
        for one in photos
    ]


def _bins(models: Sequence[ModelRecord]) -> Table:
    bins = [
        (model.name, int(photos), confidence, accuracy)
        for model in models
        for photos, confidence, accuracy in zip(
            *results.reliability(model.confidence, model.correct), strict=True
        )
        if photos
    ]
    return {
        "Model": [Cell(name) for name, *_ in bins],
        "Photos": [tables.whole(photos) for _, photos, _, _ in bins],
        "Mean probability": [Cell(percent(share), share) for _, _, share, _ in bins],
        "Accuracy": [Cell(percent(share), share) for *_, share in bins],
    }


def _curves(model: ModelRecord, position: int) -> dict[str, Any]:
    chart = charts.curve_chart(model, name=f"curves-{position}")
    columns = {name: model.history[name] for name in HISTORY_COLUMNS if model.history.get(name)}
    epochs = max((len(values) for values in columns.values()), default=0)
    table = {"epoch": [Cell(str(epoch + 1)) for epoch in range(epochs)]} | {
        name: [_history_cell(values, epoch) for epoch in range(epochs)]
        for name, values in columns.items()
    }
    return {"model": model.name, "chart": _markup(chart) if chart else None, "table": table}


def _history_cell(values: Sequence[Any], epoch: int) -> Cell:
    value = values[epoch] if epoch < len(values) else tables.NONE
    return Cell(decimal(value) if isinstance(value, float) else str(value))


def _origins(comparison: Comparison) -> Table:
    """Return when, where and with which versions each model was made."""
    models = comparison.models
    above = json.loads(comparison.features.attributes.get("versions", "{}"))
    versions = [model.result.versions for model in models]
    return {
        "Model": [Cell(model.name) for model in models],
        "Created": [Cell(model.result.created) for model in models],
        "Seed": [Cell(str(model.result.seed)) for model in models],
        "Machine": [Cell(model.result.machine or tables.NONE) for model in models],
        "Versions": [Cell("as above" if v == above else tables.versions(v)) for v in versions],
    }
