from pathlib import Path

from finetune.compare.comparison import compare
from finetune.report import tables
from tests.synthetic_results import features, save


def test_a_note_stands_in_brackets() -> None:
    assert str(tables.Cell("84.5%", 0.845, "76.6% to 90.1%")) == "84.5% (76.6% to 90.1%)"


def test_phases_are_in_the_order_of_the_work_and_unknown_ones_come_last(tmp_path: Path) -> None:
    of = features(["a", "b"])
    seconds = {"predict": 1.0, "fit": 2.0, "activations": 3.0, "rest": 4.0}
    found = tables.costs(compare(of, [save(tmp_path, of, "x", [], seconds=seconds, epochs=1)]))
    assert list(found)[1:8] == [
        "Total",
        "VGG16 pass",
        "Activations",
        "Tuning",
        "Training",
        "Test",
        "rest",
    ]
    cells = {heading: str(cell) for heading, (cell,) in found.items()}
    assert (cells["Total"], cells["VGG16 pass"]) == ("10 s", "—")
    assert cells["Training"] == "2.0 s (1 epoch)"


def test_a_metric_that_one_result_lacks_is_left_out(tmp_path: Path) -> None:
    of = features(["a", "b"])
    found = compare(of, [save(tmp_path, of, "x", []), save(tmp_path, of, "y", [])])
    del found.models[1].result.metrics["calibration_error"]
    assert "Calibration error" not in tables.metrics(found)
    assert "Log loss" in tables.metrics(found)
