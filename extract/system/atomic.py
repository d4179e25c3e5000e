"""Write files whole or not at all: a temporary name in the same folder, fsync, rename."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from extract.system.console import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the block a temporary path to write; move it to `path` only when the block ends well.

    Yields
    ------
    temporary : Path
        A name beside `path`, removed if the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A process number is not unique: a machine that shares the folder may have the same one. With
    # the name of `path` in it, it could be longer than a file system allows.
    temporary = path.with_name(f".{secrets.token_hex(16)}.tmp")
    try:
        yield temporary
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
