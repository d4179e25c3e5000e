import os
from pathlib import Path

import pytest

from extract.system import atomic


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


def test_an_empty_file_is_written_like_any_other(tmp_path: Path) -> None:
    atomic.write_bytes(tmp_path / "empty", b"")
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_sweep_removes_what_a_killed_run_left_and_nothing_that_is_being_written(
    tmp_path: Path,
) -> None:
    (tmp_path / ".left.h5.0123.tmp").write_bytes(b"half")
    with atomic.replacing(tmp_path / "new.h5") as temporary:
        temporary.write_bytes(b"whole")
        atomic.sweep(tmp_path)
        assert os.listdir(tmp_path) == [temporary.name]
    assert os.listdir(tmp_path) == ["new.h5"]
    assert (tmp_path / "new.h5").read_bytes() == b"whole"
