"""The comparison as Markdown, for a pull request or a paper."""

import re

from extract.system.console import one_line
from finetune.compare.comparison import Comparison
from finetune.compare.mistakes import shared_mistakes
from finetune.findings.next_steps import next_steps
from finetune.report import tables
from finetune.report.commands import quoted
from finetune.report.tables import MAX_LISTED

NEAR = "Near-duplicates in different splits"


def markdown(comparison: Comparison) -> str:
    """Return the text of ``compare.md``."""
    parts = [
        f"## {escape(comparison.features.data)}",
        escape(comparison.verdict),
        format_table(tables.metrics(comparison)),
        "Brackets hold 95% intervals: Wilson's for the accuracy, and for the other metrics a "
        "bootstrap of the test photos within each class.",
        *map(escape, tables.novelty(comparison)),
        format_table(tables.costs(comparison)),
    ]
    if comparison.paired_tests:
        parts.append(format_table(tables.paired_tests(comparison)))
    repeated = comparison.repeated_splits
    if repeated.learning_curve:
        curve = format_table(tables.learning_curve(repeated.learning_curve))
        covers = tables.curve_covers(repeated.learning_curve)
        parts += ["### Accuracy by number of training photos", curve, escape(covers)]
    for title, by_head in repeated.protocols.items():
        covers = tables.protocol_covers(by_head)
        parts += [f"### {escape(title)}", format_table(tables.protocol(by_head)), escape(covers)]
    if groups := tables.groups(comparison):
        parts += ["### Groups", escape(groups)]
    for title, lines in _lists(comparison).items():
        if lines:
            parts.append(f"### {title} ({len(lines):,})")
            if title == NEAR:
                parts.append(escape(f"{tables.near_summary(comparison)}."))
            parts.append("\n".join(f"- {escape(line)}" for line in lines[:MAX_LISTED]))
        if len(lines) > MAX_LISTED:
            parts.append(f"... and {len(lines) - MAX_LISTED:,} more, in `compare.json`.")
    if steps := next_steps(comparison, data=quoted(comparison.features.data)):
        parts.append("### What next")
        parts.append(
            "\n".join(
                f"- {100 * step.gain:.1f} points: {escape(step.reason)} {escape(step.command)}"
                for step in steps
            )
        )
    return "\n\n".join(parts) + "\n"


def _lists(comparison: Comparison) -> dict[str, list[str]]:
    features, names = comparison.features, comparison.features.class_names
    near = tables.rows(tables.near_duplicates(comparison))
    shared = shared_mistakes(comparison.models, features)
    suspects = comparison.label_check.suspects if comparison.label_check else []
    return {
        "Not compared": comparison.refused,
        "Skipped files": [f"{path}: {reason}" for path, reason in features.skipped],
        NEAR: [
            f"{first.text} and {second.text}: cosine similarity {cosine.text}"
            for first, second, cosine in near
        ],
        "Test photos for which all models predict the same wrong class": [
            f"{features.paths[photo.row]}: labelled {names[photo.label]}, "
            f"predicted {names[photo.predicted]}"
            for photo in shared
        ],
        "Labels of train and val to check": [
            f"{features.paths[photo.row]}: labelled {names[photo.label]} "
            f"({photo.label_probability:.0%}), predicted {names[photo.predicted]} "
            f"({photo.probability:.0%})"
            for photo in suspects
        ],
    }


def escape(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, on one line."""
    escaped = re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", one_line(text))
    # At the beginning of a line, these would make a list, a rule or a block of code.
    escaped = re.sub(r"^(\d*)([-+.)])(?=[ -]|$)", r"\1\\\2", escaped)
    return re.sub(r"^ ", "&#32;", escaped)


def format_table(table: tables.Table) -> str:
    """Return a table in Markdown, the first column left-aligned."""
    rows = [list(table), *([str(cell) for cell in cells] for cells in tables.rows(table))]
    lines = ["| " + " | ".join(map(escape, cells)) + " |" for cells in rows]
    return "\n".join([lines[0], "| --- " + "| ---: " * (len(table) - 1) + "|", *lines[1:]])
