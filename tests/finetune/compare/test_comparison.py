import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from classify import results
from extract.system.console import InputError
from finetune.compare.comparison import (
    agreed,
    compare,
    duration,
    listing,
    mistakes,
    most_confused,
    recalls,
    repeats_of,
)
from finetune.compare.significance import interval, mcnemar


@dataclass
class Features:
    """What a comparison reads of a features file."""

    class_names: list[str]
    labels: NDArray[np.int64]
    splits: NDArray[np.str_]
    paths: list[str]
    digests: list[str]
    data: str = "chess"
    data_digest: str = "d" * 64
    recipe_digest: str = "e" * 64
    seconds: float = 61.0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    near: list[tuple[int, int, float]] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)


def features(class_names: Sequence[str], *, test: int = 20, **changes: Any) -> Any:
    """Return features of `test` test photos, classes in turn, between photos of other splits."""
    k = len(class_names)
    labels = np.repeat(np.arange(test) % k, 3)
    splits = np.array(["train", "test", "val"] * test)
    paths = [f"{i:05d} ü.jpg" for i in range(3 * test)]
    digests = [hashlib.sha256(path.encode()).hexdigest() for path in paths]
    return Features(list(class_names), labels, splits, paths, digests, **changes)


def save(
    runs: Path, of: Any, model: str, wrong: Sequence[int], *, sure: float = 0.9, **changes: Any
) -> Path:
    """Leave a result that mistakes each photo of `wrong` for the next class."""
    test = np.flatnonzero(of.splits == "test")
    labels = of.labels[test]
    k = len(of.class_names)
    predicted = labels.copy()
    predicted[list(wrong)] = (predicted[list(wrong)] + 1) % k
    probabilities = np.full((len(test), k), (1 - sure) / max(k - 1, 1), np.float32)
    probabilities[np.arange(len(test)), predicted] = sure
    said = results.Predictions([of.paths[i] for i in test], labels, probabilities)
    record = results.Result(
        model=model,
        stage="head",
        data=of.data,
        data_digest=of.data_digest,
        recipe_digest=of.recipe_digest,
        class_names=of.class_names,
        hyperparameters={"C": 1.0},
        tried=[],
        seconds={"features": 60.0, "tune": 2.0, "fit": 1.0, "predict": 0.5},
        epochs=None,
        parameters=1234,
        seed=0,
        metrics=results.metrics(said),
        versions={"python": "3.11", "numpy": "2.1"},
        created="2025-01-01T00:00:00+00:00",
    )
    record = replace(record, **changes)
    results.save(runs / model, record, said, write_model=lambda folder: None)
    return runs / model


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes))


def test_figures_follow_from_the_predictions(tmp_path: Path) -> None:
    of = features(["a", "b"])
    found = compare(of, [save(tmp_path, of, "svm", [0, 1, 2])])
    (row,) = found.rows
    assert row.accuracy == 0.85
    assert row.interval == interval(17, 20)
    assert row.seconds == 63.5
    assert row.confusion.tolist() == [[8, 2], [1, 9]]
    assert row.correct.sum() == 17
    assert (found.pairs, found.refused) == ([], [])
    assert found.verdict.startswith("svm is the only model: accuracy 85.0%")


def test_rows_by_accuracy_then_log_loss_then_name(tmp_path: Path) -> None:
    of = features(["a", "b", "c"])
    folders = [
        save(tmp_path, of, "a", [0, 1]),
        save(tmp_path, of, "b", [3], sure=0.8),
        save(tmp_path, of, "c", [4]),
        save(tmp_path, of, "d", [5]),
    ]
    for order in (folders, folders[::-1]):
        assert [row.model for row in compare(of, order).rows] == ["c", "d", "b", "a"]


