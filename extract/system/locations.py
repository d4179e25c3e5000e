"""Places behind a URL, ``s3://bucket/photos`` or whatever fsspec knows: list, read, write, move.

A place is a `Path` of this machine or a `UPath`; both are joined and shown alike, so that most code
need not ask which it has. What does differ is here: one listing instead of a walk, whole objects
instead of open files, and what can go wrong. fsspec is imported when there is a URL, not before.
"""

import errno
import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union
from urllib.parse import urlsplit

from extract.system import atomic
from extract.system.console import InputError

if TYPE_CHECKING:
    from upath import UPath

Location = Union[Path, "UPath"]

DISK_READERS = 2
"""Threads that read from a disk; they decode too."""

READERS = 16
"""Threads that read: each waits for the store most of its time, however few cores there are."""

URL = re.compile(r"[a-z][a-z0-9+.-]*://[^/]")
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}
OPTIONS: dict[str, dict[str, Any]] = {
    # To read one object over several connections its size is asked for first: two requests a photo.
    "s3": {"max_concurrency": 1, "config_kwargs": {"max_pool_connections": READERS}}
}
OF_ONE_OBJECT = (None, "NoSuchKey", "404", "AccessDenied", "403", "InvalidObjectState")
"""Codes of S3 for what may be amiss with one object alone; other stores give none."""

Stamp = list[int]


class NotWritten(InputError, OSError):
    """A store did not take an object. As with a full disk, the next write would fail as well."""


class Entry(NamedTuple):
    """What lies in a folder of a store; has the methods of `os.DirEntry` that are used."""

    name: str
    folder: bool

    def is_dir(self) -> bool:
        """Say whether it is a folder."""
        return self.folder

    def is_file(self) -> bool:
        """Say whether it is an object."""
        return not self.folder


class Listing(NamedTuple):
    """What lies below a place; paths are relative to it, its own is empty.

    Attributes
    ----------
    folders : dict of path to list of Entry
    stamps : dict of path to list of int
        For every object, numbers that change when it changes. They are empty where the store has
        none. `extract.photos.hashes` uses them.
    """

    folders: dict[str, list[Entry]]
    stamps: dict[str, Stamp]


def is_url(text: str) -> bool:
    """Say whether `text` names a place in a store, and no path of this machine."""
    return URL.match(text) is not None


def location(text: str) -> Location:
    """Return the place that a path or a URL names.

    Raises
    ------
    InputError
        If what reads URLs of this kind is not installed, nobody knows the kind, or it tells a
        password.
    """
    if not is_url(text):
        return Path(text)
    protocol = text.split(":")[0]
    if urlsplit(text).password:
        raise InputError(f"{protocol}://: a password in a URL would be stored; leave it out")
    try:
        from upath import UPath

        place: UPath = UPath(text.rstrip("/"), **OPTIONS.get(protocol, {}))
        assert place.fs is not None  # made here, where its package may be missing
    except ImportError as error:
        needed = f"pip install universal_pathlib {PACKAGES.get(protocol, '')}".strip()
        raise InputError(f"{text}: {error}; {needed}") from error
    except ValueError as error:
        raise InputError(f"{text}: {error}; give a path, or a URL as s3://bucket/folder") from error
    return place


def read_bytes(place: Location, path: str = "") -> bytes:
    """Read a whole file: the place, or what has this path below it.

    Raises
    ------
    OSError
        If this file cannot be read.
    InputError
        If its store cannot be reached, or lets nobody in.
    """
    if isinstance(place, Path):
        return (place / path).read_bytes()
    try:
        data: bytes = place.fs.cat_file(_key(place, path))
    except Exception as error:
        if not _of_one_object(error):
            raise _unusable(place, error) from error
        number = errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EACCES
        raise OSError(number, os.strerror(number), f"{place}/{path}") from error
    return data


def read_heads(folder: "UPath", names: Sequence[str], size: int) -> dict[str, bytes]:
    """Read the first `size` bytes of many objects at once, by name; those gone are left out.

    Raises
    ------
    InputError
        If the store cannot be reached, or lets nobody in.
    """
    keys = [_key(folder, name) for name in names]
    heads = folder.fs.cat_ranges(keys, 0, size, on_error="return")
    for head in heads:
        if isinstance(head, Exception) and not _of_one_object(head):
            raise _unusable(folder, head) from head
    found = zip(names, heads, strict=True)
    return {name: head for name, head in found if isinstance(head, bytes)}


def write_bytes(file: Location, data: bytes) -> None:
    """Write a file whole or not at all: for an object store that is one request, without a rename.

    Raises
    ------
    OSError
        If it cannot be written.
    NotWritten
        If a store does not take it.
    """
    if isinstance(file, Path):
        atomic.write_bytes(file, data)
        return
    try:
        file.fs.pipe_file(file.path, data)
    except Exception as error:
        raise NotWritten(str(_unusable(file, error))) from error


