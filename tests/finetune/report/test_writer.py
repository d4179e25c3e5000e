import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from classify import results
from finetune.compare.comparison import Comparison
from finetune.report import writer
from tests.compared import HOSTILE, MODELS, comparison, five
from tests.conftest import CHECKOUT
from tests.test_compare import features


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return five(tmp_path_factory.mktemp("house"), [f"class {i}" for i in range(6)], test=60)


def rows_of(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_markdown_table_survives_hostile_names(tmp_path: Path) -> None:
    of = features(HOSTILE, skipped=[("<img src=x>|.jpg", "`|\n# no")])
    text = writer.markdown(comparison(tmp_path, of, **{"a|b\n| c": [0], "_<i>_": [1, 2]}))
    assert "<i>" not in text.replace("\\<i\\>", "")
    assert "- \\<img src=x\\>\\|.jpg: \\`\\|\\\\n\\# no" in text
    table = rows_of(text)[:4]
    assert {len(cells) for cells in table} == {6}
    assert table[2][:2] == ["a\\|b\\\\n\\| c", "95.0% (76.4% to 99.1%)"]


def test_markdown_tells_all(found: Comparison) -> None:
    text = writer.markdown(found)
    assert writer.plain(found.verdict) in text
    best, pair = found.rows[0], found.pairs[0]
    share, (low, high) = best.accuracy, best.interval
    cells = rows_of(text)
    assert [best.model, f"{share:.1%} ({low:.1%} to {high:.1%})"] in [row[:2] for row in cells]
    told = [pair.one, pair.other, str(pair.one_only), str(pair.other_only)]
    assert told in [row[:4] for row in cells]
    assert "### Not compared (1)" in text
    assert "- b.fcgi: not an image" in text
    assert "- 00003 ü.jpg: labelled class 1, called class 0 (99% against 1%)" in text
    assert ["1,000", "50.0% ± 12.5"] in cells


def test_long_lists_are_cut_in_markdown_and_whole_in_json(tmp_path: Path) -> None:
    of = features(["a", "b"], skipped=[(f"{i}.txt", "empty file") for i in range(1234)])
    found = comparison(tmp_path, of, svm=[0])
    text = writer.markdown(found)
    assert "### Skipped (1,234)" in text
    assert text.count(": empty file") == 200
    assert "... and 1,034 more, in `compare.json`." in text
    assert len(writer.record(found)["skipped"]) == 1234


def keys(value: Any, *, at: str = "") -> set[str]:
    """Return where every key of a record is: ``models[].seconds``."""
    if isinstance(value, list):
        return set().union(*(keys(one, at=f"{at}[]") for one in value[:1]))
    if not isinstance(value, dict):
        return set()
    found = {f"{at}.{key}".lstrip(".") for key in value}
    return found.union(*(keys(of, at=f"{at}.{key}".lstrip(".")) for key, of in value.items()))


def test_json_has_the_keys_that_are_documented(found: Comparison) -> None:
    schema = (CHECKOUT / "docs/compare-schema.md").read_text()
    (rows,) = re.findall(r"(?s)## One data set\n(.*?)\n## ", schema)
    documented = dict(re.findall(r"(?m)^\| `([^`]+)` \| ([^|]+) \|", rows))
    open_ended = [key for key, kind in documented.items() if "by" in kind]
    written = {
        key
        for key in keys(writer.record(found))
        if not any(key.startswith(f"{place}.") for place in open_ended)
    }
    assert written == set(documented)
    assert f"schema {writer.SCHEMA}" in schema


def test_json_holds_the_figures(found: Comparison) -> None:
    told = json.loads(json.dumps(writer.record(found), allow_nan=False))
    assert told["test_photos"] == 60
    assert {model["model"] for model in told["models"]} == set(MODELS)
    for model, row in zip(told["models"], found.rows, strict=True):
        assert model["metrics"] == results.metrics(row.predictions)
        assert model["intervals"]["accuracy"] == list(row.interval)
        assert model["intervals"].keys() == row.intervals.keys()
        assert model["total_seconds"] == sum(model["seconds"].values())
        confusion = np.array(model["confusion"])
        assert confusion.sum() == 60
        assert model["class_recall"] == (confusion.diagonal() / confusion.sum(axis=1)).tolist()
        assert sum(one["photos"] for one in model["reliability"]) == 60
        right = sum(one["photos"] * (one["accuracy"] or 0) for one in model["reliability"])
        assert right == pytest.approx(confusion.trace())
        assert (model["model_bytes"], model["machine"]) == (1_234_567, "a <machine>")
    assert len(told["pairs"]) == 10
    assert told["skipped"][0] == {"path": "b.fcgi", "reason": "not an image"}
    assert told["near"] == [{"paths": ["00001 ü.jpg", "00003 ü.jpg"], "cosine": 0.98765}]
    assert told["suspects"]["found"][0]["path"] == "00003 ü.jpg"
    assert list(told["learning_curve"]) == ["1", "1000"]


def test_same_comparison_same_bytes(found: Comparison, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in writer.write(found, tmp_path / "one")]
    again = [path.read_bytes() for path in writer.write(found, tmp_path / "two")]
    assert first == again
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["compare.json", "compare.md", "compare.svg", "index.html"]


def test_terminal_table(found: Comparison) -> None:
    text = io.StringIO()
    Console(file=text, width=80).print(writer.table(found))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    row = found.rows[0]
    figures, (low, high) = row.result.metrics, row.interval
    (line,) = [line for line in lines if line.startswith(row.model)]
    assert re.split(" {2,}", line) == [
        row.model,
        f"{figures['accuracy']:.1%}",
        f"{low:.1%} to {high:.1%}",
        f"{figures['mean_class_recall']:.1%}",
        f"{figures['log_loss']:.3f}",
        "16 min 0 s" if row.result.stage == "head" else "15 min 0 s",
    ]


def test_terminal_table_shows_markup_as_text(tmp_path: Path) -> None:
    text = io.StringIO()
    found = comparison(tmp_path, features(["a", "b"]), **{"[red]svm\x1b[0m": [0]})
    Console(file=text, width=100).print(writer.table(found))
    assert "[red]svm\\x1b[0m" in text.getvalue()
