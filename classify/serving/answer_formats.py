"""The answers for photos as text, CSV or JSON, whatever names of files and classes they have."""

import csv
import io
import json
from typing import NamedTuple

from classify.results import Result
from classify.serving.model import Answer
from extract.system.console import csv_cell, one_line


class Predicted(NamedTuple):
    """What a model predicts for some photos.

    Attributes
    ----------
    result : Result
        The record of the model.
    answers : list of Answer
    skipped : list of (path, reason)
        What gave no answer.
    """

    result: Result
    answers: list[Answer]
    skipped: list[tuple[str, str]]


def as_text(predicted: Predicted, *, top: int) -> str:
    """Write a line per photo with its `top` most probable classes."""
    lines = []
    for path, ranked, sure, is_none in predicted.answers:
        doubt = "none of these: " if is_none else "" if sure else "unsure: "
        classes = ", ".join(f"{name} {probability:.1%}" for name, probability in ranked[:top])
        lines.append(one_line(f"{path}: {doubt}{classes}") + "\n")
    return "".join(lines)


def as_csv(predicted: Predicted, *, top: int) -> str:
    """Write a row per photo: path and doubts, then a column for each class and each probability.

    In names, backslashes, control characters and what would begin a formula are written as Python's
    backslash escapes; ``docs/cli.md`` says how to read them.
    """
    answers = predicted.answers
    pairs = min(top, len(answers[0].ranked)) if answers else 0
    header = [f"{name}_{rank}" for rank in range(1, pairs + 1) for name in ("class", "probability")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "sure", "none_of_these", *header])
    for path, ranked, sure, is_none in answers:
        cells = [cell for name, p in ranked[:top] for cell in (csv_cell(name), f"{p:.6f}")]
        # A single - stands for standard input.
        doubts = [str(sure).lower(), "" if is_none is None else str(is_none).lower()]
        writer.writerow([path if path == "-" else csv_cell(path), *doubts, *cells])
    return text.getvalue()


def as_json(predicted: Predicted, *, top: int) -> str:
    """Write one object with all answers and everything that was skipped, in ASCII.

    So it is valid JSON in any encoding, and no name can control the terminal.
    """
    record = {
        "model": predicted.result.model,
        "data": predicted.result.data,
        "photos": [
            {
                "path": path,
                "sure": sure,
                "none_of_these": is_none,
                "probabilities": {name: round(p, 6) for name, p in ranked[:top]},
            }
            for path, ranked, sure, is_none in predicted.answers
        ],
        "skipped": [{"path": path, "reason": reason} for path, reason in predicted.skipped],
    }
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


WRITE = {"text": as_text, "csv": as_csv, "json": as_json}
"""The formats by name."""
