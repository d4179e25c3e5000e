import re
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from finetune.compare.comparison import Comparison, compare
from finetune.report import charts
from finetune.report.cost_chart import cost_chart
from finetune.report.svg import spread_labels, standalone
from tests.synthetic_results import fake_features, save


def words(svg: str) -> set[str]:
    return {element.text for element in ElementTree.fromstring(svg).iter() if element.text}


@pytest.fixture(scope="module")
def chess(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    runs = tmp_path_factory.mktemp("runs")
    features = fake_features([f"piece {i}" for i in range(6)], test=30)
    seconds = {"fit": 900.0}
    folders = [save(runs, features, "mlp", [1]), save(runs, features, "svm", [0, 7])]
    folders += [
        save(runs, features, name, range(12), stage="network", seconds=seconds)
        for name in ("baseline", "finetuned")
    ]
    return compare(features, folders)


def heads(size: int) -> dict[str, dict[str, dict[str, float]]]:
    summary = {"mean": 0.5 + size / 100, "sd": 0.1, "half_width": 0.05}
    return {name: {"accuracy": summary} for name in ("svm", "<mlp>")}


def test_charts_take_their_colours_from_the_page(chess: Comparison) -> None:
    drawn = [
        cost_chart(chess),
        charts.score_chart(chess),
        charts.calibration_chart(chess.models),
        charts.photos_needed_chart({1: heads(1), 10: heads(10)}),
    ]
    for svg in [svg for chart in drawn for svg in (chart.wide, chart.narrow)]:
        assert "currentColor" in svg
        assert not set(re.findall(r"#[0-9a-f]{6}\b", svg))
        root = ElementTree.fromstring(svg)
        assert root.attrib["aria-label"] == root[0].text
        assert root[0].tag.endswith("title")


def test_picture_stands_alone(chess: Comparison) -> None:
    svg = standalone(cost_chart(chess))
    assert {"svm", "mlp", "baseline", "finetuned"} <= words(svg)
    assert "Highest accuracy: mlp, 96.7%" in ElementTree.fromstring(svg).attrib["aria-label"]
    assert "prefers-color-scheme: dark" in svg


def test_labels_of_close_points_are_apart() -> None:
    moved = spread_labels([0.0, 0.0, 0.0, 9.0], [0.5, 0.5, 0.51, 0.5], reach=1, gap=0.1)
    near = sorted(moved[:3])
    assert min(np.diff(near)) > 0.099
    assert moved[3] == 0.5


def test_a_narrow_range_has_distinct_and_further_ticks(tmp_path: Path) -> None:
    features = fake_features(["a", "b"], test=2000)
    found = compare(features, [save(tmp_path, features, name, range(40)) for name in ("x", "y")])
    shares = [word for word in words(cost_chart(found).wide) if word.endswith("%")]
    drawn = re.findall(r">([0-9.]+%)<", cost_chart(found).wide)
    assert len(shares) == len(drawn) > 2
    times = {word for word in words(cost_chart(found).wide) if word.endswith((" s", "min"))}
    assert {"10 s", "30 s", "1 min"} <= times


@pytest.mark.parametrize("n", [1, 2, 7])
def test_calibration_has_a_panel_for_each_model(tmp_path: Path, n: int) -> None:
    features = fake_features(["a", "b"])
    names = [f"model {i}" for i in range(n)]
    models = compare(
        features, [save(tmp_path, features, name, [i]) for i, name in enumerate(names)]
    ).models
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = charts.calibration_chart(models)
    assert set(names) <= words(chart.wide)
    assert set(names) <= words(chart.narrow)


@pytest.mark.parametrize("sizes", [[1], [1, 2, 5, 1000]])
def test_any_learning_curve_of_prefixs_is_drawn(sizes: list[int]) -> None:
    curve: dict[int, Any] = {size: heads(size) for size in sizes}
    del curve[sizes[0]]["svm"]
    curve[sizes[-1]]["svm"] = heads(1)["svm"]
    svg = charts.photos_needed_chart(curve).narrow
    assert {"svm", "<mlp>", *(f"{size:,}" for size in sizes)} <= words(svg)
