"""Locations: paths on this machine, and URLs such as ``s3://bucket/photos``.

A location is a `Path` or a `UPath`. Both are joined and printed in the same way, so most code does
not need to know which one it has. This module contains the differences: a store is listed in one
request, its objects are read and written whole, and its errors are others. fsspec, which supports
the kinds of URLs, is imported only for a URL.
"""

import errno
import hashlib
import os
import random
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union
from urllib.parse import unquote, urlsplit

from extract.system import atomic, availability
from extract.system.console import InputError
from extract.system.machine import cores

if TYPE_CHECKING:
    from upath import UPath

Location = Union[Path, "UPath"]

DISK_READERS = 2 * cores()
"""Threads that read from a disk, at most. They also decode, which keeps a core busy, but now and
then each waits for Python's lock."""

STORE_READERS = max(16, 4 * cores())
"""Threads that read from a store, at most; they mostly wait, so there are more than cores."""

URL = re.compile(r"[a-z][a-z0-9+.-]*://[^/]")
FILE_URL = re.compile(r"file:(?://(?P<host>[^/]*))?(?P<path>/.*)?", re.IGNORECASE | re.DOTALL)
WINDOWS_PATH = re.compile(r"(?P<drive>[A-Za-z]):[\\/](?!/)(?P<path>.*)|\\\\.*", re.DOTALL)
DRIVE = re.compile(r"/[A-Za-z]:")

FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
"""Characters that separate folders, or that Windows and its disks refuse."""

REFUSED_BY_WINDOWS = re.compile(rf"{FORBIDDEN.pattern}|[\x00-\x1f]")

DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *([.:].*)?", re.IGNORECASE
)
"""Names that Windows reserves."""

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}
OPTIONS: dict[str, dict[str, Any]] = {
    # With several connections per object, s3fs first asks for its size: two requests per photo.
    "s3": {"max_concurrency": 1, "config_kwargs": {"max_pool_connections": STORE_READERS}}
}
OF_ONE_OBJECT = (None, "NoSuchKey", "404", "AccessDenied", "403", "InvalidObjectState")
"""Error codes of S3 that may concern one object alone. Other stores give no code, hence None."""

OF_ONE_FILE = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP),
    *(errno.EBUSY, errno.EOVERFLOW, errno.ESPIPE),
}
"""Errors of reading that concern one file and would come again. Any other, such as EMFILE or EIO,
may be gone at the next try, so nothing about the file follows from it."""

BEYOND_THE_END = re.compile(r"InvalidRange|\b416\b|not satisfiable")
"""What stores say if a range begins at or after the end of an object."""

Stamp = list[int]

Read = Callable[[int, int], bytes]


NEIGHBOURS = 3
"""If an object cannot be read, at most this many others are tried, to see whose fault it is."""


class WebPage(Exception):
    """Something between this machine and the store, or another server, answers with web pages."""


class NotWritten(InputError, OSError):
    """A store refused an object. As with a full disk, the next write would fail as well."""


class Entry(NamedTuple):
    """An entry of a folder in a store, with the methods of `os.DirEntry` that are used here."""

    name: str
    folder: bool

    def is_dir(self) -> bool:
        """Say whether it is a folder."""
        return self.folder

    def is_file(self) -> bool:
        """Say whether it is an object."""
        return not self.folder


class Listing(NamedTuple):
    """Everything below a location. Paths are relative to it; its own path is empty.

    Attributes
    ----------
    folders : dict of path to list of Entry
    stamps : dict of path to list of int
        For every object, numbers that change when it changes, for `extract.photos.hashes`. The
        list is empty if the store has no ETags.
    """

    folders: dict[str, list[Entry]]
    stamps: dict[str, Stamp]


def is_url(text: str) -> bool:
    """Say whether `text` is a URL rather than a path on this machine."""
    return URL.match(text) is not None


def typed(text: str) -> str:
    """Return the path or URL that a person means by what they typed.

    ``~`` is the home folder, and a ``file:`` URL is the path in it.

    Raises
    ------
    InputError
        If nothing on this machine can be meant.
    """
    if not text.strip():
        raise InputError("it is empty; give a name, a path or a URL, and . for the current folder")
    if "\0" in text:
        raise InputError("it contains a zero byte, which no path may contain")
    if match := FILE_URL.match(text):
        return _path_in(text, match)
    there = sys.platform == "win32" or os.path.lexists(text)
    if not there and (match := WINDOWS_PATH.fullmatch(text)):
        drive, rest = match["drive"], (match["path"] or "").replace("\\", "/")
        here = (
            f"is /mnt/{drive.lower()}/{rest}" if drive else "is below a folder that you mount it on"
        )
        raise InputError(f"{text} is a Windows path; in WSL, it {here}")
    return text if is_url(text) else os.path.expanduser(text)


