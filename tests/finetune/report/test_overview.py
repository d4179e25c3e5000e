import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from finetune.compare.comparison import Comparison
from finetune.report import overview
from finetune.report.json_record import SCHEMA, json_record
from tests.conftest import not_on_windows
from tests.finetune.report.parsed_page import Page
from tests.synthetic_results import comparison, fake_features

pytestmark = not_on_windows


@pytest.fixture
def several(tmp_path: Path) -> list[Comparison]:
    """Three data sets: y is the best on two, x and y tie on one, and z is missing on one."""
    wrong = [
        {"x": [0, 1], "y": [0], "z": []},
        {"x": [0, 1, 2], "y": [0]},
        {"x": [0], "y": [0], "z": [0, 1]},
    ]
    names = ["chess", "<b>cats", "a b"]
    return [
        comparison(tmp_path / str(i), fake_features(["a", "b"], data=name), **models)
        for i, (name, models) in enumerate(zip(names, wrong, strict=True))
    ]


def test_ranks_are_means_among_the_models_that_all_have(several: list[Comparison]) -> None:
    assert overview.mean_ranks(several) == {"y": (1 + 1 + 1.5) / 3, "x": (2 + 2 + 1.5) / 3}
    assert list(overview.mean_ranks(several)) == ["y", "x"]


def test_names_of_data_sets_and_models_are_no_markup_in_the_terminal(tmp_path: Path) -> None:
    models = {"[red]svm": [0], ":smile: [bold]x": [0]}
    found = [
        comparison(tmp_path / str(i), fake_features(["a", "b"], data=f"[{i}]\x1b"), **models)
        for i in range(2)
    ]
    text = io.StringIO()
    Console(file=text, width=100).print(overview.overview_table(found))
    heading, *rows = text.getvalue().splitlines()
    assert all(name in heading for name in models)
    assert [row.split()[0] for row in rows] == ["[0]\\x1b", "[1]\\x1b", "mean"]


def test_no_model_in_common_has_no_ranks(several: list[Comparison], tmp_path: Path) -> None:
    other = comparison(tmp_path / "o", fake_features(["a", "b"], data="other"), w=[0])
    assert overview.mean_ranks([several[0], other]) == {}
    page, *_ = overview.write_overview([several[0], other], tmp_path)
    assert "Mean rank" not in Page(page.read_text()).words


def test_one_page_with_a_row_a_data_set(several: list[Comparison], tmp_path: Path) -> None:
    written = overview.write_overview(several, tmp_path / "reports")
    assert [path.name for path in written] == ["index.html", "compare.md", "compare.json"]
    assert {path.parent.name for path in written} == {"chess+<b>cats+a b"}
    text = written[0].read_text(encoding="utf-8")
    page = Page(text)
    heading, *rows = page.tables["accuracies"]
    assert heading == ["Data set", "Test photos", "Classes", "y", "x", "z"]
    assert [row[0] for row in rows] == ["chess", "<b>cats", "a b"]
    for row, one in zip(rows, several, strict=True):
        shares = {model.name: f"{model.accuracy:.1%}" for model in one.models}
        assert [cell.split(" ")[0] for cell in row[3:]] == [
            shares.get(model, "—") for model in ("y", "x", "z")
        ]
        assert one.verdict in page.words
    assert page.tables["ranks"] == [["Model", "Mean rank"], ["y", "1.17"], ["x", "1.83"]]
    links = [value for _, name, value in page.attributes if name == "href"]
    assert links == ["../chess/index.html", "../%3Cb%3Ecats/index.html", "../a%20b/index.html"]
    assert "b" not in page.tags
    assert "default-src 'none'" in text


def test_markdown_and_json_tell_the_same(several: list[Comparison], tmp_path: Path) -> None:
    _, markdown, record = overview.write_overview(several, tmp_path)
    assert "| y | 1.17 |" in markdown.read_text(encoding="utf-8")
    assert "- \\<b\\>cats: " in markdown.read_text(encoding="utf-8")
    told = json.loads(record.read_text())
    assert told["mean_ranks"] == overview.mean_ranks(several)
    assert told["data_sets"][1] == json.loads(json.dumps(json_record(several[1])))
    assert told["schema"] == SCHEMA


def test_terminal_table(several: list[Comparison]) -> None:
    text = io.StringIO()
    Console(file=text, width=80).print(overview.overview_table(several))
    lines = [line.split() for line in text.getvalue().splitlines()]
    assert lines[1] == ["chess", "20", "2", "95.0%", "90.0%", "100.0%"]
    assert lines[-1] == ["mean", "rank", "1.17", "1.83"]
