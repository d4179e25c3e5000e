from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finetune.compare.comparison import Comparison, compare
from finetune.compare.suspects import HeldOut, LabelCheck, Suspect
from finetune.findings import power
from finetune.findings.next_steps import Finding, next_steps
from tests.synthetic_results import comparison, fake_features, save


def steps(found: Comparison) -> dict[str, Finding]:
    return {step.kind: step for step in next_steps(found, data="'my data'")}


def with_held_out(found: Comparison, *, wrong: list[int], after_half: list[int]) -> Comparison:
    """Add a check in which rows of train and val, by number, were predicted as the next class."""
    features = found.features
    rows = np.flatnonzero(features.splits != "test")
    labels, k = features.labels[rows], len(features.class_names)

    def predicted(mistaken: list[int]) -> np.ndarray:
        answers = labels.copy()
        answers[mistaken] = (answers[mistaken] + 1) % k
        return answers

    held_out = HeldOut(rows, np.eye(k, dtype=np.float32)[predicted(wrong)], predicted(after_half))
    suspects = [Suspect(0, 0, 1, 0.1, 0.9)] * 4
    return replace(found, label_check=LabelCheck("svm", len(rows), suspects, held_out))


def test_nothing_is_left_to_do_for_a_perfect_model(tmp_path: Path) -> None:
    assert steps(comparison(tmp_path, fake_features(["a", "b"]), svm=[])) == {}


def test_labels_that_models_contradict(tmp_path: Path) -> None:
    found = comparison(tmp_path, fake_features(["a", "b"]), svm=[0, 1], mlp=[0, 1, 2])
    step = steps(with_held_out(found, wrong=[], after_half=[]))["labels"]
    # Both models are wrong about two of 20 test photos, and 4 of 40 others are suspects.
    assert step.gain == pytest.approx(0.51 * 6 / 60)
    assert "Check 6 labels of 60" in step.reason
    assert step.command == "make label DATA='my data'"
    one = steps(
        with_held_out(comparison(tmp_path, found.features, svm=[]), wrong=[], after_half=[])
    )
    assert "labels" not in one, "a model without mistakes cannot gain"


def test_test_photos_that_cannot_tell_two_models_apart(tmp_path: Path) -> None:
    found = comparison(tmp_path, fake_features(["a", "b"], test=100), x=[0, 1], y=[2, 3, 4, 5])
    step = steps(found)["test photos"]
    assert step.gain == power.expected_loss(4, 2, 100)
    needed = power.photos_needed(0.04, 0.02)
    assert f"difference of 2.0 points in four of five cases, McNemar's test needs {needed:,}" in (
        step.reason
    )
    tied = comparison(tmp_path, found.features, x=[0, 1], y=[2, 3])
    assert "a difference of 1.0 points" in steps(tied)["test photos"].reason
    clear = comparison(tmp_path, found.features, x=[0], y=range(1, 40))
    assert "test photos" not in steps(clear)


def test_classes_that_would_gain_from_photos(tmp_path: Path) -> None:
    found = comparison(tmp_path, fake_features(["a", "b", "c", "d", "e"]), svm=[0])
    # The labels of train and val are a a b b c c d d e e a a ...
    wrong, after_half = [2, 12, 22, 4, 14, 6, 16, 8], list(range(12))
    step = steps(with_held_out(found, wrong=wrong, after_half=after_half))["training photos"]
    assert step.reason.startswith(
        "Add 8 photos of b, 8 photos of c and 8 photos of d, which is as many again."
    )
    # 7 of 40 photos are wrong because of them, and 8 of 12 mistakes stayed with twice as many.
    assert step.gain == pytest.approx(7 / 40 * (1 - 8 / 12))
    assert step.command == "make label DATA='my data' POOL=FOLDER"
    useless = with_held_out(found, wrong=wrong, after_half=wrong)
    assert "training photos" not in steps(useless)


def test_copies_that_flatter(tmp_path: Path) -> None:
    # The test photos of rows 1 and 4 are right, and the third of 4 is not.
    features = fake_features(["a", "b"], test=4, near=[(0, 1, 0.99), (4, 6, 0.98)])
    step = steps(comparison(tmp_path, features, svm=[2]))["copies"]
    assert step.gain == pytest.approx(3 / 4 - 1 / 2)
    assert "2 test photos" in step.reason
    assert step.command == "python -m extract manifest 'my data' --to photos.csv"
    harmless = comparison(tmp_path, features, svm=[0])
    assert "copies" not in steps(harmless)


def test_a_model_that_costs_more_and_is_better(tmp_path: Path) -> None:
    features = fake_features(["a", "b"], test=100)
    folders = [
        save(tmp_path, features, "svm", range(30), seconds={"fit": 10.0}),
        save(tmp_path, features, "fine tuned", range(5), seconds={"fit": 60.0}),
    ]
    found = compare(features, folders)
    step = steps(found)["model"]
    assert step.gain == pytest.approx(0.25)
    assert "It takes 6.0 times as long" in step.reason
    assert step.command == "make serve DATA='my data' MODEL='fine tuned'"
    alike = [save(tmp_path, features, "svm", range(30), seconds={"fit": 40.0}), folders[1]]
    assert "model" not in steps(compare(features, alike))


def test_the_largest_gain_comes_first_and_there_are_at_most_five(tmp_path: Path) -> None:
    features = fake_features(["a", "b"], test=100, near=[(0, 1, 0.99)])
    folders = [
        save(tmp_path, features, "svm", range(1, 9), seconds={"fit": 10.0}),
        save(tmp_path, features, "finetuned", range(6, 11), seconds={"fit": 60.0}),
    ]
    found = with_held_out(compare(features, folders), wrong=[0], after_half=[0, 1])
    listed = next_steps(found, data="d")
    assert [step.gain for step in listed] == sorted((s.gain for s in listed), reverse=True)
    kinds = {"labels", "test photos", "training photos", "copies", "model"}
    assert {step.kind for step in listed} == kinds
