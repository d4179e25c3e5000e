"""The tree of folders below a root: what is in it, and what is left out for which reason."""

import errno
import os
from collections.abc import Iterator, Set
from pathlib import Path
from typing import NamedTuple

from extract.system import locations
from extract.system.locations import Location, readable_name

Entry = os.DirEntry[str] | locations.Entry

CLUTTER = {
    "#recycle",
    "$recycle.bin",
    "@eadir",
    "@recycle",
    "@tmp",
    "__macosx",
    "__pycache__",
    "desktop.ini",
    "ehthumbs.db",
    "icon\r",
    "lost+found",
    "recycler",
    "system volume information",
    "thumbs.db",
}
"""Names, in lower case, that systems and disk stations give to files and folders of their own."""

OURS = {"features": "cache", "runs": "*/*/result.json", "reports": "*/compare.json"}
"""What a folder of this name holds if this project made it."""


class Content(NamedTuple):
    """What a folder holds directly, without what belongs to the system.

    Attributes
    ----------
    folders : list of str
        The names of its sub-folders, sorted.
    files : list of str
        The names of its files, sorted.
    """

    folders: list[str]
    files: list[str]


class Tree:
    """The folders and files below a root.

    Folders and files are named by their paths relative to the root, whose own path is empty.

    Attributes
    ----------
    root : Path or UPath
    skipped : dict of path to reason
        What was met and left out. The path of a folder ends with a slash.
    stamps : dict of path to list of int, or None
        See `extract.system.locations.Listing`. None for files on a disk.
    """

    def __init__(self, root: Location, listing: locations.Listing | None = None) -> None:
        self.root = root
        self.skipped: dict[str, str] = {}
        # A store is listed once, in one request; a disk is listed folder by folder.
        self._listing = listing
        if self._listing is None and not isinstance(root, Path):
            self._listing = locations.listing(root)

    @property
    def stamps(self) -> dict[str, locations.Stamp] | None:
        """Return the stamps of the objects of a store, None on a disk."""
        return self._listing.stamps if self._listing else None

    def below(self, folder: str) -> "Tree":
        """Return the tree below one of the folders."""
        listing = self._listing and locations.listing_below(self._listing, folder)
        return Tree(self.root / folder, listing)

    def content(self, folder: str) -> Content:
        """Return what a folder holds directly; skip what belongs to the system."""
        content = Content([], [])
        for entry in sorted(self._entries(folder), key=lambda entry: entry.name):
            path, is_folder = joined(folder, entry.name), _is_folder(entry)
            if not self._is_clutter(path, entry):
                (content.folders if is_folder else content.files).append(entry.name)
        return content

    def files_to_try(self, folder: str) -> Iterator[str]:
        """Yield every file below a folder that may be a photo; skip the others with a reason."""
        parts = folder.split("/")
        above = {self._real("/".join(parts[:n])) for n in range(len(parts))} if folder else set()
        for path, entry in self._files(folder, above):
            if path != readable_name(path):
                reason = "file or folder name is not UTF-8; rename it"
                self.skipped[readable_name(path)] = reason
            elif _is_special(entry):
                # Reading from a named pipe would block forever.
                self.skipped[path] = "not a regular file"
            else:
                yield path

    def loops(self, folder: str) -> bool:
        """Say whether a folder is a link to itself or to one that it lies in."""
        parents = [folder[:at] for at, letter in enumerate(folder) if letter == "/"]
        return self._real(folder) in {self._real(parent) for parent in ["", *parents]}

    def _files(self, folder: str, above: Set[str]) -> Iterator[tuple[str, Entry]]:
        """Yield path and entry of every file below a folder; follow links unless they loop."""
        real = self._real(folder)
        if real in above:
            return
        for entry in self._entries(folder):
            path = joined(folder, entry.name)
            if self._is_clutter(path, entry):
                continue
            if _is_folder(entry):
                yield from self._files(path, above | {real})
            else:
                yield path, entry

    def _entries(self, folder: str) -> list[Entry]:
        if self._listing is not None:
            return list(self._listing.folders.get(folder, ()))
        try:
            with os.scandir(Path(str(self.root), folder)) as entries:
                return list(entries)
        except OSError as error:
            self.skipped[f"{readable_name(folder)}/"] = _reason(error)
            return []

    def _is_clutter(self, path: str, entry: Entry) -> bool:
        """Say whether an entry is no concern of the user, and skip it."""
        folder, shown = _is_folder(entry), readable_name(path)
        if is_clutter(entry.name):
            self.skipped[f"{shown}/" if folder else shown] = (
                "hidden or system folder" if folder else "hidden or system file"
            )
            return True
        if folder and entry.name in OURS and self._is_ours(path, OURS[entry.name].split("/")):
            self.skipped[f"{shown}/"] = "made by this program"
            return True
        return False

    def _is_ours(self, folder: str, pattern: list[str]) -> bool:
        """Say whether a folder holds a path of this pattern, whose parts are names or ``*``."""
        first, *rest = pattern
        return any(
            not rest or self._is_ours(joined(folder, entry.name), rest)
            for entry in self._entries(folder)
            if entry.name == first or (first == "*" and _is_folder(entry))
        )

    def _real(self, folder: str) -> str:
        """Return a name that is the same for every link to a folder; a store has no links."""
        return os.path.realpath(self.root / folder) if isinstance(self.root, Path) else folder


def is_clutter(name: str) -> bool:
    """Say whether a file or folder of this name belongs to the system, not to the user."""
    return name.startswith(".") or name.lower() in CLUTTER


def joined(folder: str, name: str) -> str:
    """Join the path of a folder, empty for the root, and a name."""
    return f"{folder}/{name}" if folder else name


def _reason(error: OSError) -> str:
    """Say why a folder could not be listed, and what helps."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return "no permission to read this folder; grant it, or move the folder away"
    return f"this folder cannot be read ({error.strerror}); check the disk"


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
