import os
from pathlib import Path

import pytest

from extract.system import atomic
from tests.failing_writes import every_full_disk


def test_content_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old and much longer")
    atomic.write_text(path, "neü\n")
    assert path.read_bytes() == "neü\n".encode()
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old and much longer")
    with open(path) as reader:
        atomic.write_text(path, "new")
        assert reader.read() == "old and much longer"
    assert path.read_text() == "new"


def test_a_file_may_have_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    atomic.write_text(path, "new")
    assert path.read_text() == "new"


def test_folder_is_created(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    atomic.write_bytes(path, b"\0\1")
    assert path.read_bytes() == b"\0\1"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_exception_in_the_block_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with atomic.replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_nothing_shows_under_the_name_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with atomic.replacing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert not list(tmp_path.glob("*.h5")), "a reader that lists the folder would take it"
    assert path.read_text() == "half"


def test_failed_rename_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "in the way"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        atomic.write_text(path, "new")
    assert os.listdir(tmp_path) == ["in the way"]


def test_block_that_writes_nothing_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic.replacing(path):
        pass
    assert path.read_text() == "old"


def test_a_full_disk_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    found = []
    for error in every_full_disk(lambda: atomic.write_text(path, "new")):
        assert error.filename == str(path)
        assert os.listdir(tmp_path) == ["file.txt"]
        found.append(path.read_text())
    assert found == sorted(found, reverse=True)
    assert set(found) == {"old", "new"}


def write_two(folder: Path, text: str) -> None:
    with atomic.replacing_files(folder) as new:
        for name in ("a", "b"):
            (new / name).write_text(text)


def test_files_are_replaced_together_and_others_stay(tmp_path: Path) -> None:
    write_two(tmp_path, "old")
    (tmp_path / "mine").write_text("mine")

    def write_half() -> None:
        with atomic.replacing_files(tmp_path) as new:
            (new / "a").write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write_half()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a": "old",
        "b": "old",
        "mine": "mine",
    }
    write_two(tmp_path, "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a": "new",
        "b": "new",
        "mine": "mine",
    }


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".files.0123456789abcdef.tmp").mkdir()
    (tmp_path / ".files.0123456789abcdef.tmp/a").write_text("half")
    (tmp_path / ".training.h5.0123456789abcdef.tmp").write_text("half")
    foreign = {".lock", ".0123456789abcdef.tmp", "notes.tmp", ".notes.tmp"}
    for name in foreign:
        (tmp_path / name).touch()
    write_two(tmp_path, "new")
    assert set(os.listdir(tmp_path)) == {"a", "b", *foreign}


def test_what_another_process_is_writing_is_not_removed(tmp_path: Path) -> None:
    with atomic.replacing(tmp_path / "file.txt") as temporary:
        temporary.write_text("slow")
        write_two(tmp_path, "new")
    assert (tmp_path / "file.txt").read_text() == "slow"


def test_two_writers_at_once_leave_the_files_of_one(tmp_path: Path) -> None:
    with atomic.replacing_files(tmp_path) as slow:
        for name in ("a", "b"):
            (slow / name).write_text("slow")
        write_two(tmp_path, "fast")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a": "slow",
        "b": "slow",
    }


def test_an_empty_file_is_written_like_any_other(tmp_path: Path) -> None:
    atomic.write_bytes(tmp_path / "empty", b"")
    assert (tmp_path / "empty").read_bytes() == b""
