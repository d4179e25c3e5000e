import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from extract.system.console import one_line
from finetune.compare.comparison import Comparison
from finetune.report.json_record import json_record
from finetune.report.markdown import escape, markdown
from tests.conftest import HOSTILE
from tests.synthetic_results import comparison, fake_features, five


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
    features = fake_features(HOSTILE, skipped=[("<img src=x>|.jpg", "`|\n# no")])
    text = markdown(comparison(tmp_path, features, **{"a|b\n| c": [0], "_<i>_": [1, 2]}))
    assert "<i>" not in text.replace("\\<i\\>", "")
    assert "- \\<img src=x\\>\\|.jpg: \\`\\|\\\\n\\# no" in text
    table = rows_of(text)[:4]
    assert {len(cells) for cells in table} == {7}
    assert table[2][:2] == ["a\\|b\\\\n\\| c", "95.0% (76.4% to 99.1%)"]


@pytest.mark.parametrize("name", [*HOSTILE, "- a", "+", "1. a", "2)", "---", "     code", "#a"])
def test_markdown_shows_a_name_as_it_is(name: str) -> None:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(f"- {escape(name)}\n")
    assert [token.type for token in tokens].count("list_item_open") == 1
    (inline,) = [token for token in tokens if token.type == "inline"]
    assert {child.type for child in inline.children or ()} == {"text"}
    assert inline.children[0].content == one_line(name)  # type: ignore[index]


def test_markdown_holds_every_part(found: Comparison) -> None:
    text = markdown(found)
    assert escape(found.verdict) in text
    best, test = found.models[0], found.paired_tests[0]
    share, (low, high) = best.accuracy, best.accuracy_interval
    cells = rows_of(text)
    assert [best.name, f"{share:.1%} ({low:.1%} to {high:.1%})"] in [row[:2] for row in cells]
    counts = [str(test.only_first_correct), str(test.only_second_correct)]
    assert [test.first, test.second, *counts] in [row[:4] for row in cells]
    assert "### Not compared (1)" in text
    assert "- b.fcgi: not an image" in text
    assert "- 00003 ü.jpg: labelled class 1 (1%), predicted class 0 (99%)" in text
    assert ["1,000", "50.0% ± 12.5"] in cells


def test_long_lists_are_cut_in_markdown_and_whole_in_json(tmp_path: Path) -> None:
    features = fake_features(["a", "b"], skipped=[(f"{i}.txt", "empty file") for i in range(1234)])
    found = comparison(tmp_path, features, svm=[0])
    text = markdown(found)
    assert "### Skipped files (1,234)" in text
    assert text.count(": empty file") == 200
    assert "... and 1,034 more, in `compare.json`." in text
    assert len(json_record(found)["skipped"]) == 1234
