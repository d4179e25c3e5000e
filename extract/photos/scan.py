"""Scan a folder: which files may be photos, of which class and split, and what is skipped."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from extract.system import locations
from extract.system.console import InputError, count
from extract.system.locations import Location, readable_name

Entry = os.DirEntry[str] | locations.Entry

Scandir = Callable[[str], Iterable[Entry]]
"""Lists a folder, named by its path relative to the root."""

SPLIT_FOLDERS = {"train": "train", "val": "val", "validation": "val", "test": "test"}

CLUTTER = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True, order=True)
class Photo:
    """A file in a class folder that may be a photo.

    Attributes
    ----------
    path : str
        Relative to the data set's root, ``/`` separated.
    class_name : str
    split : str
        ``train``, ``val`` or ``test`` where the folder says so, else empty.
    """

    path: str
    class_name: str
    split: str = ""


@dataclass
class Scan:
    """What a folder holds: every file is a photo to try or is skipped with a reason.

    Attributes
    ----------
    photos : list of Photo, in sorted path order
    skipped : list of (path, reason)
    class_names : list of str, sorted
        The names of all class folders, with or without photos.
    stamps : dict of path to list of int, or None
        What changes with an object in a store, see `extract.system.locations.Listing`. None for
        files on a disk, which are asked for theirs.
    """

    photos: list[Photo] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    stamps: dict[str, locations.Stamp] | None = None


def labelled_photos(root: Location, *, exclude: Sequence[str] = ()) -> Scan:
    """List the photos of a folder of class folders, or of one with train, val and test.

    Parameters
    ----------
    root : Path or UPath
        A folder with one sub-folder per class, or with ``train/`` and at least one of ``val/``,
        ``validation/`` and ``test/`` that hold the class folders. Folders inside a class folder
        belong to the class.
    exclude : sequence of str
        Class folders to leave out.

    Raises
    ------
    InputError
        If there are fewer than two classes.
    """
    found, scandir = _listed(root)
    folders = _visible_folders("", scandir, found)
    given = {f: SPLIT_FOLDERS[f.lower()] for f in folders if f.lower() in SPLIT_FOLDERS}
    if "train" in given.values() and len(set(given.values())) > 1:
        for name in folders:
            if name in given:
                classes = _visible_folders(name, scandir, found)
                _scan_classes(root, name, classes, given[name], exclude, scandir, found)
            else:
                path = f"{readable_name(name)}/"
                found.skipped.append((path, "folder beside train, val and test"))
    else:
        _scan_classes(root, "", folders, "", exclude, scandir, found)
    found.photos.sort()
    found.skipped.sort()
    found.class_names = sorted(set(found.class_names))
    if len(found.class_names) < 2:
        raise InputError(
            f"{root}: {count(len(found.class_names), 'class folder')} found, and two are needed; "
            "put the photos of each class in a sub-folder of its own"
        )
    return found


def all_photos(folder: Location) -> Scan:
    """List the photos of a folder and its sub-folders, without classes.

    Files are skipped by the rules of `labelled_photos`. The class names are empty.
    """
    found, scandir = _listed(folder)
    paths = _to_try(folder, "", set(), scandir, found)
    found.photos = sorted(Photo(path, "") for path in paths)
    found.skipped.sort()
    return found


def is_clutter(name: str) -> bool:
    """Say whether a file or folder of this name belongs to the system, not to the user."""
    return name.startswith(".") or name in CLUTTER


def _listed(root: Location) -> tuple[Scan, Scandir]:
    """Return an empty scan, and a function that lists a folder below `root`."""
    if isinstance(root, Path):
        return Scan(), lambda folder: os.scandir(root / folder)
    listing = locations.listing(root)
    return Scan(stamps=listing.stamps), lambda folder: listing.folders[folder]


def _visible_folders(folder: str, scandir: Scandir, found: Scan) -> list[str]:
    """Return the sub-folders that may be classes; skip everything else there with a reason."""
    names = []
    for entry in sorted(scandir(folder), key=lambda entry: entry.name):
        path = readable_name(_joined(folder, entry.name))
        if not _is_folder(entry):
            reason = "hidden or system file" if is_clutter(entry.name) else "not in a class folder"
            found.skipped.append((path, reason))
        elif is_clutter(entry.name):
            found.skipped.append((f"{path}/", "hidden or system folder"))
        else:
            names.append(entry.name)
    return names


def _scan_classes(
    root: Location,
    folder: str,
    names: Sequence[str],
    split: str,
    exclude: Sequence[str],
    scandir: Scandir,
    found: Scan,
) -> None:
    for name in names:
        path = _joined(folder, name)
        if name in exclude:
            found.skipped.append((f"{path}/", "class left out (--background keeps it)"))
            continue
        found.class_names.append(readable_name(name))
        above = {_real(root, ""), _real(root, folder)}
        for file in _to_try(root, path, above, scandir, found):
            found.photos.append(Photo(file, name, split))


def _to_try(
    root: Location, folder: str, above: set[str], scandir: Scandir, found: Scan
) -> Iterator[str]:
    """Yield every file below a folder that may be a photo; skip the others with a reason."""
    for path, entry in _files(root, folder, above, scandir):
        if is_clutter(entry.name):
            found.skipped.append((readable_name(path), "hidden or system file"))
        elif path != readable_name(path):
            reason = "file or folder name is not UTF-8; rename it"
            found.skipped.append((readable_name(path), reason))
        elif _is_special(entry):
            # Reading from a named pipe would block for ever.
            found.skipped.append((path, "not a regular file"))
        else:
            yield path


def _files(
    root: Location, folder: str, seen: set[str], scandir: Scandir
) -> Iterator[tuple[str, Entry]]:
    """Yield path and entry of every file below a folder; links are followed, loops are not."""
    real = _real(root, folder)
    if real in seen:
        return
    for entry in scandir(folder):
        path = _joined(folder, entry.name)
        if _is_folder(entry):
            yield from _files(root, path, seen | {real}, scandir)
        else:
            yield path, entry


def _real(root: Location, folder: str) -> str:
    """Return a name that is the same for every link to a folder; a store has no links."""
    return os.path.realpath(root / folder) if isinstance(root, Path) else folder


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_folder(entry: Entry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_special(entry: Entry) -> bool:
    """Say whether it is a pipe or a device; a broken link, or one to itself, is none."""
    try:
        return not entry.is_file() and isinstance(entry, os.DirEntry) and os.path.exists(entry)
    except OSError:
        return False
