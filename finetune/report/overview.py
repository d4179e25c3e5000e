"""Several data sets side by side: one page with a row for each data set, and mean ranks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich.table
from scipy.stats import rankdata

from finetune.compare.comparison import Comparison
from finetune.compare.number_formats import interval, percent
from finetune.report import page
from finetune.report.files import write_texts
from finetune.report.json_record import SCHEMA, json_record
from finetune.report.markdown import escape, format_table
from finetune.report.tables import EMPTY, Cell, Table, whole
from finetune.report.terminal import terminal_table


def write_overview(comparisons: Sequence[Comparison], reports: Path) -> list[Path]:
    """Write ``index.html``, ``compare.md`` and ``compare.json`` into a folder of `reports`.

    The folder is named after the data sets, joined by ``+``.

    Returns
    -------
    list of Path
        The files, the page first.
    """
    folder = reports / "+".join(comparison.features.data for comparison in comparisons)
    texts = {
        "index.html": page.render(
            "overview.html.j2",
            title="Models compared on several data sets",
            comparisons=comparisons,
            accuracies=accuracies(comparisons),
            ranks=ranks(comparisons),
        ),
        "compare.md": markdown(comparisons),
        "compare.json": json.dumps(record(comparisons), indent=1) + "\n",
    }
    return write_texts(texts, folder)


def mean_ranks(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Return the mean rank of each model that has a result for every data set, the best first.

    On each data set, the most accurate model has rank 1, and models with equal accuracy share the
    mean of their ranks (Demšar, "Statistical comparisons of classifiers over multiple data sets",
    Journal of Machine Learning Research 7, 2006).
    """
    scores = [
        {model.name: model.compared_accuracy for model in comparison.models}
        for comparison in comparisons
    ]
    shared = sorted(set.intersection(*(set(by_model) for by_model in scores)))
    if not shared:
        return {}
    by_data_set = [rankdata([-by_model[name] for name in shared]) for by_model in scores]
    means = dict(zip(shared, np.mean(by_data_set, axis=0).tolist(), strict=True))
    return dict(sorted(means.items(), key=lambda item: item[1]))


def accuracies(comparisons: Sequence[Comparison]) -> Table:
    """Return a row for each data set, with the accuracy of each model and its 95% interval."""
    ranked = list(mean_ranks(comparisons))
    others = {model.name for comparison in comparisons for model in comparison.models}.difference(
        ranked
    )
    table = {
        "Data set": [Cell(comparison.features.data) for comparison in comparisons],
        "Test photos": [whole(len(comparison.models[0].correct)) for comparison in comparisons],
        "Classes": [whole(len(comparison.features.class_names)) for comparison in comparisons],
    }
    for name in [*ranked, *sorted(others)]:
        models = [
            {model.name: model for model in comparison.models}.get(name)
            for comparison in comparisons
        ]
        table[name] = [
            Cell(percent(model.accuracy), model.accuracy, interval(model.accuracy_interval))
            if model
            else EMPTY
            for model in models
        ]
    return table


def ranks(comparisons: Sequence[Comparison]) -> Table:
    """Return the mean ranks as a table, without rows if no model is ranked."""
    means = mean_ranks(comparisons)
    return {
        "Model": [Cell(name) for name in means],
        "Mean rank": [Cell(f"{rank:.2f}", rank) for rank in means.values()],
    }


def overview_table(comparisons: Sequence[Comparison]) -> rich.table.Table:
    """Return the accuracies for the terminal, with the mean ranks in the last row."""
    columns = {
        heading: [cell.text for cell in cells] for heading, cells in accuracies(comparisons).items()
    }
    means = mean_ranks(comparisons)
    for heading, cells in columns.items():
        cells.append(f"{means[heading]:.2f}" if heading in means else "")
    columns["Data set"][-1] = "mean rank"
    return terminal_table(columns)


def markdown(comparisons: Sequence[Comparison]) -> str:
    """Return the accuracies, mean ranks and verdicts as Markdown."""
    parts = [format_table(accuracies(comparisons))]
    if mean_ranks(comparisons):
        parts.append(format_table(ranks(comparisons)))
    parts += [
        f"- {escape(comparison.features.data)}: {escape(comparison.verdict)}"
        for comparison in comparisons
    ]
    return "\n\n".join(parts) + "\n"


def record(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return the content of ``compare.json``, see ``docs/compare-schema.md``."""
    return {
        "schema": SCHEMA,
        "data_sets": [json_record(comparison) for comparison in comparisons],
        "mean_ranks": mean_ranks(comparisons),
    }
