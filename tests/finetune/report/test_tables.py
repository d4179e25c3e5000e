from pathlib import Path

import numpy as np

from finetune.compare.comparison import compare
from finetune.report import tables
from tests.test_compare import features, save


def test_numbers_as_people_write_them() -> None:
    assert [tables.size(n) for n in (1, 99_949, 3_279_893, 59_331_189, 2_500_000_000)] == [
        "0.0 kB",
        "99.9 kB",
        "3.3 MB",
        "59.3 MB",
        "2,500.0 MB",
    ]
    assert [tables.chance(p) for p in (1.0, 0.0495, 0.001, 0.0009)] == [
        "1.000",
        "0.050",
        "0.001",
        "< 0.001",
    ]
    assert str(tables.Cell("84.5%", 0.845, "76.6% to 90.1%")) == "84.5% (76.6% to 90.1%)"


def test_phases_come_in_the_order_of_the_work_and_unknown_ones_last(tmp_path: Path) -> None:
    of = features(["a", "b"])
    seconds = {"predict": 1.0, "fit": 2.0, "activations": 3.0, "rest": 4.0}
    found = tables.cost(compare(of, [save(tmp_path, of, "x", [], seconds=seconds, epochs=1)]))
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
    del found.rows[1].result.metrics["calibration_error"]
    assert "Calibration error" not in tables.quality(found)
    assert "Log loss" in tables.quality(found)


def test_commands_tell_what_was_asked_and_quote_it(tmp_path: Path) -> None:
    of = features(["a", "b"], attributes={"seed": np.int64(3), "seconds_320": 1.0})
    of.data = "my photos"
    asked = {"epochs": 2, "learning_rate": None, "again": True, "flip": False, "taps": ["a", "b c"]}
    folders = [
        save(tmp_path, of, "svm", [0], seed=7),
        save(
            tmp_path, of, "baseline", [0], stage="network", hyperparameters={"asked": asked, "x": 1}
        ),
    ]
    assert tables.commands(compare(of, folders)) == [
        "python -m extract 'my photos' --seed 3 --sizes 224 320",
        "python -m classify 'my photos' --heads svm --seed 7",
        "python -m finetune train 'my photos' --models baseline --seed 0 --epochs 2 --again "
        "--taps a 'b c'",
        "python -m finetune compare 'my photos'",
    ]
