import json
from pathlib import Path

from finetune.compare.repeated_splits import read_repeated_splits
from tests.synthetic_results import features


def test_measured_splits_are_read_and_those_of_other_data_refused(tmp_path: Path) -> None:
    of = features(["a", "b"])
    summaries = {"svm": {"accuracy": {"mean": 0.5, "sd": 0.1, "half_width": 0.2}}}
    made = {"data_digest": of.data_digest, "options": {"train": 30, "test": 50, "seed": 0}}
    curve = made | {"summary": {"1": summaries, "10": summaries}}
    protocol = made | {"summary": summaries, "repeats": {"svm": [{}, {}]}}
    for name, record in {
        "learning-curve": curve,
        "protocol-per-class-30-50": protocol,
        "protocol-per-class-5-5": protocol | {"data_digest": "0"},
        "protocol-per-class-6-6": made,
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    (tmp_path / "protocol-cut.json").write_text("{")
    found, refused = read_repeated_splits(tmp_path, of)
    assert found.learning_curve == {1: summaries, 10: summaries}
    title = "30 photos a class to train, at most 50 to test, 2 random splits"
    assert found.protocols == {title: summaries}
    assert [sentence.split(":")[0] for sentence in refused] == [
        "protocol-cut.json",
        "protocol-per-class-5-5.json",
        "protocol-per-class-6-6.json",
    ]
    assert read_repeated_splits(tmp_path / "none", of)[0].learning_curve == {}
