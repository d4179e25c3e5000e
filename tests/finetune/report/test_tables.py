from pathlib import Path

from finetune.compare.comparison import compare
from finetune.report import tables
from finetune.report.markdown import markdown
from tests.synthetic_results import fake_features, save


def test_a_note_stands_in_brackets() -> None:
    assert str(tables.Cell("84.5%", 0.845, "76.6% to 90.1%")) == "84.5% (76.6% to 90.1%)"


def test_phases_are_in_the_order_of_the_work_and_unknown_ones_come_last(tmp_path: Path) -> None:
    features = fake_features(["a", "b"])
    seconds = {"predict": 1.0, "fit": 2.0, "activations": 3.0, "rest": 4.0}
    found = tables.costs(
        compare(features, [save(tmp_path, features, "x", [], seconds=seconds, epochs=1)])
    )
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
    features = fake_features(["a", "b"])
    found = compare(
        features, [save(tmp_path, features, "x", []), save(tmp_path, features, "y", [])]
    )
    del found.models[1].result.metrics["calibration_error"]
    assert "Calibration error" not in tables.metrics(found)
    assert "Log loss" in tables.metrics(found)


def test_heads_that_are_alike_share_a_sentence_on_strangers(tmp_path: Path) -> None:
    features = fake_features(["a", "b", "c"])
    found = {"keep": 0.95, "rejected": 0.25, "auroc": 0.75, "strangers": 40}
    records = {"svm": found, "mlp": found, "logistic": {"keep": 0.95}, "old": {}}
    folders = [
        save(tmp_path, features, name, range(wrong), novelty=novelty)
        for wrong, (name, novelty) in enumerate(records.items())
    ]
    compared = compare(features, folders)
    told = tables.novelty(compared)
    assert len(told) == 2
    assert told[0].startswith("svm, mlp: rejects 25.0% of strangers where 95% of known photos are")
    assert "40 photos" in told[0]
    assert told[1].startswith("logistic: ")
    assert "rejects 25.0% of strangers" in markdown(compared)
