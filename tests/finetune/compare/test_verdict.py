from pathlib import Path

import pytest

from finetune.compare.comparison import compare
from tests.synthetic_results import fake_features, save


def test_verdict_with_a_winner(tmp_path: Path) -> None:
    features = fake_features(["a", "b"])
    folders = [save(tmp_path, features, "x", []), save(tmp_path, features, "y", range(9))]
    assert compare(features, folders).verdict == (
        "Use x. It is the most accurate model, and it differs significantly from every other model "
        "(McNemar's exact test with Holm's correction, largest p = 0.0039). It has an accuracy of "
        "100.0% (95% interval 83.9% to 100.0%) and took 1 min 4 s. All models learned from the 40 "
        "photos of train and val."
    )


@pytest.mark.parametrize("seconds", [0.1, 18.0, 100.0])
def test_verdict_without_a_winner_takes_the_best_head_whatever_the_seconds(
    seconds: float, tmp_path: Path
) -> None:
    features = fake_features(["a", "b"])
    slow = {"stage": "network", "seconds": {"fit": 25.0}}
    further = slow | {"hyperparameters": {"started_from": "0"}}
    folders = [
        save(tmp_path, features, "all", [], **further),
        save(tmp_path, features, "last", [1], **slow),
        save(tmp_path, features, "y", [2], seconds={"fit": seconds}, wrong_on_train=[1, 2]),
        save(tmp_path, features, "z", [3, 4], seconds={"fit": 9.0}, wrong_on_train=[3, 4, 5]),
        save(tmp_path, features, "worse", range(15), wrong_on_train=range(15)),
    ]
    verdict = compare(features, folders).verdict
    assert verdict.startswith("No model is clearly the best. Use y: it has an accuracy of 95.0%")
    assert (
        "The top-ranked model, all, has an accuracy of 100.0% (95% interval 83.9% to 100.0%) and "
        "took 25 s. On 20 test photos, the two do not differ significantly (McNemar's exact test "
        "with Holm's correction, p = 1), and a head needs one pass over the photos, where a "
        "network needs many." in verdict
    )
    verdict = compare(features, folders[:2]).verdict
    assert verdict.startswith("No model is clearly the best. Use last: it has an accuracy of 95.0%")
    assert "and all needs the training of another network first." in verdict


def test_verdict_without_a_winner_takes_the_best_of_the_heads(tmp_path: Path) -> None:
    features = fake_features(["a", "b"])
    folders = [
        save(tmp_path, features, "x", [], seconds={"fit": 60.0}),
        save(tmp_path, features, "y", [1], seconds={"fit": 10.0}),
        save(tmp_path, features, "z", [1, 2], seconds={"fit": 30.0}),
        save(tmp_path, features, "worse", range(15), seconds={"fit": 0.1}),
    ]
    assert compare(features, folders).verdict == (
        "No model is clearly the best. Use x, which ranks first: it has an accuracy of 100.0% (95% "
        "interval 83.9% to 100.0%) and took 1 min 0 s. On 20 test photos, it does not differ "
        "significantly from y or z (McNemar's exact test with Holm's correction, smallest p = 1). "
        "All models learned from the 40 photos of train and val."
    )


def test_no_model_is_recommended_that_guessing_may_equal(tmp_path: Path) -> None:
    features = fake_features(["a", "b"])
    found = compare(features, [save(tmp_path, features, name, range(6)) for name in ("x", "y")])
    assert found.verdict == (
        "No model can be recommended yet. The best is x, with an accuracy of 70.0% (95% interval "
        "48.1% to 85.5%). On 20 test photos, that cannot be told apart from the 50.0% of always "
        "predicting the most frequent class. All models learned from the 40 photos of train and "
        "val."
    )


def test_one_win_in_many_comparisons_is_not_called_significant(tmp_path: Path) -> None:
    features = fake_features(["a", "b"])
    folders = [save(tmp_path, features, "x", [])]
    folders += [save(tmp_path, features, f"y{i}", range(6)) for i in range(4)]
    found = compare(features, folders)
    assert all(test.p < 0.05 < test.p_holm for test in found.paired_tests if test.first == "x")
    assert found.verdict.startswith("No model is clearly the best")


def test_a_single_model_is_not_tested(tmp_path: Path) -> None:
    features = fake_features(["a", "b"])
    assert compare(features, [save(tmp_path, features, "svm", [0, 1, 2])]).verdict == (
        "The only model is svm. It has an accuracy of 85.0% (95% interval 64.0% to 94.8%) and took "
        "1 min 4 s. It learned from the 40 photos of train and val."
    )
