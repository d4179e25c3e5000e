"""A file that cannot be read at this moment is not damaged."""

import errno
import fcntl
import os
from pathlib import Path

import h5py
import pytest

from extract.system import availability
from extract.system.availability import Unavailable


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ESTALE, "Stale file handle"),
        MemoryError(),
        # HDF5 puts the system's answer into texts of many types.
        KeyError("Unable to open object (file read failed: errno = 5, error message = 'I/O')"),
        OSError("Can't read data (memory allocation failed for raw data chunk)"),
    ],
)
def test_an_error_of_the_moment_names_the_file_and_what_to_do(error: Exception) -> None:
    words = r"^a\.h5: it cannot be read now \(.*\); .* command again"
    with pytest.raises(Unavailable, match=words), availability.expected("a.h5"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        OSError("Unable to open file (file signature not found)"),
        FileNotFoundError(errno.ENOENT, "No such file"),
        IsADirectoryError(errno.EISDIR, "Is a directory"),
        ValueError("its taps do not fit its digests"),
    ],
)
def test_wrong_content_passes(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, availability.expected("a.h5"):
        raise error
    assert caught.value is error


def test_the_lock_of_another_program_is_an_error_of_the_moment(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    h5py.File(path, "w").close()
    with open(path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        words = "another program has opened it to write"
        with pytest.raises(Unavailable, match=words), availability.expected(path):
            h5py.File(path, "r")
    assert os.listdir(tmp_path) == ["a.h5"]
