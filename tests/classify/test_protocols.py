"""Protocols: splits of the right sizes that share no photo, and summaries of their metrics."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from classify import protocols
from classify.protocols import Measurement
from extract.store import features_file
from extract.system import atomic
from extract.system.console import InputError
from tests.classify.test_main import classify
from tests.synthetic import publish


def test_a_split_has_its_sizes_shares_no_photo_and_follows_from_the_seed() -> None:
    labels = np.repeat([0, 1, 2], [60, 9, 30])
    # The first class has copies of copies; one photo is in two classes.
    digests = [str(row // 3 if row < 60 else row) for row in range(99)]
    digests[60] = "0"
    for seed in range(5):
        train, test = protocols.draw(labels, digests, train=5, test=10, seed=seed)
        assert np.bincount(labels[train]).tolist() == [5, 5, 5]
        assert np.bincount(labels[test]).tolist() == [10, 3, 10]
        used = [digests[row] for row in (*train, *test)]
        assert len(set(used)) == len(used)
        again = protocols.draw(labels, digests, train=5, test=10, seed=seed)
        np.testing.assert_array_equal(train, again[0])
        np.testing.assert_array_equal(test, again[1])
        assert (
            train.tolist() != protocols.draw(labels, digests, train=5, test=10, seed=9)[0].tolist()
        )


def test_a_larger_draw_contains_the_smaller() -> None:
    labels, digests = np.arange(60) % 3, [str(row) for row in range(60)]
    small, large = (
        set(protocols.draw(labels, digests, train=size, test=0, seed=1)[0]) for size in (2, 10)
    )
    assert small < large


def test_summary_by_hand() -> None:
    found = protocols.summary([0.8, 0.9, 1.0])
    assert found["mean"] == pytest.approx(0.9)
    assert found["sd"] == pytest.approx(0.1)
    # Student's t with two degrees of freedom: 4.3027.
    assert found["half_width"] == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert protocols.summary([0.5]) == {"mean": 0.5, "sd": 0.0, "half_width": 0.0}


def test_the_interval_of_a_learning_curve_covers_draws_and_test_photos() -> None:
    accuracy = {"mean": 0.8, "half_width": 0.03}
    # Wilson's interval of 80 right answers of 100 is 71.1% to 86.7%.
    found = protocols.curve_interval(accuracy, tested=100)
    assert found["low"] == pytest.approx(0.8 - np.hypot(0.0889, 0.03), abs=1e-4)
    assert found["high"] == pytest.approx(0.8 + np.hypot(0.0666, 0.03), abs=1e-4)
    # An accuracy of 1 in every draw is not certain either.
    perfect = protocols.curve_interval({"mean": 1.0, "half_width": 0.0}, tested=100)
    assert perfect == {"low": pytest.approx(0.963, abs=1e-3), "high": 1.0}


def test_the_interval_of_random_splits_is_wider_because_they_share_photos() -> None:
    accuracy = protocols.summary([0.8, 0.9, 1.0])
    found = protocols.split_interval(accuracy, trained=200, tested=50, repeats=3)
    half = 4.3027 * 0.1 * (1 / 3 + 50 / 200) ** 0.5
    assert found["high"] - 0.9 == pytest.approx(half, rel=1e-4)
    assert 0.9 - found["low"] == pytest.approx(half, rel=1e-4)
    assert protocols.split_interval(accuracy, trained=200, tested=50, repeats=1) == {}


def test_the_command_measures_and_leaves_a_record(tmp_path: Path) -> None:
    path = publish(tmp_path)
    left = atomic.temporary(tmp_path / "runs/synthetic/of a run that was killed")
    left.parent.mkdir(parents=True)
    left.touch()
    arguments = ("--protocol", "per-class", "--train", 10, "--test", 5, "--repeats", 2)
    done = classify(path, "--out", tmp_path, "--heads", "svm", *arguments)
    assert done.returncode == 0, done.stderr
    said, head, row, interval, where = done.stdout.splitlines()
    assert "10 photos per class to train, at most 5 to test, 2 random splits" in said
    assert head.split()[:4] == ["Head", "Mean", "class", "recall"]
    assert row.split()[0] == "svm"
    record = json.loads(Path(where).read_text())
    assert where.endswith("runs/synthetic/protocol-per-class-10-5.json")
    assert len(record["repeats"]["svm"]) == 2
    mean = np.mean([one["accuracy"] for one in record["repeats"]["svm"]])
    assert record["summary"]["svm"]["accuracy"]["mean"] == pytest.approx(mean)
    accuracy = record["summary"]["svm"]["accuracy"]
    assert accuracy["mean"] > 0.8
    # Splits without a mistake are not certain either.
    assert accuracy["low"] < accuracy["mean"] <= accuracy["high"] <= 1
    assert interval.endswith(f"svm {100 * accuracy['low']:.1f} to {accuracy['high']:.1%}")
    assert not left.exists()


def test_a_learning_curve_has_a_row_per_size(tmp_path: Path) -> None:
    path = publish(tmp_path)
    done = classify(path, "--out", tmp_path, "--heads", "svm", "--learning-curve", "--repeats", 2)
    assert done.returncode == 0, done.stderr
    sizes = [line.split()[0] for line in done.stdout.splitlines()[2:-1]]
    assert sizes == ["1", "2", "5", "10"]
    record = json.loads((tmp_path / "runs/synthetic/learning-curve.json").read_text())
    assert list(record["summary"]) == sizes
    accuracy = record["summary"]["10"]["svm"]["accuracy"]
    assert accuracy["low"] < accuracy["mean"] > 0.8


def test_what_the_tested_rows_hold_does_not_change_what_is_chosen(tmp_path: Path) -> None:
    path = publish(tmp_path, informative=())
    with features_file.open(path) as features:
        _, test = protocols.draw(features.labels, features.digests, train=10, test=5, seed=0)
    with h5py.File(path, "r+") as file:
        values = file["taps/block5_avg"][:]
        values[test, 0] = 1000 * (1 + file["label"][:][test])
        file["taps/block5_avg"][:] = values
    with features_file.open(path) as features:
        measurement = Measurement(["logistic", "svm"], repeats=1, seed=0)
        [metrics] = protocols.per_class(features, measurement, train=10, test=5)["svm"]
    # There is nothing to learn; for 15 photos of three classes four standard errors are 0.49.
    assert metrics["accuracy"] < 1 / 3 + 0.49


def test_a_class_with_too_few_photos_is_named(tmp_path: Path) -> None:
    said = "class 'class 0' has 20 distinct photos; --train 20"
    with features_file.open(publish(tmp_path)) as features, pytest.raises(InputError, match=said):
        protocols.per_class(features, Measurement(["svm"], repeats=1, seed=0), train=20, test=5)
