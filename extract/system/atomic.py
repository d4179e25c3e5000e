"""Write files whole or not at all: a temporary name in the same folder, fsync, rename.

`replacing` does so with one file, `replacing_files` with several that belong together. A process
that is killed leaves files with temporary names, which `sweep` removes.
"""

import errno
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from extract.system.console import InputError

if sys.platform != "win32":
    import fcntl

COMMITTED = ".new"
"""Folder with files that were all written and wait to be moved into the folder that it lies in."""

LAST = "result.json"
"""A file that is moved after all others, for programs that take its presence for completeness."""

PAUSES = (0.05, 0.2, 1.0)
"""Seconds to wait on Windows for whoever has opened a file that is to be replaced."""

TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp|\..+\.[0-9a-f]{16}\.tmp")
"""The names of temporary files, now and in earlier versions."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the block a temporary path to write; move it to `path` only when the block ends well.

    Yields
    ------
    new : Path
        A name beside `path`, removed if the block raises.
    """
    with writing(path.parent), _named_for(path, temporary(path)) as new:
        yield new
        _sync(new)
        _patiently(os.replace, new, path)
        sync_folder(path.parent)


@contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """Give the block a folder to write files to; they replace those of `folder` all together.

    All files are flushed to disk, then a single rename makes them valid (`COMMITTED`), and only
    then they are moved to their places. A kill before that rename leaves the earlier files; after
    it, `finish` moves the rest. Other files in `folder` stay.

    Yields
    ------
    new : Path
        An empty folder in `folder`, removed if the block raises.
    """
    sweep(folder)
    with writing(folder), _named_for(folder, temporary(folder / "files")) as new:
        new.mkdir()
        yield new
        for path in new.iterdir():
            _sync(path)
        sync_folder(new)
        _commit(new, folder)
        finish(folder)


def finish(folder: Path) -> None:
    """Move files to their places that a killed process wrote completely but did not move.

    Whoever reads several files of a folder calls this first. Several processes may do so at once.
    """
    committed = folder / COMMITTED
    try:
        names = os.listdir(committed)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in sorted(names, key=lambda name: (name == LAST, name)):
        # Another process may have moved it.
        with suppress(FileNotFoundError):
            _patiently(os.replace, committed / name, folder / name)
    # There may be files in it again, of a later write.
    with suppress(OSError):
        committed.rmdir()
    sync_folder(folder)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as new:
        new.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut.

    Windows cannot open a folder; its file system keeps a journal of renames.
    """
    if sys.platform == "win32":
        return
    with _opened(folder) as descriptor:
        os.fsync(descriptor)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder, unless another process is writing to it."""
    with suppress(OSError), _opened(folder) as descriptor:
        _lock(descriptor, shared=False)
        for path in folder.iterdir():
            if TEMPORARY.fullmatch(path.name):
                _remove(path)


def _patiently(move: Callable[[Path, Path], None], path: Path, place: Path) -> None:
    """Rename a file or folder. On Windows, a virus scanner may have it open for a moment."""
    for seconds in PAUSES if sys.platform == "win32" else ():
        try:
            move(path, place)
        except PermissionError:
            time.sleep(seconds)
        else:
            return
    move(path, place)


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _commit(new: Path, folder: Path) -> None:
    """Rename the new folder to `COMMITTED`, after what another process committed."""
    while True:
        finish(folder)
        try:
            _patiently(os.rename, new, folder / COMMITTED)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            sync_folder(folder)
            return


def temporary(path: Path) -> Path:
    """Return a name beside `path` that `sweep` knows."""
    # A process number is not unique: a machine that shares the folder may have the same one. With
    # the name of `path` in it, it could be longer than a file system allows.
    return path.with_name(f".{secrets.token_hex(16)}.tmp")


@contextmanager
def _named_for(path: Path, new: Path) -> Iterator[Path]:
    """Remove `new` at the end. An error in it names `path`, which the user knows."""
    try:
        yield new
    except OSError as error:
        # A failed write names no file.
        failed = Path(str(error.filename or new))
        if failed.is_relative_to(new):
            error.filename = str(path / failed.relative_to(new))
        raise
    finally:
        _remove(new)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Keep `sweep` away from a folder while the block writes to it.

    The operating system releases the lock when the process dies. On Windows, and on a network disk
    without such locks, nothing is ever swept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        # It has no locks of folders.
        yield
        return
    with _opened(folder) as descriptor:
        with suppress(OSError):
            _lock(descriptor, shared=True)
        yield


def _lock(folder: int, *, shared: bool) -> None:
    """Lock an open folder, or raise OSError if the others do not allow it now."""
    if sys.platform != "win32":
        fcntl.flock(folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make_writable(folder: Path, option: str) -> None:
    """Create a folder if it is missing, before hours of work whose results it shall have.

    Raises
    ------
    InputError
        If nothing can be written there; the message names the option that chooses another folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        problem = f"cannot be created ({error.strerror})"
        raise InputError(f"{folder}: {problem}; choose another folder with {option}") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: no permission to write; choose another folder with {option}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
