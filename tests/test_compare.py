import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from classify import results
from extract.console import InputError
from finetune.compare import (
    compare,
    duration,
    holm,
    interval,
    listing,
    mcnemar,
    most_confused,
)


@dataclass
class Features:
    """What a comparison reads of a features file."""

    class_names: list[str]
    labels: NDArray[np.int64]
    splits: NDArray[np.str_]
    paths: list[str]
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
    return Features(list(class_names), labels, splits, paths, **changes)


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


def test_wilson_interval_by_hand() -> None:
    z = 1.959963984540054
    for correct, n in ((8, 10), (0, 10), (10, 10), (1, 1)):
        p = correct / n
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        assert interval(correct, n) == pytest.approx((middle - half, middle + half), abs=1e-12)
    assert interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(3, 3) == 1
    assert mcnemar(6, 0) == pytest.approx(2 / 2**6)
    assert mcnemar(1, 7) == mcnemar(7, 1) == pytest.approx(2 * (1 + 8) / 2**8)


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


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
    assert (pair.other, pair.best_only, pair.other_only) == ("y", 7, 1)
    assert pair.p == pair.corrected == mcnemar(7, 1)


def test_verdict_with_a_winner(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [save(tmp_path, of, "x", []), save(tmp_path, of, "y", range(9))]
    said = compare(of, folders).verdict
    assert said.startswith("x is the most accurate, beyond chance")
    assert "largest p = 0.0039" in said
    assert "accuracy 100.0% (95% interval 83.9% to 100.0%) in 1 min 4 s" in said


def test_verdict_without_a_winner_names_the_cheapest_of_the_rivals_only(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [
        save(tmp_path, of, "x", []),
        save(tmp_path, of, "y", [1], seconds={"features": 10.0, "fit": 2.0}),
        save(tmp_path, of, "z", range(15), seconds={"fit": 0.1}),
    ]
    said = compare(of, folders).verdict
    assert said.startswith("No clear winner: x comes first")
    assert "20 test photos do not tell it from y (" in said
    assert said.endswith("the cheapest of them is y, 95.0% in 12 s.")


def test_one_win_in_many_comparisons_is_not_called_beyond_chance(tmp_path: Path) -> None:
    of = features(["a", "b"])
    folders = [save(tmp_path, of, "x", [])]
    folders += [save(tmp_path, of, f"y{i}", range(6)) for i in range(4)]
    found = compare(of, folders)
    assert all(pair.p < 0.05 < pair.corrected for pair in found.pairs)
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