def _path_in(url: str, match: re.Match[str]) -> str:
    """Return the path in a ``file:`` URL, in which ``%20`` is a space."""
    path = unquote(match["path"] or "", errors="surrogateescape")
    if (match["host"] or "").lower() not in ("", "localhost"):
        raise InputError(
            f"{url} names the machine '{match['host']}'; mount its folder and give the path here, "
            "or write file:///path for a path on this machine"
        )
    if not path or "\0" in path:
        raise InputError(f"{url} contains no path; write file:///path")
    return path[1:] if sys.platform == "win32" and DRIVE.match(path) else path


def slashed(path: str) -> str:
    """Return a path as files hold it, which is the same on every system: with ``/``."""
    return path.replace("\\", "/") if sys.platform == "win32" else path


def plain(folder: str, path: str) -> str:
    """Join a folder and a path, without ``..`` and ``.``, as `slashed` writes it."""
    return slashed(os.path.normpath(os.path.join(folder, path)))


def relative(path: str, folder: str) -> str:
    """Return the path from a folder to a file, as `slashed` writes it.

    On Windows there is none from one drive to another; there it is the absolute path.
    """
    try:
        return slashed(os.path.relpath(path, folder))
    except ValueError:
        return slashed(path)


def is_name_here(name: str) -> bool:
    """Say whether this system can have a file or folder of this name; only Windows refuses some."""
    return sys.platform != "win32" or not (
        REFUSED_BY_WINDOWS.search(name) or DEVICE.fullmatch(name) or name.endswith((" ", "."))
    )


def location(text: str) -> Location:
    """Return the location that a path or URL names.

    Raises
    ------
    InputError
        If the package for URLs of this kind is not installed, the kind is unknown, or the URL
        contains a password.
    """
    if not is_url(text):
        return Path(text)
    protocol = text.split(":")[0]
    if urlsplit(text).password:
        raise InputError(
            f"{protocol}://: the URL contains a password, which would be stored; leave it out"
        )
    try:
        from upath import UPath

        url: UPath = UPath(text.rstrip("/"), **OPTIONS.get(protocol, {}))
        # fsspec creates the file system on first use, and its package may be missing.
        assert url.fs is not None
        if protocol == "s3":
            events = url.fs.connect().meta.events
            events.register("after-call.s3.ListObjectsV2", _refuse_page, unique_id="onepass")
    except ImportError as error:
        needed = f"pip install universal_pathlib {PACKAGES.get(protocol, '')}".strip()
        raise InputError(f"{text}: {error}; {needed}") from error
    except ValueError as error:
        raise InputError(f"{text}: {error}; give a path, or a URL as s3://bucket/folder") from error
    return url


def read_bytes(place: Location, path: str = "") -> bytes:
    """Read a whole file: the location itself, or the file at a path below it.

    Raises
    ------
    OSError
        If this file alone cannot be read.
    InputError
        If its store cannot be reached, refuses access, or fails to send other objects too, or if
        the next file of a disk could not be read either.
    """
    if isinstance(place, Path):
        try:
            return (place / path).read_bytes()
        except OSError as error:
            _raise_if_of_the_moment(place / path, error)
            raise
    with _read_from_store(place, path):
        data: bytes = place.fs.cat_file(_key(place, path))
        return data


