"""Write files whole or not at all: a temporary name in the same folder, fsync, rename."""

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNWRITTEN = 0
"""The time of a temporary file that nobody has written to. Even writing nothing changes it."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the block a temporary path to write; move it to `path` only when the block ends well.

    Yields
    ------
    temporary : Path
        A name beside `path`, removed if the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A process number is not unique: a machine that shares the folder may have the same one.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with in_use(temporary):
            yield temporary
        if temporary.stat().st_mtime_ns == UNWRITTEN:
            raise FileNotFoundError(errno.ENOENT, "nothing was written", str(path))
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        # A failed write names no file or the temporary one, but the user knows only the real name.
        if error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def in_use(temporary: Path) -> Iterator[None]:
    """Create a temporary file that `sweep` leaves alone while the block runs."""
    # The system releases this lock when the process dies, so what a killed run left has none.
    with open(temporary, "xb") as file:
        # A file system without locks cannot hold a store either, but it can hold an export.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)
        os.utime(temporary, ns=(UNWRITTEN, UNWRITTEN))
        yield


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed runs; those that any process is writing stay."""
    for path in folder.glob(".*.tmp"):
        # Another process may have finished or removed it meanwhile, or it may not be ours.
        with suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