def move(file: Location, name: str) -> None:
    """Give a file another name, which a store does by copying; it may be gone already.

    Raises
    ------
    InputError
        If the store does not allow it.
    """
    if isinstance(file, Path):
        with suppress(FileNotFoundError):
            file.rename(file.with_name(name))
        return
    try:
        file.fs.cp_file(file.path, file.with_name(name).path)
        file.fs.rm_file(file.path)
    except FileNotFoundError:
        pass
    except Exception as error:
        raise _unusable(file, error) from error


def folders(place: Location) -> list[str]:
    """Return the names of the folders in a place.

    Raises
    ------
    InputError
        If there is no such place, or its store cannot be reached.
    """
    if isinstance(place, Path):
        return [entry.name for entry in place.iterdir() if entry.is_dir()]
    try:
        place.fs.invalidate_cache()
        found = place.fs.ls(place.path, detail=True)
    except Exception as error:
        raise _unusable(place, error) from error
    names = (info["name"] for info in found if info["type"] == "directory")
    return [name.rstrip("/").rpartition("/")[2] for name in names]


def sizes(folder: "UPath") -> dict[str, int]:
    """Return the size in bytes of every object in a folder, by name; none if it is not there.

    Raises
    ------
    InputError
        If the store cannot be reached, or lets nobody in.
    """
    found = _find(folder).items()
    return {
        path: info["size"]
        for path, info in found
        if "/" not in path and info["type"] != "directory"
    }


def listing(root: "UPath") -> Listing:
    """List everything below a place with as few requests as its store allows.

    What no disk could hold, a name that is empty or ``..``, is an entry of the place itself; of an
    object and a folder of one name the folder counts.

    Raises
    ------
    InputError
        If the store cannot be reached, or lets nobody in.
    """
    found = Listing({"": []}, {})
    for path, info in _find(root).items():
        folder = info["type"] == "directory" or path.endswith("/")
        if {"", ".", ".."} & set(path.rstrip("/").split("/")):
            if not folder:
                found.folders[""].append(Entry(path, folder=False))
        elif folder:
            _add_folder(found, path.rstrip("/"))
        else:
            above, _, name = path.rpartition("/")
            _add_folder(found, above)
            found.folders[above].append(Entry(name, folder=False))
            found.stamps[path] = _stamp(info)
    return found


def _add_folder(found: Listing, path: str) -> None:
    if path not in found.folders:
        above, _, name = path.rpartition("/")
        _add_folder(found, above)
        found.folders[above].append(Entry(name, folder=True))
        found.folders[path] = []


def _find(place: "UPath") -> dict[str, dict[str, Any]]:
    """Return what fsspec tells of all objects below a place, and of folders where it knows them."""
    try:
        # It remembers listings: old ones would hide changes, and long ones fill the memory.
        place.fs.invalidate_cache()
        found = place.fs.find(place.path, withdirs=True, detail=True)
        place.fs.invalidate_cache()
    except Exception as error:
        raise _unusable(place, error) from error
    above = f"{place.path.rstrip('/')}/"
    return {name[len(above) :]: about for name, about in found.items() if name.startswith(above)}


def _stamp(info: dict[str, Any]) -> Stamp:
    """Return numbers, as many as a file's stamp has, that another content would change."""
    etag = info.get("ETag") or info.get("etag")
    if not etag:
        return []
    when = info.get("LastModified") or info.get("updated")
    # Its text would change with the time zone of whoever asks.
    seconds = when.timestamp() if isinstance(when, datetime) else when
    sha256 = hashlib.sha256(f"{etag} {info['size']} {seconds}".encode()).digest()
    # SQLite's integers have 63 bits and a sign.
    return [info["size"], *(int.from_bytes(sha256[i : i + 7]) for i in (0, 7, 14, 21))]


def _key(place: "UPath", path: str) -> str:
    # The path of a whole bucket ends with a slash, others do not.
    return f"{place.path.rstrip('/')}/{path}" if path else str(place.path)


def _of_one_object(error: Exception) -> bool:
    code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
    return isinstance(error, FileNotFoundError | PermissionError) and code in OF_ONE_OBJECT


def _unusable(place: "UPath", error: Exception) -> InputError:
    """Return what to tell the user of a failed request."""
    if isinstance(error, FileNotFoundError):
        problem = "no such bucket or folder; check the URL"
    elif isinstance(error, PermissionError):
        problem = f"no permission ({error}); check the credentials and what they allow"
    else:
        problem = f"cannot be used ({error}); check the URL, the network and the credentials"
    return InputError(f"{place}: {problem}; what was computed is kept")


def readable_name(path: str) -> str:
    """Show a name that is not UTF-8 in a form that can be stored."""
    return path.encode("utf-8", "backslashreplace").decode()


def readers(root: Location) -> int:
    """Return how many threads read: for a disk few, as they decode too."""
    return DISK_READERS if isinstance(root, Path) else READERS
