from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from extract.store import features_file
from finetune.photo_map import placement
from tests.synthetic import publish


def model(name: str, *, stage: str = "head", **chosen: Any) -> Any:
    """Return the parts of a `ModelRecord` that are read."""
    return SimpleNamespace(name=name, result=SimpleNamespace(stage=stage, hyperparameters=chosen))


def test_photos_of_a_class_lie_together_and_in_the_same_places_each_time(tmp_path: Path) -> None:
    path = publish(tmp_path, per_class=(8, 2, 2), informative=("block4_avg",), signal=9.0)
    models = [
        model("finetuned", stage="network"),
        model("svm", taps=["block4_avg"], root=True),
        model("logistic", taps=["block5_avg"]),
    ]
    with features_file.open(path) as features:
        found, again = (placement.place(features, models, first=[]) for _ in range(2))
    assert found is not None
    assert again is not None
    assert (found.head, found.taps) == ("svm", ["block4_avg"])
    assert found.rows.tolist() == list(range(36))
    assert [(axis.min(), axis.max()) for axis in (found.x, found.y)] == [(0, 1), (0, 1)]
    places = np.column_stack([found.x, found.y])
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(distances, np.inf)
    same = features.labels[distances.argmin(axis=1)] == features.labels
    assert same.mean() > 0.9
    assert places.tolist() == np.column_stack([again.x, again.y]).tolist()


@pytest.mark.parametrize("per_class", [(1, 1, 1), (1, 0, 1)])
def test_a_few_photos_that_are_all_alike_are_placed_or_not(
    tmp_path: Path, per_class: tuple[int, int, int]
) -> None:
    path = publish(tmp_path, per_class=per_class, classes=2)
    with features_file.open(path) as features:
        features.read_rows = lambda taps, rows: np.ones((len(rows), 512), np.float32)  # type: ignore[method-assign]
        # Without a head, the tap is the one by which similar photos are found elsewhere.
        found = placement.place(features, [model("baseline", stage="network")], first=[])
    if sum(per_class) == 2:
        assert found is None
        return
    assert found is not None
    assert (found.head, found.taps) == ("", ["block5_avg"])
    assert np.isfinite([found.x, found.y]).all()


def test_a_sample_has_what_comes_first_and_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "MOST_PHOTOS", 20)
    assert placement.sample(20, first=[3]).tolist() == list(range(20))
    some = placement.sample(1000, first=[3, 500, 999])
    assert {3, 500, 999} <= set(some.tolist())
    many = placement.sample(1000, first=range(900))
    for rows in (some, many):
        assert len(set(rows.tolist())) == 20
        assert rows.tolist() == sorted(rows)
    assert set(placement.sample(10_000, first=range(30))) - set(range(30))
    assert len(set(placement.sample(10_000, first=range(30))) & set(range(30))) == 10