@contextmanager
def opened(place: Location, path: str = "") -> Iterator[Read]:
    """Open a file to read parts of it.

    Yields
    ------
    read : callable
        ``read(start, end)`` returns these bytes, or fewer at the end of the file. In a store, each
        call is one request.

    Raises
    ------
    OSError, InputError
        As `read_bytes` does it.
    """
    if isinstance(place, Path):
        name = os.path.join(place, path) if path else str(place)
        try:
            # Without this flag, Windows changes bytes that look like the ends of lines.
            file = os.open(name, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            _raise_if_of_the_moment(name, error)
            raise
        try:
            # A shell hands over the output of a program as a pipe, /dev/fd/63.
            regular = stat.S_ISREG(os.fstat(file).st_mode)
            part = partial(_part, file) if regular else partial(_part_of_pipe, file, bytearray())
            yield partial(_from_disk, name, part)
        finally:
            os.close(file)
        return

    def read(start: int, end: int) -> bytes:
        with _read_from_store(place, path):
            try:
                data: bytes = place.fs.cat_file(_key(place, path), start=start, end=end)
            except Exception as error:
                if BEYOND_THE_END.search(f"{error} {error.__cause__}"):
                    return b""
                raise
            return data

    yield read


def _from_disk(name: str, part: Read, start: int, end: int) -> bytes:
    try:
        return part(start, end)
    except OSError as error:
        _raise_if_of_the_moment(name, error)
        raise


def _part(file: int, start: int, end: int) -> bytes:
    # Memory for all that is asked for would be taken at once.
    end = min(end, os.fstat(file).st_size)
    part = _read_at(file, max(end - start, 0), start)
    while start + len(part) < end and (more := _read_at(file, end - start, start + len(part))):
        part += more
    return part


def _read_at(file: int, n: int, start: int) -> bytes:
    if sys.platform != "win32":
        return os.pread(file, n, start)
    os.lseek(file, start, os.SEEK_SET)
    return os.read(file, n)


def _part_of_pipe(file: int, seen: bytearray, start: int, end: int) -> bytes:
    while len(seen) < end and (more := os.read(file, min(end - len(seen), 1 << 20))):
        seen += more
    return bytes(seen[start:end])


def _raise_if_of_the_moment(name: str | Path, error: OSError) -> None:
    """Raise an error that ends the run, unless the one that came concerns this file alone."""
    if error.errno in OF_ONE_FILE or error.errno is None:
        return
    raise availability.unavailable(readable_name(str(name)), error.errno) from error


@contextmanager
def _read_from_store(place: "UPath", path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        name = f"{place}/{path}" if path else str(place)
        if _of_one_object(error):
            number = errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EACCES
            raise OSError(number, os.strerror(number), name) from error
        if not _others_can_be_read(place, path, error):
            raise _unusable(place, error) from error
        raise OSError(errno.EIO, "the store fails to send it", name) from error


def read_prefixes(folder: "UPath", names: Sequence[str], size: int) -> dict[str, bytes]:
    """Read the first `size` bytes of many objects in one request.

    Objects that cannot be read are left out.

    Raises
    ------
    InputError
        If the store cannot be reached, or refuses access.
    """
    keys = [_key(folder, name) for name in names]
    prefixes = folder.fs.cat_ranges(keys, 0, size, on_error="return")
    found = dict(zip(names, prefixes, strict=True))
    for name, prefix in found.items():
        if (
            isinstance(prefix, Exception)
            and not _of_one_object(prefix)
            and not _others_can_be_read(folder, name, prefix)
        ):
            raise _unusable(folder, prefix) from prefix
    return {name: prefix for name, prefix in found.items() if isinstance(prefix, bytes)}


def write_bytes(file: Location, data: bytes) -> None:
    """Write a file whole or not at all; an object store does that in one request.

    Raises
    ------
    OSError
        If it cannot be written.
    NotWritten
        If a store refuses it.
    """
    if isinstance(file, Path):
        atomic.write_bytes(file, data)
        return
    try:
        file.fs.pipe_file(file.path, data)
    except Exception as error:
        raise NotWritten(str(_unusable(file, error))) from error


def move(file: Location, name: str) -> None:
    """Rename a file, if it still exists; in a store it is copied and removed.

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
    """Return the names of the folders in a location.

    Raises
    ------
    InputError
        If there is no such location, or its store cannot be reached.
    """
    if isinstance(place, Path):
        return [entry.name for entry in place.iterdir() if entry.is_dir()]
    try:
        place.fs.invalidate_cache()
        entries = place.fs.ls(place.path, detail=True)
    except Exception as error:
        raise _unusable(place, error) from error
    names = (info["name"] for info in entries if info["type"] == "directory")
    return [name.rstrip("/").rpartition("/")[2] for name in names]


def sizes(folder: "UPath") -> dict[str, int]:
    """Return the size in bytes of every object in a folder, by name; {} if there is no folder.

    Raises
    ------
    InputError
        If the store cannot be reached, or refuses access.
    """
    objects = _find(folder).items()
    return {
        path: info["size"]
        for path, info in objects
        if "/" not in path and info["type"] != "directory"
    }


def listing(root: "UPath") -> Listing:
    """List everything below a location with as few requests as its store allows.

    An object whose path has a part that no disk allows, such as ``..`` or an empty one, is listed
    as an entry of the location itself. If an object and a folder have the same name, the folder
    counts.

    Raises
    ------
    InputError
        If the store cannot be reached, or refuses access.
    """
    result = Listing({"": []}, {})
    for path, info in _find(root).items():
        folder = info["type"] == "directory" or path.endswith("/")
        if {"", ".", ".."} & set(path.rstrip("/").split("/")):
            if not folder:
                result.folders[""].append(Entry(path, folder=False))
        elif folder:
            _add_folder(result, path.rstrip("/"))
        else:
            parent, _, name = path.rpartition("/")
            _add_folder(result, parent)
            result.folders[parent].append(Entry(name, folder=False))
            result.stamps[path] = _stamp(info)
    return result


def listing_below(whole: Listing, folder: str) -> Listing:
    """Return the part of a listing that is below one of its folders."""
    prefix = f"{folder}/"
    folders = {
        path.removeprefix(prefix): entries
        for path, entries in whole.folders.items()
        if path.startswith(prefix)
    }
    stamps = {
        path.removeprefix(prefix): stamp
        for path, stamp in whole.stamps.items()
        if path.startswith(prefix)
    }
    return Listing({"": whole.folders[folder], **folders}, stamps)


def _add_folder(result: Listing, path: str) -> None:
    if path not in result.folders:
        parent, _, name = path.rpartition("/")
        _add_folder(result, parent)
        result.folders[parent].append(Entry(name, folder=True))
        result.folders[path] = []


def _find(place: "UPath") -> dict[str, dict[str, Any]]:
    """Return fsspec's details of all objects below a location, and of folders if it lists them."""
    try:
        # fsspec remembers listings: old ones would hide changes, and long ones fill the memory.
        place.fs.invalidate_cache()
        details = place.fs.find(place.path, withdirs=True, detail=True)
        place.fs.invalidate_cache()
    except Exception as error:
        raise _unusable(place, error) from error
    prefix = f"{place.path.rstrip('/')}/"
    return {name[len(prefix) :]: info for name, info in details.items() if name.startswith(prefix)}


def _stamp(info: dict[str, Any]) -> Stamp:
    """Return five numbers that change when the content changes; a file on a disk has as many."""
    etag = info.get("ETag") or info.get("etag")
    if not etag:
        return []
    when = info.get("LastModified") or info.get("updated")
    # The text of the time would depend on the time zone of this machine.
    seconds = when.timestamp() if isinstance(when, datetime) else when
    sha256 = hashlib.sha256(f"{etag} {info['size']} {seconds}".encode()).digest()
    # SQLite's integers have 63 bits and a sign.
    return [info["size"], *(int.from_bytes(sha256[i : i + 7]) for i in (0, 7, 14, 21))]


def _key(place: "UPath", path: str) -> str:
    # The path of a whole bucket ends with a slash; other paths do not.
    return f"{place.path.rstrip('/')}/{path}" if path else str(place.path)


def _of_one_object(error: Exception) -> bool:
    code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
    return isinstance(error, FileNotFoundError | PermissionError) and code in OF_ONE_OBJECT


def _others_can_be_read(place: "UPath", path: str, error: Exception) -> bool:
    """Say whether a store that fails to send one object sends others in the same folder."""
    if isinstance(error, FileNotFoundError | PermissionError | WebPage):
        return False
    key = _key(place, path)
    try:
        place.fs.invalidate_cache()
        entries = place.fs.ls(key.rpartition("/")[0], detail=True)
        place.fs.invalidate_cache()
        others = [info["name"] for info in entries if info["type"] == "file" and info["size"]]
        others = random.sample(others, min(len(others), NEIGHBOURS + 1))
    except Exception:
        return False
    for other in [name for name in others if name != key][:NEIGHBOURS]:
        with suppress(Exception):
            place.fs.cat_file(other, start=0, end=1)
            return True
    return False


def _refuse_page(http_response: Any, **about: Any) -> None:
    if "html" in http_response.headers.get("content-type", ""):
        raise WebPage


def _unusable(place: "UPath", error: Exception) -> InputError:
    """Return the error that tells the user about a failed request."""
    if isinstance(error, WebPage):
        problem = (
            "a web page came in place of a listing; check the endpoint (AWS_ENDPOINT_URL), and "
            "whether a proxy wants you to log in"
        )
    elif isinstance(error, FileNotFoundError):
        problem = "no such bucket or folder; check the URL"
    elif isinstance(error, PermissionError):
        problem = f"no permission ({error}); check the credentials and what they allow"
    else:
        problem = f"cannot be used ({error}); check the URL, the network and the credentials"
    return InputError(f"{place}: {problem}; what was computed is kept")


def readable_name(path: str) -> str:
    """Write a name that is not UTF-8 in a form that can be stored."""
    return path.encode("utf-8", "backslashreplace").decode()


def readers(root: Location) -> int:
    """Return how many threads should read and decode at most."""
    return DISK_READERS if isinstance(root, Path) else STORE_READERS
