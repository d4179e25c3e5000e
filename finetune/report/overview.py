"""Several data sets side by side: one page with a row a data set, and mean ranks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table as Drawn
from scipy.stats import rankdata

from finetune.compare.comparison import Comparison
from finetune.report import page, tables, writer
from finetune.report.tables import ABSENT, Cell, Table


def write(comparisons: Sequence[Comparison], reports: Path) -> list[Path]:
    """Write ``index.html``, ``compare.md`` and ``compare.json`` into a folder of `reports`.

    It is named after the data sets, joined by ``+``.

    Returns
    -------
    list of Path
        The files, the page first.
    """
    folder = reports / "+".join(one.features.data for one in comparisons)
    ranked = mean_ranks(comparisons)
    values = {
        "title": "Models compared on several data sets",
        "comparisons": comparisons,
        "accuracies": accuracies(comparisons),
        "ranks": _ranks(ranked),
        "ranked": ranked,
    }
    texts = {
        "index.html": page.render("overview.html.j2", **values),
        "compare.md": markdown(comparisons),
        "compare.json": json.dumps(record(comparisons), indent=1) + "\n",
    }
    return writer.write_texts(texts, folder)


def mean_ranks(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Return the mean rank of the models that every data set has, the best first.

    The most accurate has rank 1, equal ones share the mean of their ranks (Demšar, "Statistical
    comparisons of classifiers over multiple data sets", Journal of Machine Learning Research 7,
    2006).
    """
    scores = [{row.model: row.accuracy for row in one.rows} for one in comparisons]
    shared = sorted(set.intersection(*(set(of) for of in scores)))
    if not shared:
        return {}
    ranks = [rankdata([-of[model] for model in shared]) for of in scores]
    means = dict(zip(shared, np.mean(ranks, axis=0).tolist(), strict=True))
    return dict(sorted(means.items(), key=lambda item: item[1]))


def accuracies(comparisons: Sequence[Comparison]) -> Table:
    """Return a row a data set, with the accuracy of each model and its 95% interval."""
    models = list(mean_ranks(comparisons))
    others = {row.model for one in comparisons for row in one.rows}.difference(models)
    found = {
        "Data set": [Cell(one.features.data) for one in comparisons],
        "Test photos": [_number(len(one.rows[0].correct)) for one in comparisons],
        "Classes": [_number(len(one.features.class_names)) for one in comparisons],
    }
    for model in [*models, *sorted(others)]:
        rows = [{row.model: row for row in one.rows}.get(model) for one in comparisons]
        found[model] = [
            Cell(tables.percent(row.accuracy), row.accuracy, tables.spread(row.interval))
            if row
            else ABSENT
            for row in rows
        ]
    return found


def table(comparisons: Sequence[Comparison]) -> Drawn:
    """Return the accuracies and mean ranks for the terminal."""
    found = {
        heading: [cell.text for cell in cells] for heading, cells in accuracies(comparisons).items()
    }
    ranked = mean_ranks(comparisons)
    for heading, cells in found.items():
        cells.append(f"{ranked[heading]:.2f}" if heading in ranked else "")
    found["Data set"][-1] = "mean rank"
    return writer.drawn(found)


def markdown(comparisons: Sequence[Comparison]) -> str:
    """Return the accuracies and mean ranks as Markdown."""
    parts = [writer.grid(accuracies(comparisons))]
    if ranked := mean_ranks(comparisons):
        parts.append(writer.grid(_ranks(ranked)))
    parts += [
        f"- {writer.plain(one.features.data)}: {writer.plain(one.verdict)}" for one in comparisons
    ]
    return "\n\n".join(parts) + "\n"


def record(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return what ``compare.json`` of several data sets holds, see ``docs/compare-schema.md``."""
    return {
        "schema": writer.SCHEMA,
        "data_sets": [writer.record(one) for one in comparisons],
        "mean_ranks": mean_ranks(comparisons),
    }


def _number(n: int) -> Cell:
    return Cell(f"{n:,}", n)


def _ranks(ranked: dict[str, float]) -> Table:
    return {
        "Model": [Cell(model) for model in ranked],
        "Mean rank": [Cell(f"{rank:.2f}", rank) for rank in ranked.values()],
    }
