from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from classify import cross_validation
from extract.store import features_file
from extract.vgg16.recipe import TAPS
from finetune.compare import suspects
from finetune.compare.suspects import confident_learning
from tests.synthetic import publish


def head(name: str, *, stage: str = "head", tried: Any = ()) -> Any:
    """Return the parts of a `ModelRecord` that are read."""
    chosen = next(iter(tried), {})
    result = SimpleNamespace(stage=stage, hyperparameters=chosen, tried=list(tried), seed=0)
    return SimpleNamespace(name=name, result=result)


def candidate(taps: int, loss: float, **values: float) -> dict[str, Any]:
    return {"taps": list(TAPS)[:taps], "root": True, "log_loss": loss, **(values or {"alpha": 0.3})}


def test_confident_learning_by_hand() -> None:
    probabilities = np.array(
        [
            [0.9, 0.1, 0.0],
            [0.7, 0.3, 0.0],  # The mean of class 0 is 0.6.
            [0.2, 0.8, 0.0],  # Labelled 0, and above the mean 0.65 of class 1.
            [0.4, 0.6, 0.0],
            [0.3, 0.7, 0.0],
            [0.0, 0.3, 0.7],  # Labelled 2, and as sure as class 2 is.
        ],
        np.float32,
    )
    (one,) = confident_learning(probabilities, np.array([0, 0, 0, 1, 1, 2]))
    assert one[:3] == (2, 0, 1)
    assert (one.label_probability, one.probability) == pytest.approx((0.2, 0.8))


def test_the_least_plausible_label_comes_first() -> None:
    probabilities = np.array(
        [[0.9, 0.1], [0.9, 0.1], [0.35, 0.65], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]],
        np.float32,
    )
    found = confident_learning(probabilities, np.array([0, 0, 0, 0, 1, 1, 0]))
    assert [one.row for one in found] == [3, 6]


def test_a_class_that_was_never_seen_is_neither_doubted_nor_predicted() -> None:
    # The only photo of class 2 was held out; the third reaches the mean of no other class.
    probabilities = np.array(
        [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.5, 0.3, 0.2], [0.9, 0.1, 0.0]], np.float32
    )
    assert confident_learning(probabilities, np.array([0, 1, 0, 2])) == []


@pytest.mark.parametrize("name", suspects.HEADS)
def test_labels_that_were_swapped_are_found(tmp_path: Path, name: str) -> None:
    path = publish(tmp_path, per_class=(30, 10, 4), signal=6.0)
    values = {"svm": {"alpha": 0.3}, "logistic": {"C": 100.0}}[name]
    with features_file.open(path) as features:
        wanted = features.rows("train", "val")
        swapped = wanted[[5, 45, 100]]
        features.labels[swapped] = (features.labels[swapped] + 1) % 3
        found = suspects.check_labels(features, [head(name, tried=[candidate(1, 0.1, **values)])])
        assert found is not None
        assert (found.head, found.photos) == (name, 120)
        assert {one.row for one in found.suspects} == set(swapped.tolist())
        for one in found.suspects:
            assert (one.label - one.predicted) % 3 == 1
            assert one.label_probability < one.probability


def test_the_chosen_candidate_or_the_best_that_is_small_enough_checks_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, list[str]]] = []

    def out_of_fold(name: str, chosen: Any, data: Any, *given: Any, **more: Any) -> Any:
        asked.append((len(data.X), chosen["taps"]))
        return np.eye(3, dtype=np.float32)[data.labels]

    monkeypatch.setattr(cross_validation, "out_of_fold", out_of_fold)
    tried = [candidate(6, 0.4), candidate(1, 0.3), candidate(2, 0.2), candidate(7, 0.1), {"C": 1}]
    tried.append(candidate(1, 0.0) | {"taps": ["block6_avg"]})
    with features_file.open(publish(tmp_path, per_class=(12, 4, 4))) as features:
        for values in (2**24, 48 * 5120, 48 * 512, 24 * 512):
            monkeypatch.setattr(suspects, "MAX_MATRIX_VALUES", values)
            found = suspects.check_labels(features, [head("mlp"), head("svm", tried=tried)])
            assert found is not None
            # Each half is asked about after all of them.
            assert found.photos == asked[-3][0] == asked[-2][0] + asked[-1][0]
    taps = [list(TAPS)[:n] for n in (6, 2, 1, 1)]
    assert asked[::3] == list(zip([48, 48, 48, 24], taps, strict=True))


def test_without_a_suitable_head_labels_are_not_checked(tmp_path: Path) -> None:
    with features_file.open(publish(tmp_path)) as features:
        for models in (
            [],
            [head("mlp", tried=[candidate(1, 0.1)])],
            [head("svm", stage="network")],
            [head("svm", tried=[{"C": 1.0}])],
        ):
            assert suspects.check_labels(features, models) is None


def test_every_photo_is_judged_by_a_head_of_half_as_many_photos_too(tmp_path: Path) -> None:
    path = publish(tmp_path, per_class=(20, 6, 4), signal=1.0)
    seen: list[int] = []
    whole = cross_validation.out_of_fold

    def counted(name: str, chosen: Any, data: Any, units: Any, *, seed: int) -> Any:
        seen.append(len(units))
        assert np.bincount(data.labels).tolist() == [len(units) // 3] * 3
        return whole(name, chosen, data, units, seed=seed)

    with (
        features_file.open(path) as features,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(cross_validation, "out_of_fold", counted)
        found = suspects.check_labels(features, [head("svm", tried=[candidate(1, 0.1)])])
        assert found is not None
        assert found.held_out is not None
        assert found.held_out.rows.tolist() == features.rows("train", "val").tolist()
    assert seen == [78, 39, 39]
    labels = features.labels[found.held_out.rows]
    full = (found.held_out.probabilities.argmax(axis=1) == labels).mean()
    assert found.held_out.after_half is not None
    half = (found.held_out.after_half == labels).mean()
    assert 0.4 < half < full
