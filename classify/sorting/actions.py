"""Link, copy or move one photo, and undo it. Nothing is ever overwritten.

A process may be killed at any point: what a row of the record says and what lies on the disk tell
together how far it came.
"""

import errno
import hashlib
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from classify.sorting.record import COPY, LINK, Row
from extract.system import atomic
from extract.system.console import InputError

NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""Errors of file systems that have no links, such as those of memory cards."""


NO_PRIVILEGE = 1314
"""Windows's own number of an error."""


def digest_of(path: Path, *, follow: bool = False) -> str:
    """Return the SHA-256 of a file, and an empty text if there is none, or a link not to follow."""
    if not path.is_file() or (path.is_symlink() and not follow):
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_of(row: Row, root: Path) -> Path:
    """Return where a photo comes from.

    Parameters
    ----------
    row : Row
    root : Path
        The folder of the record, without symbolic links.
    """
    return Path(os.path.normpath(root / row.source))


def is_done(row: Row, root: Path) -> bool:
    """Say whether a killed process did what a row says."""
    place = root / row.path
    if row.how == LINK:
        return _is_our_link(row, root)
    if digest_of(place) != row.digest:
        return False
    return row.how == COPY or not os.path.lexists(source_of(row, root))


def do(row: Row, root: Path) -> str:
    """Do what a row says, and return the reason if the photo is left where it is.

    Raises
    ------
    FileExistsError
        If another file has its place.
    OSError
        If it cannot be done; then nothing has changed.
    """
    place, source = root / row.path, source_of(row, root)
    if not source.exists():
        return "it is gone"
    if row.how == LINK:
        _link(row, root)
        return ""
    if row.how == COPY:
        return _copy(source, place, row.digest)
    # A process that was killed may have left it in both places.
    if not _are_one(place, source, row) and digest_of(place) == row.digest == digest_of(source):
        source.unlink()
        return ""
    return _move(source, place, row.digest)


def undo(row: Row, root: Path) -> str:
    """Undo what a row says, and return the reason if something is left as it is."""
    place = root / row.path
    if not os.path.lexists(place):
        return ""
    if row.how == LINK:
        if not _is_our_link(row, root):
            return "it is not the link that was made"
        place.unlink()
        return ""
    if digest_of(place) != row.digest:
        return "it has changed since"
    source = source_of(row, root)
    if _are_one(place, source, row):
        return f"it is the photo that {source} leads to"
    if digest_of(source, follow=row.how == COPY) == row.digest:
        place.unlink()
        return ""
    if row.how == COPY:
        return f"its original is gone or has changed, {source}"
    if os.path.lexists(source):
        return f"another file is where it came from, {source}"
    source.parent.mkdir(parents=True, exist_ok=True)
    return _move(place, source, row.digest)


def _are_one(place: Path, source: Path, row: Row) -> bool:
    """Say whether one entry of a folder has both names, so that its removal would lose the photo.

    A folder may have become a link since. A moved photo may be in both places as a hard link, which
    is no such case; the original of a copy is no hard link to it, unless someone made one.
    """
    with suppress(OSError):
        if os.path.samefile(place.parent, source.parent):
            return True
        return row.how == COPY and os.path.samefile(place, source)
    return False


def _target(row: Row) -> str:
    # It begins in the folder that the link lies in.
    return os.path.normpath(os.path.join("..", row.source))


def _is_our_link(row: Row, root: Path) -> bool:
    place = root / row.path
    return place.is_symlink() and os.readlink(place) == _target(row)


def _link(row: Row, root: Path) -> None:
    try:
        os.symlink(_target(row), root / row.path)
    except OSError as error:
        if getattr(error, "winerror", None) == NO_PRIVILEGE:
            raise InputError(
                f"{root}: Windows makes links in developer mode only; switch it on, or copy instead"
            ) from error
        if error.errno not in NO_LINKS:
            raise
        raise InputError(
            f"{root}: its disk has no links ({error.strerror}); copy instead"
        ) from error


def _copy(source: Path, place: Path, digest: str) -> str:
    new = atomic.temporary(place)
    try:
        shutil.copyfile(source, new)
        with open(new, "rb+") as file:
            os.fsync(file.fileno())
        if digest_of(new) != digest:
            return "it has changed in the meantime"
        # Not every file system keeps times and permissions.
        with suppress(OSError):
            shutil.copystat(source, new)
        _rename(new, place)
        atomic.sync_folder(place.parent)
    except OSError as error:
        # The user does not know the temporary name.
        if str(error.filename2) == str(new):
            error.filename2 = str(place)
        raise
    finally:
        new.unlink(missing_ok=True)
    return ""


def _move(source: Path, place: Path, digest: str) -> str:
    try:
        _rename(source, place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        if reason := _copy(source, place, digest):
            return reason
    try:
        source.unlink(missing_ok=True)
    except OSError:
        place.unlink()
        raise
    return ""


def _rename(path: Path, place: Path) -> None:
    """Give a file another name, but never that of another file; the old one may stay as well."""
    if sys.platform == "win32":
        # There it refuses a name that is in use.
        os.rename(path, place)
        return
    try:
        os.link(path, place)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(place):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place)) from error
        os.rename(path, place)