def test_pairs_count_the_photos_that_only_one_names_rightly(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [save(tmp_path, of, "x", [0]), save(tmp_path, of, "y", [1, 2, 3, 4, 5, 6, 7])]
    (pair,) = compare(of, folders).pairs
    assert (pair.one, pair.other, pair.one_only, pair.other_only) == ("x", "y", 7, 1)
    assert pair.p == pair.corrected == mcnemar(7, 1)


def test_every_two_models_are_a_pair_and_all_are_corrected_for(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [save(tmp_path, of, name, range(n)) for name, n in (("x", 0), ("y", 6), ("z", 7))]
    pairs = compare(of, folders).pairs
    assert [(pair.one, pair.other) for pair in pairs] == [("x", "y"), ("x", "z"), ("y", "z")]
    assert [pair.p for pair in pairs] == [mcnemar(6, 0), mcnemar(7, 0), mcnemar(1, 0)]
    assert pairs[1].corrected == 3 * pairs[1].p


def test_verdict_with_a_winner(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [save(tmp_path, of, "x", []), save(tmp_path, of, "y", range(9))]
    said = compare(of, folders).verdict
    assert said.startswith("Use x: it is the most accurate, beyond chance")
    assert "largest p = 0.0039" in said
    assert "accuracy 100.0% (95% interval 83.9% to 100.0%) in 1 min 4 s" in said


def test_verdict_without_a_winner_takes_the_first_of_those_at_no_more_than_twice_the_least(
    tmp_path: Path,
) -> None:
    of = features(["a", "b"])
    folders = [
        save(tmp_path, of, "x", [], seconds={"fit": 25.0}),
        save(tmp_path, of, "y", [1], seconds={"features": 10.0, "fit": 8.0}),
        save(tmp_path, of, "z", [1, 2], seconds={"fit": 12.0}),
        save(tmp_path, of, "worse", range(15), seconds={"fit": 0.1}),
    ]
    said = compare(of, folders).verdict
    assert said.startswith("No clear winner, use y: accuracy 95.0% in 18 s; x comes first with")
    assert "but took 25 s, and 20 test photos do not tell the two apart" in said
    assert said.endswith("p = 1).")


def test_verdict_without_a_winner_takes_the_best_where_none_is_much_cheaper(
    tmp_path: Path,
) -> None:
    of = features(["a", "b"])
    folders = [
        save(tmp_path, of, "x", [], seconds={"fit": 20.0}),
        save(tmp_path, of, "y", [1], seconds={"fit": 10.0}),
        save(tmp_path, of, "worse", range(15), seconds={"fit": 0.1}),
    ]
    said = compare(of, folders).verdict
    assert said.startswith("No clear winner, use x: it comes first with accuracy 100.0%")
    assert "20 test photos do not tell it from y (" in said
    assert said.endswith("none of them costs less than half.")


def test_no_model_is_recommended_that_guessing_may_equal(tmp_path: Path) -> None:
    of = features(["a", "b"])
    found = compare(of, [save(tmp_path, of, name, range(6)) for name in ("x", "y")])
    assert found.verdict.startswith("Use none of them yet: x comes first with accuracy 70.0%")
    assert "20 test photos do not tell that from always naming the most frequent" in found.verdict
    assert found.verdict.endswith("which is right for 50.0%.")


def test_one_win_in_many_comparisons_is_not_called_beyond_chance(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [save(tmp_path, of, "x", [])]
    folders += [save(tmp_path, of, f"y{i}", range(6)) for i in range(4)]
    found = compare(of, folders)
    assert all(pair.p < 0.05 < pair.corrected for pair in found.pairs if pair.one == "x")
    assert found.verdict.startswith("No clear winner")


def test_equal_predictions_are_a_tie(tmp_path: Path) -> None:
    of = features(["a", "b"])
    found = compare(of, [save(tmp_path, of, name, [2]) for name in ("y", "x")])
    assert [row.model for row in found.rows] == ["x", "y"]
    assert found.pairs[0].p == 1
    assert "No clear winner" in found.verdict


@pytest.mark.parametrize(
    ("stage", "command"), [("head", "make heads"), ("network", "make finetune")]
)
def test_other_data_is_refused_by_name(tmp_path: Path, stage: str, command: str) -> None:
    of = features(["a", "b"])
    folders = [
        save(tmp_path, of, "svm", []),
        save(tmp_path, of, "old", [], stage=stage, data_digest="0" * 64),
    ]
    found = compare(of, folders)
    assert [row.model for row in found.rows] == ["svm"]
    (sentence,) = found.refused
    assert sentence.startswith("old: made from other photos")
    assert f"`{command}`" in sentence


def test_nothing_left_to_compare(tmp_path: Path) -> None:
    of = features(["a", "b"])
    with pytest.raises(InputError, match=r"`make heads`$"):
        compare(of, [])
    with pytest.raises(InputError, match="`make heads`; old: made from other photos"):
        compare(of, [save(tmp_path, of, "old", [], data_digest="0" * 64)])


TAMPERED: list[dict[str, Any]] = [
    {"metrics": {"accuracy": 1.0}},
    {"metrics": {"accuracy": 0.96, "mean_class_recall": 0.95, "macro_f1": 0.95, "log_loss": 0.2}},
    {"metrics": {}},
    {"metrics": None},
    {"metrics": {"accuracy": "high"}},
    {"class_names": ["b", "a"]},
    {"seconds": None},
    {"seconds": {"fit": "long"}},
]


@pytest.mark.parametrize("changes", TAMPERED)
def test_tampered_record_is_refused_by_name(tmp_path: Path, changes: dict[str, Any]) -> None:
    of = features(["a", "b"])
    folders = [save(tmp_path, of, "good", []), save(tmp_path, of, "bad", [1])]
    edit(folders[1], **changes)
    found = compare(of, folders)
    assert [row.model for row in found.rows] == ["good"]
    (sentence,) = found.refused
    assert sentence.startswith("bad: damaged")
    assert "`make heads`" in sentence


@pytest.mark.parametrize("name", ["accuracy", "mean_class_recall", "macro_f1", "log_loss"])
def test_each_metric_is_checked(tmp_path: Path, name: str) -> None:
    of = features(["a", "b"])
    good, bad = save(tmp_path, of, "good", []), save(tmp_path, of, "bad", [1])
    told = results.load(bad).metrics
    edit(bad, metrics=told | {name: told[name] + 0.001})
    assert "metrics" in compare(of, [good, bad]).refused[0]


def test_wrong_rows_are_refused(tmp_path: Path) -> None:
    of = features(["a", "b"])
    good = save(tmp_path, of, "good", [])
    turned = features(["a", "b"])
    turned.paths[1], turned.paths[4] = turned.paths[4], turned.paths[1]
    relabelled = features(["a", "b"])
    relabelled.labels[1] = 1
    fewer = features(["a", "b"])
    fewer.splits[1] = "train"
    for other, reason in ((turned, "photos"), (relabelled, "true classes"), (fewer, "photos")):
        found = compare(of, [good, save(tmp_path, other, "bad", [])])
        assert [row.model for row in found.rows] == ["good"]
        assert found.refused[0].startswith("bad: damaged")
        assert reason in found.refused[0]


def test_unreadable_results_are_refused_and_the_others_compared(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [save(tmp_path, of, name, []) for name in ("good", "cut", "gone")]
    record = folders[1] / "result.json"
    record.write_bytes(record.read_bytes()[:50])
    (folders[2] / "predictions.h5").unlink()
    found = compare(of, folders)
    assert [row.model for row in found.rows] == ["good"]
    assert [sentence.split(":")[0] for sentence in found.refused] == ["cut", "gone"]


@pytest.mark.parametrize("text", ["", "[1]", '{"loss": 3}', '{"loss": [1.0, NaN], "phase": null}'])
def test_any_history_is_survived(tmp_path: Path, text: str) -> None:
    of = features(["a", "b"])
    folder = save(tmp_path, of, "baseline", [], stage="network")
    (folder / "history.json").write_text(text)
    history = compare(of, [folder]).rows[0].history
    assert all(isinstance(values, list) for values in history.values())


def test_class_never_predicted_and_thirty_classes(tmp_path: Path) -> None:
    of = features([f"c{i:02d}" for i in range(30)], test=60)
    (row,) = compare(of, [save(tmp_path, of, "svm", [3, 33, 5])]).rows
    assert row.confusion.shape == (30, 30)
    assert row.confusion[:, 3].sum() == 0
    assert row.confusion.sum() == 60
    assert most_confused(row.confusion) == [(3, 4, 2), (5, 6, 1)]
    assert most_confused(row.confusion, limit=1) == [(3, 4, 2)]


def test_speed_counts_the_pass_of_a_head_and_the_photos_of_a_network(tmp_path: Path) -> None:
    of = features(["a", "b"])
    of.digests[3] = of.digests[0]
    took = {"features": 59.0, "fit": 9.0, "predict": 10.0}
    head = save(tmp_path, of, "svm", [], seconds=took)
    network = save(tmp_path, of, "finetuned", [1], stage="network", seconds=took)
    unknown = save(tmp_path, of, "mlp", [1, 2], seconds={"features": 59.0})
    speeds = [row.speed for row in compare(of, [head, network, unknown]).rows]
    # 59 distinct photos took a second each, and 20 test photos half of one.
    assert speeds == [1 / 1.5, 2.0, None]


def test_size_is_that_of_the_model_file(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [save(tmp_path, of, name, []) for name in ("svm", "baseline", "gone")]
    (folders[0] / "head.skops").write_bytes(bytes(300))
    (folders[1] / "model.keras").write_bytes(bytes(5000))
    sizes = {row.model: row.size for row in compare(of, folders).rows}
    assert sizes == {"svm": 300, "baseline": 5000, "gone": None}


def test_mistakes_are_told_the_surest_first(tmp_path: Path) -> None:
    of = features(["a", "b", "c"])
    folder = save(tmp_path, of, "svm", [4, 7, 9])
    with h5py.File(folder / "predictions.h5", "r+") as file:
        file["probability"][7] = [0.02, 0.01, 0.97]
    edit(folder, metrics=results.metrics(results.load_predictions(folder)))
    (row,) = compare(of, [folder]).rows
    told = mistakes(row, of, limit=2)
    assert [(one.photo, one.label, one.said) for one in told] == [(22, 1, 2), (13, 1, 2)]
    assert [one.probability for one in told] == pytest.approx([0.97, 0.9])
    assert len(mistakes(row, of, limit=9)) == 3


def test_agreed_are_those_that_all_models_call_the_same(tmp_path: Path) -> None:
    of = features(["a", "b", "c"])
    folders = [save(tmp_path, of, "x", [2, 5, 6]), save(tmp_path, of, "y", [5, 6, 8])]
    z = save(tmp_path, of, "z", [5, 6])
    with h5py.File(z / "predictions.h5", "r+") as file:
        # Of class c, which the others call a, this one is named b.
        file["probability"][5] = [0.1, 0.8, 0.1]
    edit(z, metrics=results.metrics(results.load_predictions(z)))
    rows = compare(of, [*folders, z]).rows
    (one,) = agreed(rows, of)
    assert (of.paths[one.photo], one.label, one.said) == ("00019 ü.jpg", 0, 1)
    assert one.probability == pytest.approx(0.9)
    assert len(agreed(rows[:1], of)) == 0


def test_recall_of_each_class(tmp_path: Path) -> None:
    of = features(["a", "b", "c"], test=2)
    rows = compare(of, [save(tmp_path, of, "x", [1]), save(tmp_path, of, "y", [])]).rows
    assert np.array_equal(recalls(rows), [[1, 1], [1, 0], [np.nan, np.nan]], equal_nan=True)


def test_repeats_are_read_and_others_refused(tmp_path: Path) -> None:
    of = features(["a", "b"])
    figures = {"svm": {"accuracy": {"mean": 0.5, "sd": 0.1, "half_width": 0.2}}}
    made = {"data_digest": of.data_digest, "options": {"train": 30, "test": 50, "seed": 0}}
    curve = made | {"summary": {"1": figures, "10": figures}}
    protocol = made | {"summary": figures, "repeats": {"svm": [{}, {}]}}
    for name, record in {
        "learning-curve": curve,
        "protocol-per-class-30-50": protocol,
        "protocol-per-class-5-5": protocol | {"data_digest": "0"},
        "protocol-per-class-6-6": made,
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    (tmp_path / "protocol-cut.json").write_text("{")
    found, refused = repeats_of(tmp_path, of)
    assert found.curve == {1: figures, 10: figures}
    asked = "30 photos a class to train, at most 50 to test, 2 random splits"
    assert found.protocols == {asked: figures}
    assert [sentence.split(":")[0] for sentence in refused] == [
        "protocol-cut.json",
        "protocol-per-class-5-5.json",
        "protocol-per-class-6-6.json",
    ]
    assert repeats_of(tmp_path / "none", of)[0].curve == {}


def test_words() -> None:
    said = [duration(s) for s in (0.0, 0.123, 0.996, 9.94, 9.96, 59.6, 100, 3599.6, 7500, 4e6)]
    assert said == [
        "0.00 s",
        "0.12 s",
        "1.0 s",
        "9.9 s",
        "10 s",
        "1 min 0 s",
        "1 min 40 s",
        "1 h 0 min",
        "2 h 5 min",
        "1,111 h 7 min",
    ]
    assert [listing(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a",
        "a or b",
        "a, b or c",
    ]
