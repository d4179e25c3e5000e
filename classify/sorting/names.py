"""Names of folders and files that any file system takes and that lead nowhere else.

A model may come from a stranger, so the names of its classes are not trusted.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from classify.sorting import record
from extract.photos import tree
from extract.system.locations import DEVICE, FORBIDDEN

UNSURE = "unsure"
"""The folder of photos whose most probable class is not probable enough."""

NONE = "none"
"""The folder of photos that are none of the classes."""

LONGEST = 255
"""The most bytes that a name may have."""

LONGEST_FOLDER = 200

BEGINNING = re.compile(r"^[.\s=+\-@]+")
"""What hides a folder, or begins a formula or an option."""


def folders(class_names: Iterable[str]) -> dict[str, str]:
    """Return a folder for each class.

    The names differ in more than case, and none is `UNSURE`, `NONE` or that of the record.
    """
    free = FreeNames()
    for reserved in (UNSURE, NONE, record.NAME):
        free.take("", reserved)
    return {name: free.take("", _folder(name)) for name in class_names}


def _folder(class_name: str) -> str:
    name = "".join(
        character if character.isprintable() else "_"
        for character in unicodedata.normalize("NFC", class_name)
    )
    name = BEGINNING.sub("_", FORBIDDEN.sub("_", name))
    name = _shortened(name, LONGEST_FOLDER).rstrip(" .") or "_"
    if DEVICE.fullmatch(name) or tree.is_clutter(name):
        name = f"_{name}"
    return f"{name} (class)" if key(name) in (UNSURE, NONE) else name


def _shortened(name: str, most: int) -> str:
    """Return the beginning of a name that has at most this many bytes."""
    return os.fsencode(name)[: max(most, 0)].decode("utf-8", "ignore")


def key(name: str) -> str:
    """Return what is the same for names that some file systems take for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class FreeNames:
    """Names that are not in use yet, in folders that may exist.

    Parameters
    ----------
    root : Path or None
        What lies in its folders is in use. With None, nothing is.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root
        self._taken: dict[str, set[str]] = {}
        self._next: defaultdict[tuple[str, str], int] = defaultdict(lambda: 1)

    def take(self, folder: str, name: str) -> str:
        """Return the name, or ``name (2)`` and so on if it is in use, and take it."""
        taken = self._in(folder)
        stem, ending = os.path.splitext(name)
        for number in count(self._next[folder, key(name)]):
            suffix = f" ({number})" if number > 1 else ""
            room = LONGEST - len(os.fsencode(suffix + ending))
            found = f"{_shortened(stem, room)}{suffix}{ending}"
            if key(found) not in taken:
                break
        self._next[folder, key(name)] = number + 1
        taken.add(key(found))
        return found

    def _in(self, folder: str) -> set[str]:
        if folder not in self._taken:
            inside = self.root / folder if self.root else None
            names = os.listdir(inside) if inside and inside.is_dir() else []
            self._taken[folder] = {key(name) for name in names}
        return self._taken[folder]
