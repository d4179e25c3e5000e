"""Names of class folders and of files: usable everywhere, distinct, and never leading elsewhere."""

import os
import sys
from pathlib import Path

import pytest

from classify.sorting import names, record
from extract.system import locations
from tests.conftest import HOSTILE

ODD = [
    *HOSTILE,
    *("..", ".", "", "/etc/passwd", "../up", "a/../../b", "a\\b", ".git", "~", "CON", "nul.txt"),
    *("com1", "COM¹", "con .txt", "conin$", "a. ", "a:b", "C:"),
    *("unsure", "Unsure", "none", record.NAME, "King", "king", "king ", "king.", "lost+found"),
    *("é" * 300, "é" * 299, "e\u0301", "\u00e9", "\udcff", "a\0b", " ", "-rf", "--to"),
]


def test_every_class_has_a_folder_of_its_own_inside_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = names.folders(ODD)
    assert [*found] == ODD
    assert len({names.key(name) for name in found.values()}) == len(ODD)
    for name in found.values():
        assert name.isprintable()
        assert name.strip(" .") == name
        assert not set(name) & set('/\\:*?"<>|')
        assert name[0] not in "=+-@"
        assert names.key(name) not in (names.UNSURE, names.NONE, record.NAME)
        (tmp_path / name).mkdir()
    assert {path.name for path in tmp_path.iterdir()} == {*found.values()}
    monkeypatch.setattr(sys, "platform", "win32")
    assert all(map(locations.is_name_here, found.values()))


def test_plain_names_stay_and_reserved_ones_say_that_they_are_classes() -> None:
    assert names.folders(["King", "BACKGROUND_Google", "日本", "unsure", "None"]) == {
        "King": "King",
        "BACKGROUND_Google": "BACKGROUND_Google",
        "日本": "日本",
        "unsure": "unsure (class)",
        "None": "None (class)",
    }


def test_names_that_are_in_use_get_a_number_and_stay_short_enough(tmp_path: Path) -> None:
    (tmp_path / "King").mkdir()
    (tmp_path / "King/A.JPG").touch()
    free = names.FreeNames(tmp_path)
    taken = [free.take("King", name) for name in ("a.jpg", "a.jpg", "a (2).jpg", "b.jpg")]
    assert taken == ["a (2).jpg", "a (3).jpg", "a (2) (2).jpg", "b.jpg"]
    long = "é" * 125 + ".jpeg"
    assert free.take("King", long) == long
    second = free.take("King", long)
    assert second.endswith(" (2).jpeg")
    assert len(os.fsencode(second)) <= 255
