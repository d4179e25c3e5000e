"""Answers as text, CSV and JSON, whatever names they contain."""

import csv
import io
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from classify.serving.answer_formats import Predicted, as_csv, as_json, as_text
from classify.serving.model import Answer
from extract.system.console import one_line
from tests.conftest import HOSTILE

RESULT: Any = SimpleNamespace(model="svm", data="pets")
ODD = Answer('a,"b"\n.png', [("x;y", 0.75), ("z", 0.25)], True)
EVEN = Answer("p", [("b", 0.5), ("a", 0.5)], False)
STRANGER = Answer("s", [("b", 0.5), ("a", 0.5)], False, True)


def test_text_has_a_line_per_photo() -> None:
    lines = as_text(Predicted(RESULT, [EVEN, ODD], []), top=1).splitlines()
    assert lines == ["p: unsure: b 50.0%", 'a,"b"\\n.png: x;y 75.0%']


def test_a_photo_that_is_none_of_these_is_called_that_in_every_format() -> None:
    found = Predicted(RESULT, [STRANGER, EVEN._replace(none_of_these=False), ODD], [])
    assert as_text(found, top=1).splitlines()[0] == "s: none of these: b 50.0%"
    rows = list(csv.DictReader(io.StringIO(as_csv(found, top=1))))
    assert [row["none_of_these"] for row in rows] == ["true", "false", ""]
    photos = json.loads(as_json(found, top=1))["photos"]
    assert [photo["none_of_these"] for photo in photos] == [True, False, None]


def test_csv_has_a_row_per_photo() -> None:
    rows = list(csv.reader(io.StringIO(as_csv(Predicted(RESULT, [ODD], []), top=2))))
    assert rows[0] == [
        "path",
        "sure",
        "none_of_these",
        "class_1",
        "probability_1",
        "class_2",
        "probability_2",
    ]
    assert rows[1] == ['a,"b"\\n.png', "true", "", "x;y", "0.750000", "z", "0.250000"]


FORMULAS = ["-a.png", "+1", "@x", " =1", "\t=1", "\r=1", "＝1", "x; @y", "'=1", "\\x3d1"]  # noqa: RUF001


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_no_name_is_a_formula_in_csv_and_every_name_can_be_read_back(encoding: str) -> None:
    names = [*HOSTILE, *FORMULAS]
    found = Predicted(RESULT, [Answer(name, [(name, 1.0)], True) for name in names], [])
    text = as_csv(found, top=1).encode(encoding, "backslashreplace").decode(encoding)
    # Spreadsheets take the comma or the semicolon for the separator.
    for separator in (",", ";"):
        for cells in csv.reader(io.StringIO(text), delimiter=separator):
            assert not [cell for cell in cells if cell.lstrip().startswith(tuple("=+-@＝"))]  # noqa: RUF001
    assert all(line.isprintable() for line in text.split("\n"))
    paths, _, _, classes, _ = zip(*list(csv.reader(io.StringIO(text)))[1:], strict=True)
    assert read_back(paths) == names
    assert read_back(classes) == names


def read_back(cells: Sequence[str]) -> list[str]:
    """Do what docs/cli.md says."""
    return [cell.encode("latin-1", "backslashreplace").decode("unicode_escape") for cell in cells]


def test_standard_input_is_a_minus_sign_in_csv() -> None:
    text = as_csv(Predicted(RESULT, [Answer("-", [("a", 1.0)], True)], []), top=1)
    assert text.splitlines()[1] == "-,true,,a,1.000000"


def test_json_is_valid_in_any_encoding() -> None:
    answers = [Answer(name, [(name, 1.0)], True) for name in HOSTILE]
    text = as_json(Predicted(RESULT, answers, [(HOSTILE[-1], "no image")]), top=1)
    record = json.loads(text.encode("ascii"))
    assert all(line == one_line(line) for line in text.split("\n"))
    assert [photo["path"] for photo in record["photos"]] == HOSTILE
    assert [name for photo in record["photos"] for name in photo["probabilities"]] == HOSTILE
    assert record["skipped"][0]["path"] == HOSTILE[-1]


def test_json_has_the_answers_and_what_was_skipped() -> None:
    record = json.loads(as_json(Predicted(RESULT, [ODD], [("n.txt", "no image")]), top=1))
    answer = {"sure": True, "none_of_these": None, "probabilities": {"x;y": 0.75}}
    assert record == {
        "model": "svm",
        "data": "pets",
        "photos": [{"path": 'a,"b"\n.png', **answer}],
        "skipped": [{"path": "n.txt", "reason": "no image"}],
    }
