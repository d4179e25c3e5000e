"""Models that learned from different photos are compared as fitted to the same ones."""

from pathlib import Path

from finetune.compare.comparison import compare
from finetune.compare.significance import mcnemar
from finetune.report import tables
from tests.synthetic_results import fake_features, save


def test_a_head_is_compared_with_a_network_as_fitted_to_train_alone(tmp_path: Path) -> None:
    features = fake_features(["a", "b"])
    folders = [
        save(tmp_path, features, "svm", [0], wrong_on_train=range(6)),
        save(tmp_path, features, "finetuned", [0, 1, 2], stage="network"),
    ]
    found = compare(features, folders)
    assert [model.name for model in found.models] == ["finetuned", "svm"]
    (test,) = found.paired_tests
    assert (test.only_first_correct, test.only_second_correct) == (3, 0)
    assert test.p == mcnemar(3, 0)
    assert test.same_photos
    svm = found.models[1]
    assert (svm.accuracy, svm.compared_accuracy) == (0.95, 0.7)
    assert found.verdict.endswith(
        "finetuned learned from the 20 photos of train; svm learned from the 40 photos of train "
        "and val. To be ranked and tested against the others, models of train and val were fitted "
        "to train alone too (svm 70.0%)."
    )
    shown = tables.metrics(found)
    assert [cell.text for cell in shown["Learned from"]] == ["train", "train + val"]
    assert [cell.text for cell in shown["From train alone"]] == ["85.0%", "70.0%"]


def test_heads_alone_are_compared_as_they_were_saved(tmp_path: Path) -> None:
    features = fake_features(["a", "b"])
    folders = [
        save(tmp_path, features, "svm", [0], wrong_on_train=range(6)),
        save(tmp_path, features, "mlp", [0, 1], wrong_on_train=[]),
    ]
    found = compare(features, folders)
    assert [model.name for model in found.models] == ["svm", "mlp"]
    assert found.verdict.endswith("All models learned from the 40 photos of train and val.")
    assert "Learned from" not in tables.metrics(found)


def test_a_head_of_an_earlier_version_is_not_compared_without_saying_so(tmp_path: Path) -> None:
    features = fake_features(["a", "b"])
    folders = [
        save(tmp_path, features, "old", [0]),
        save(tmp_path, features, "svm", [0, 1], wrong_on_train=[0, 1, 2]),
        save(tmp_path, features, "finetuned", [0, 1, 2, 3], stage="network"),
    ]
    found = compare(features, folders)
    same = {(test.first, test.second): test.same_photos for test in found.paired_tests}
    assert same == {("old", "svm"): False, ("old", "finetuned"): False, ("svm", "finetuned"): True}
    assert found.verdict.endswith(
        "old could not be compared as fitted to the same photos, so the extra photos may explain "
        "a difference; run `make heads` again."
    )
    shown = tables.paired_tests(found)["Same training photos"]
    assert [cell.text for cell in shown] == ["no", "no", "yes"]
