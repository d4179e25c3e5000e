"""Answers: none is lost, none is half written, and a manifest reads them as they were given."""

import os
from pathlib import Path

import pytest

from classify.labeling import answers
from classify.labeling.answers import Line, NotSaved
from extract.photos import manifest
from extract.system.console import InputError
from tests.conftest import HOSTILE, write_photos

NAMES = ["a.png", *(f"{name}.png" for name in HOSTILE if "/" not in name), " b.png"]


@pytest.fixture
def photos(tmp_path: Path) -> list[Line]:
    """Photos of two classes in a folder beside that of the manifest."""
    root = write_photos(tmp_path / "pets", {"cats": 1})
    for name in NAMES:
        (root / name).write_bytes((root / "cats/000.png").read_bytes())
    return [
        Line(str(root / name), "cats" if i % 2 else "dogs", "train" if i else "test", f"g{i}")
        for i, name in enumerate(NAMES)
    ]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "labels/pets-labels.csv"


def labels(file: Path) -> dict[str, str]:
    return {
        os.path.basename(place): row.label if row.answer == "label" else row.answer
        for place, row in manifest.read(file).counts().items()
    }


def test_a_new_manifest_is_complete_and_answers_replace_labels(
    file: Path, photos: list[Line]
) -> None:
    with answers.opened(file, photos) as opened:
        before = file.read_bytes()
        opened.add([photos[0]._replace(label='new, "class"', answer="label")])
        opened.add([photos[1]._replace(label="", answer="none")])
        opened.add([photos[2]._replace(label="", answer="skip")])
        opened.add([photos[3]._replace(label="cows", answer="label")])
        opened.add([Line(photos[3].place, answer="undo")])
    assert file.read_bytes().startswith(before)
    found = labels(file)
    assert [found[name] for name in NAMES[:5]] == ['new, "class"', "none", "dogs", "cats", "dogs"]
    read = manifest.read(file)
    assert [row.answer for row in read.answers()] == ["label", "none", "skip"]
    assert all(row.time for row in read.answers())
    first = read.counts()[photos[0].place]
    assert (first.split, first.group) == ("test", "g0")
    assert {photo.path.split("/")[-1] for photo in manifest.labelled_photos(file).photos} == {
        name for name in NAMES if name != NAMES[1]
    }


def test_a_manifest_is_completed_and_continued_as_it_is(tmp_path: Path, photos: list[Line]) -> None:
    file = tmp_path / "own.csv"
    file.write_text("Answer;LABEL;time;path\n;cats;;pets/a.png")
    with answers.opened(file, photos) as opened:
        opened.add([photos[0]._replace(label="do;gs", answer="label")])
    assert file.read_text().startswith("Answer;LABEL;time;path\n;cats;;pets/a.png\n")
    assert labels(file)["a.png"] == "do;gs"
    assert len(labels(file)) == len(photos)


def test_a_row_that_was_cut_short_anywhere_is_removed(file: Path, photos: list[Line]) -> None:
    with answers.opened(file, photos[:2]):
        whole = file.read_bytes()
    strange = photos[NAMES.index("line\nbreak.png")]
    with answers.opened(file, photos[:2]) as opened:
        opened.add([strange._replace(label="Köpfe", answer="label")])
    row = file.read_bytes()[len(whole) :]
    for cut in range(len(row)):
        file.write_bytes(whole + row[:cut])
        with answers.opened(file, photos[:2]) as opened:
            # All that is lost with the end of the line is the end of the line.
            assert file.read_bytes() == whole + (row if cut == len(row) - 1 else b""), cut
            opened.add([photos[0]._replace(label="cows", answer="label")])
        assert labels(file)["a.png"] == "cows"


def test_a_file_that_a_person_left_open_is_not_cut(tmp_path: Path, photos: list[Line]) -> None:
    file = tmp_path / "own.csv"
    text = 'path,label,answer,time\n"pets/a.png,cats,,\npets/a.png,cats,,\npets/a.png,cats,,'
    file.write_text(text)
    with pytest.raises(InputError, match="line 2 is not CSV"), answers.opened(file, photos):
        pass
    assert file.read_text().rstrip("\n") == text


def test_an_answer_that_cannot_be_written_leaves_the_file_as_it_was(
    file: Path, photos: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    with answers.opened(file, photos) as opened:
        before = file.read_bytes()
        write = os.write

        def full(descriptor: int, data: bytes) -> int:
            if len(data) > 10:
                return write(descriptor, data[:10])
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(NotSaved, match="No space left") as error:
                opened.add([photos[0]._replace(label="cows", answer="label")])
        assert error.value.is_full
        assert file.read_bytes() == before
        opened.add([photos[0]._replace(label="cows", answer="label")])
        assert labels(file)["a.png"] == "cows"
        file.rename(file.with_suffix(".old"))
        with pytest.raises(NotSaved):
            opened.add([photos[0]])


def test_one_process_writes_at_a_time(file: Path, photos: list[Line]) -> None:
    with (
        answers.opened(file, photos),
        pytest.raises(InputError, match=r"labels\.csv\.lock: held by process \d+.*end it first"),
        answers.opened(file, photos),
    ):
        pass


def test_a_manifest_without_the_columns_of_answers_is_not_touched(
    tmp_path: Path, photos: list[Line]
) -> None:
    file = tmp_path / "own.csv"
    for data in (b"path,label\n", "path,label,answer,time\n".encode("utf-16")):
        file.write_bytes(data)
        with (
            pytest.raises(InputError, match="choose another file with --to"),
            answers.opened(file, photos),
        ):
            pass
        assert file.read_bytes() == data
