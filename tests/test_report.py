import io
import json
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from classify import results
from finetune import charts, report
from finetune.compare import Comparison, compare
from tests.test_compare import features, save

HOSTILE = [
    "<script>alert(1)</script>",
    'a "quoted" | piped',
    "line\nbreak",
    "Köpfe $x$",
    "</svg>&amp;",
]
HISTORY = {
    "loss": [1.0, 0.5, 0.25],
    "val_loss": [1.5, 1.25, float("nan")],
    "accuracy": [0.5, 0.75, 1.0],
    "val_accuracy": [0.5, 0.625, 0.75],
    "phase": ["top", "top", "<b>block5"],
    "seconds": [1.0, 2.0, 3.0],
}


class Page(HTMLParser):
    """The tables of a page by id, its elements and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.words = ""
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "table":
            self.rows = self.tables[dict(attrs)["id"] or ""] = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.rows = []

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def comparison(runs: Path, of: Any, **models: Any) -> Comparison:
    return compare(of, [save(runs, of, model, wrong) for model, wrong in models.items()])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def chess(runs: Path) -> Comparison:
    of = features(
        [f"piece {i}" for i in range(6)],
        test=30,
        skipped=[("b.fcgi", "not an image"), ("a.jpg", "truncated")],
        near=[(1, 3, 0.98765)],
        attributes={
            "weights": "VGG16 <ImageNet>",
            "seed": np.int64(3),
            "root": "/home/me/photos",
            "versions": '{"python": "3.11"}',
        },
    )
    folders = [save(runs, of, "svm", [0, 7]), save(runs, of, "mlp", [1], epochs=12)]
    folders += [
        save(runs, of, name, range(12), stage="network", seconds={"fit": 900.0}, epochs=3)
        for name in ("baseline", "finetuned")
    ]
    for folder in folders[2:]:
        (folder / "history.json").write_text(json.dumps(HISTORY))
    folders.append(save(runs, of, "old", [], data_digest="0" * 64))
    return compare(of, folders)


@pytest.fixture(scope="module")
def text(chess: Comparison) -> str:
    return report.page(chess)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_table_shows_the_figures_of_the_predictions(runs: Path, page: Page) -> None:
    heading, *rows = page.tables["models"]
    assert [row[0] for row in rows] == ["mlp", "svm", "baseline", "finetuned"]
    for cells in rows:
        shown = dict(zip(heading, cells, strict=True))
        said = results.load_predictions(runs / shown["Model"])
        figures = results.metrics(said)
        right = np.mean(said.probabilities.argmax(axis=1) == said.labels)
        assert shown["Accuracy"] == f"{right:.1%}"
        assert shown["Mean class recall"] == f"{figures['mean_class_recall']:.1%}"
        assert shown["Macro F1"] == f"{figures['macro_f1']:.3f}"
        assert shown["Log loss"] == f"{figures['log_loss']:.3f}"
        assert shown["Top-5"] == f"{figures['top5_accuracy']:.1%}"
    assert [row[heading.index("Total time")] for row in rows] == ["1 min 4 s"] * 2 + [
        "15 min 0 s"
    ] * 2
    assert [row[heading.index("Epochs")] for row in rows] == ["12", "—", "3", "3"]


def test_page_holds_every_part(chess: Comparison, page: Page) -> None:
    assert chess.verdict in page.words
    assert "30 test photos, 6 classes" in page.words
    assert "right for 17% of them" in page.words
    matrix = page.tables["matrix-0"]
    assert matrix[0][1:] == chess.features.class_names
    assert [[int(n) for n in row[1:]] for row in matrix[1:]] == chess.rows[0].confusion.tolist()
    assert page.tables["pairs"][1][:3] == ["svm", "2", "1"]
    assert page.tables["times"][1] == ["mlp", "1 min 0 s", "2.0 s", "1.0 s", "0.50 s", "1 min 4 s"]
    assert page.tables["times"][3] == ["baseline", "—", "—", "15 min 0 s", "—", "15 min 0 s"]
    assert page.tables["photos"][1] == ["piece 0", "5", "5", "5", "15"]
    assert page.tables["skipped"][1:] == [["b.fcgi", "not an image"], ["a.jpg", "truncated"]]
    assert page.tables["near"][1:] == [["00001 ü.jpg (test)", "00003 ü.jpg (train)", "0.988"]]
    assert page.tables["curve-0"][3] == [
        "3",
        "<b>block5",
        "0.250",
        "nan",
        "1.000",
        "0.750",
        "3.000",
    ]
    assert ["versions", "python 3.11"] in page.tables["provenance"]
    assert ["seed", "3"] in page.tables["provenance"]
    assert ["weights", "VGG16 <ImageNet>"] in page.tables["provenance"]
    assert "old: made from other photos" in page.words
    assert "/home/me" not in page.words


def test_page_needs_no_network_script_or_second_file(text: str, page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert value.startswith("#")
        assert not name.startswith("on")
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert set(re.findall(r"https?://[^\"'< ]*", text)) == {"http://www.w3.org/2000/svg"}


def test_ids_are_unique_and_references_lead_somewhere(text: str, page: Page) -> None:
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = {value[1:] for name, value in page.attributes if name == "href"}
    used |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert used
    assert used <= set(ids)


def test_charts_take_their_colours_from_the_page(text: str) -> None:
    svgs = re.findall(r"(?s)<svg.*?</svg>", text)
    assert len(svgs) == 2 * 4
    for svg in svgs:
        assert "currentColor" in svg
        assert not set(re.findall(r"#[0-9a-f]{6}\b", svg))
        root = ElementTree.fromstring(svg)
        assert root.attrib["aria-label"] == root[0].text
        assert root[0].tag.endswith("title")


@pytest.mark.parametrize("k", [2, 20, 30])
def test_number_of_classes(tmp_path: Path, k: int) -> None:
    of = features([f"class {i}" for i in range(k)], test=60)
    page = Page(report.page(comparison(tmp_path, of, svm=[0, k], mlp=[])))
    assert ("Top-5" in page.tables["models"][0]) == (k > 5)
    assert len(page.tables["photos"]) == k + 1
    if k <= 20:
        assert len(page.tables["matrix-1"]) == k + 1
    else:
        assert page.tables["confused-1"][1] == ["class 0", "class 1", "2 of 2"]
        assert page.tables["confused-0"][1] == ["No test photo was mistaken."]


def test_one_model_has_no_pairs(tmp_path: Path) -> None:
    found = comparison(tmp_path, features(["a", "b"]), svm=[0])
    assert "pairs" not in Page(report.page(found)).tables
    assert "against" not in report.markdown(found)
    assert report.record(found)["pairs"] == []


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    of = features(HOSTILE, skipped=[("<img src=x onerror=alert(1)>\u202e.jpg", "`|\n# no")])
    of.data = '"><script>'
    runs = {"<b>$\\frac$|": [0], "_svm_": [1, 2]}
    found = comparison(tmp_path, of, **runs)
    page = Page(report.page(found))
    assert not {"script", "img", "b"} & set(page.tags)
    assert "onerror" not in [name for name, _ in page.attributes]
    shown = [name.replace("\n", "\\n") for name in HOSTILE]
    assert page.tables["matrix-0"][0][1:] == shown
    assert [row[0] for row in page.tables["photos"][1:]] == shown
    assert page.tables["skipped"][1][0] == "<img src=x onerror=alert(1)>\\u202e.jpg"
    assert [row[0] for row in page.tables["models"][1:]] == list(runs)
    svg = charts.alone(charts.cost(found))
    drawn = [element.text for element in ElementTree.fromstring(svg).iter() if element.text]
    assert set(runs) <= set(drawn)


def test_markdown_table_survives_hostile_names(tmp_path: Path) -> None:
    of = features(HOSTILE, skipped=[("<img src=x>|.jpg", "`|\n# no")])
    text = report.markdown(comparison(tmp_path, of, **{"a|b\n| c": [0], "_<i>_": [1, 2]}))
    assert "<i>" not in text.replace("\\<i\\>", "")
    assert "- \\<img src=x\\>\\|.jpg: \\`\\|\\\\n\\# no" in text
    table = [line for line in text.splitlines() if line.startswith("|")][:4]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {11}
    assert table[2].startswith("| a\\|b\\\\n\\| c | 95.0% | 76.4% to 99.1% | 95.0% |")


def test_markdown_tells_all(chess: Comparison) -> None:
    text = report.markdown(chess)
    assert report._plain(chess.verdict) in text
    assert "| mlp | 96.7% |" in text
    assert "| svm | 2 | 1 | 1 | 1 |" in text
    assert "### Not compared (1)" in text
    assert "- b.fcgi: not an image" in text


def test_json_by_its_schema(chess: Comparison) -> None:
    found = json.loads(json.dumps(report.record(chess), allow_nan=False))
    assert found["schema"] == 1
    assert found["test_photos"] == 30
    assert [model["model"] for model in found["models"]] == [row.model for row in chess.rows]
    first = found["models"][0]
    assert first["metrics"]["accuracy"] == 29 / 30
    assert first["accuracy_interval"] == list(chess.rows[0].interval)
    assert first["total_seconds"] == sum(first["seconds"].values())
    assert sum(map(sum, first["confusion"])) == 30
    assert found["pairs"][0]["p"] == 1
    assert found["skipped"][0] == {"path": "b.fcgi", "reason": "not an image"}
    assert found["near"] == [{"paths": ["00001 ü.jpg", "00003 ü.jpg"], "cosine": 0.98765}]


def test_same_comparison_same_bytes(chess: Comparison, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in report.write(chess, tmp_path / "one")]
    again = [path.read_bytes() for path in report.write(chess, tmp_path / "two")]
    assert first == again
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["compare.json", "compare.md", "compare.svg", "index.html"]


def test_picture_stands_alone(chess: Comparison) -> None:
    svg = charts.alone(charts.cost(chess))
    root = ElementTree.fromstring(svg)
    words = [element.text for element in root.iter() if element.text]
    assert {"svm", "mlp", "baseline", "finetuned"} <= set(words)
    assert "Highest: mlp, 96.7%" in root.attrib["aria-label"]
    assert "prefers-color-scheme: dark" in svg


def test_labels_of_close_points_are_apart() -> None:
    moved = charts._apart([0.0, 0.0, 0.0, 9.0], [0.5, 0.5, 0.51, 0.5], reach=1, gap=0.1)
    near = sorted(moved[:3])
    assert min(np.diff(near)) > 0.099
    assert moved[3] == 0.5


@pytest.mark.parametrize(
    "history",
    [
        {"loss": [1.0]},
        {"val_accuracy": [0.5, None, "x"], "phase": ["a"]},
        {"phase": ["a", "b"], "seconds": [1.0]},
        {"loss": [], "accuracy": [0.5, 0.6], "phase": ["a", "a", "b", "b"]},
    ],
)
def test_any_history_is_drawn(tmp_path: Path, history: dict[str, Any]) -> None:
    of = features(["a", "b"])
    folder = save(tmp_path, of, "baseline", [0], stage="network")
    (folder / "history.json").write_text(json.dumps(history))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = Page(report.page(compare(of, [folder])))
    longest = max(len(values) for values in history.values())
    assert len(page.tables["curve-0"]) == longest + 1


def test_no_time_and_perfect_accuracy_are_drawn(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [
        save(tmp_path, of, "svm", [], seconds={}),
        save(tmp_path, of, "mlp", [], seconds={"features": 5.0, "fit": 0.0}),
    ]
    assert "100.0%" in report.page(compare(of, folders))


def test_terminal_table(chess: Comparison) -> None:
    text = io.StringIO()
    Console(file=text, width=80).print(report.table(chess))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    (line,) = [line for line in lines if line.startswith("svm")]
    assert re.split(" {2,}", line) == [
        "svm",
        "93.3%",
        "78.7% to 98.2%",
        "93.3%",
        "0.359",
        "1 min 4 s",
    ]


def test_terminal_table_shows_markup_as_text(tmp_path: Path) -> None:
    text = io.StringIO()
    found = comparison(tmp_path, features(["a", "b"]), **{"[red]svm\x1b[0m": [0]})
    Console(file=text, width=100).print(report.table(found))
    assert "[red]svm\\x1b[0m" in text.getvalue()
