"""Scan a folder: list the files that may be photos, with class and split, and those skipped."""

import os
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from extract.system import locations
from extract.system.console import InputError, count
from extract.system.locations import Location, readable_name

Entry = os.DirEntry[str] | locations.Entry

SPLIT_FOLDERS = {"train": "train", "val": "val", "validation": "val", "test": "test"}

CLUTTER = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True, order=True)
class Photo:
    """A file in a class folder that may be a photo.

    Attributes
    ----------
    path : str
        Relative to the data set's root, with ``/`` between its parts.
    class_name : str
    split : str
        ``train``, ``val`` or ``test`` if the photo lies in such a folder, else empty.
    """

    path: str
    class_name: str
    split: str = ""


@dataclass
class Scan:
    """The content of a folder: every file is a photo to try or is skipped with a reason.

    Attributes
    ----------
    photos : list of Photo, in sorted path order
    skipped : list of (path, reason)
    class_names : list of str, sorted
        The names of all class folders, with or without photos.
    stamps : dict of path to list of int, or None
        Numbers that change with an object in a store, see `extract.system.locations.Listing`. None
        for files on a disk.
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
    scanner = _Scanner(root)
    scan = scanner.found
    folders = scanner.visible_folders("")
    split_of = {f: SPLIT_FOLDERS[f.lower()] for f in folders if f.lower() in SPLIT_FOLDERS}
    if "train" in split_of.values() and len(set(split_of.values())) > 1:
        for name in folders:
            if name in split_of:
                scanner.add_classes(name, split=split_of[name], exclude=exclude)
            else:
                path = f"{readable_name(name)}/"
                scan.skipped.append((path, "folder beside train, val and test"))
    else:
        scanner.add_classes("", folders, exclude=exclude)
    scan.photos.sort()
    scan.skipped.sort()
    scan.class_names = sorted(set(scan.class_names))
    if len(scan.class_names) < 2:
        raise InputError(
            f"{root}: {count(len(scan.class_names), 'class folder')} found, and two are needed; "
            "put the photos of each class in a sub-folder of its own"
        )
    return scan


def all_photos(folder: Location) -> Scan:
    """List the photos of a folder and its sub-folders, without classes.

    Files are skipped by the rules of `labelled_photos`. The class names are empty.
    """
    scanner = _Scanner(folder)
    scanner.found.photos = sorted(Photo(path, "") for path in scanner.files_to_try(""))
    scanner.found.skipped.sort()
    return scanner.found


def is_clutter(name: str) -> bool:
    """Say whether a file or folder of this name belongs to the system, not to the user."""
    return name.startswith(".") or name in CLUTTER


class _Scanner:
    """Goes through the folders below a root and notes what it finds.

    Folders and files are named by their paths relative to the root, whose own path is empty.
    """

    def __init__(self, root: Location) -> None:
        self.root = root
        self.listing = None if isinstance(root, Path) else locations.listing(root)
        self.found = Scan(stamps=self.listing.stamps if self.listing else None)

    def entries(self, folder: str) -> Iterable[Entry]:
        if self.listing is not None:
            return self.listing.folders[folder]
        return os.scandir(Path(str(self.root), folder))

    def visible_folders(self, folder: str) -> list[str]:
        """Return the sub-folders that may be classes; skip everything else with a reason."""
        names = []
        for entry in sorted(self.entries(folder), key=lambda entry: entry.name):
            path = readable_name(_joined(folder, entry.name))
            clutter = is_clutter(entry.name)
            if not _is_folder(entry):
                reason = "hidden or system file" if clutter else "not in a class folder"
                self.found.skipped.append((path, reason))
            elif clutter:
                self.found.skipped.append((f"{path}/", "hidden or system folder"))
            else:
                names.append(entry.name)
        return names

    def add_classes(
        self,
        folder: str,
        names: Sequence[str] | None = None,
        *,
        split: str = "",
        exclude: Sequence[str] = (),
    ) -> None:
        """Add the photos of the class folders in a folder; `names` are all of them by default."""
        for name in self.visible_folders(folder) if names is None else names:
            path = _joined(folder, name)
            if name in exclude:
                self.found.skipped.append((f"{path}/", "class left out (--background keeps it)"))
                continue
            self.found.class_names.append(readable_name(name))
            above = {self.real(""), self.real(folder)}
            for file in self.files_to_try(path, above):
                self.found.photos.append(Photo(file, name, split))

    def files_to_try(self, folder: str, above: Set[str] = frozenset()) -> Iterator[str]:
        """Yield every file below a folder that may be a photo; skip the others with a reason."""
        for path, entry in self.files(folder, above):
            if is_clutter(entry.name):
                self.found.skipped.append((readable_name(path), "hidden or system file"))
            elif path != readable_name(path):
                reason = "file or folder name is not UTF-8; rename it"
                self.found.skipped.append((readable_name(path), reason))
            elif _is_special(entry):
                # Reading from a named pipe would block forever.
                self.found.skipped.append((path, "not a regular file"))
            else:
                yield path

    def files(self, folder: str, above: Set[str]) -> Iterator[tuple[str, Entry]]:
        """Yield path and entry of every file below a folder; follow links unless they loop."""
        real = self.real(folder)
        if real in above:
            return
        for entry in self.entries(folder):
            path = _joined(folder, entry.name)
            if _is_folder(entry):
                yield from self.files(path, above | {real})
            else:
                yield path, entry

    def real(self, folder: str) -> str:
        """Return a name that is the same for every link to a folder; a store has no links."""
        return os.path.realpath(self.root / folder) if isinstance(self.root, Path) else folder


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_folder(entry: Entry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_special(entry: Entry) -> bool:
    """Say whether it is a pipe or a device; a broken link, or a link to itself, is neither."""
    try:
        return not entry.is_file() and isinstance(entry, os.DirEntry) and os.path.exists(entry)
    except OSError:
        return False
