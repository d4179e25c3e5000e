from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.compare.suspects import HeldOut, LabelCheck, Suspect
from finetune.photo_map import placement
from finetune.photo_map.view import photo_map
from tests.synthetic_results import comparison, fake_features


def checked(runs: Path, features: Any) -> Any:
    """Compare two models, of which svm gets the test photo in row 1 wrong, and check row 0."""
    held_out = HeldOut(
        np.array([0, 2]), np.array([[0.25, 0.75], [0.9996, 0.0004]], np.float32), np.array([0, 0])
    )
    found = comparison(runs, features, svm=[0], mlp=[0, 1])
    return replace(
        found, label_check=LabelCheck("svm", 2, [Suspect(0, 0, 1, 0.25, 0.75)], held_out)
    )


def nothing(row: int, side: int) -> None:
    return None


def test_a_spot_has_what_is_known_of_its_photo(tmp_path: Path) -> None:
    features = fake_features(["a", "b"], test=4, near=[(1, 3, 0.99)], taps={"block5_avg": 2})
    made = photo_map(checked(tmp_path, features), nothing)
    assert made is not None
    spots = {spot.row: spot for spot in made.spots}
    assert sorted(spots) == list(range(12))
    assert (spots[0].split, spots[0].label, spots[0].marks) == ("train", 0, ("suspect",))
    assert spots[0].answers == "b 75.0%, a 25.0%"
    assert spots[1].marks == ("mistake", "copy")
    assert spots[1].answers == "b 90.0%, a 10.0%"
    assert spots[2].answers == "a 100.0%"
    assert (spots[3].marks, spots[3].answers) == (("copy",), "")
    assert {mark: one.photos for mark, one in made.marks.items()} == {
        "mistake": 1,
        "suspect": 1,
        "copy": 2,
    }
    assert made.splits == {"train": 4, "val": 4, "test": 4}
    assert (made.marked, made.all_marked) == (3, 3)
    # The name of a class stands on one of its photos.
    for label, one in enumerate(made.classes):
        assert one.place in [spot.place for spot in made.spots if spot.label == label]


def test_marks_come_first_in_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "MOST_PHOTOS", 8)
    features = fake_features(["a", "b"], test=40, near=[(118, 119, 0.99)], taps={"block5_avg": 2})
    made = photo_map(checked(tmp_path, features), nothing)
    assert made is not None
    assert len(made.spots) == 8
    assert {0, 1, 118, 119} <= {spot.row for spot in made.spots}


def test_twenty_eight_classes_look_different(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(28)]
    features = fake_features(names, test=28, taps={"block5_avg": 28})
    made = photo_map(comparison(tmp_path, features, svm=[0]), nothing)
    assert made is not None
    assert len({one.look for one in made.classes}) == 28


def test_features_without_the_taps_have_no_map(tmp_path: Path) -> None:
    assert photo_map(comparison(tmp_path, fake_features(["a", "b"]), svm=[0]), nothing) is None
