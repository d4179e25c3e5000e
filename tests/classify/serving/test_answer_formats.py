"""Answers as text, CSV and JSON, whatever names they contain."""

import csv
import io
import json
from types import SimpleNamespace
from typing import Any

from classify.serving.answer_formats import Predicted, as_csv, as_json, as_text
from classify.serving.model import Answer

RESULT: Any = SimpleNamespace(model="svm", data="pets")
ODD = Answer('a,"b"\n.png', [("x;y", 0.75), ("z", 0.25)], True)
EVEN = Answer("p", [("b", 0.5), ("a", 0.5)], False)


def test_text_has_a_line_per_photo() -> None:
    lines = as_text(Predicted(RESULT, [EVEN, ODD], []), top=1).splitlines()
    assert lines == ["p: unsure: b 50.0%", 'a,"b"\\n.png: x;y 75.0%']


def test_csv_holds_any_name() -> None:
    rows = list(csv.reader(io.StringIO(as_csv(Predicted(RESULT, [ODD], []), top=2))))
    assert rows[0] == ["path", "sure", "class_1", "probability_1", "class_2", "probability_2"]
    assert rows[1] == ['a,"b"\n.png', "true", "x;y", "0.750000", "z", "0.250000"]


def test_json_has_the_answers_and_what_was_skipped() -> None:
    record = json.loads(as_json(Predicted(RESULT, [ODD], [("n.txt", "no image")]), top=1))
    assert record == {
        "model": "svm",
        "data": "pets",
        "photos": [{"path": 'a,"b"\n.png', "sure": True, "probabilities": {"x;y": 0.75}}],
        "skipped": [{"path": "n.txt", "reason": "no image"}],
    }
