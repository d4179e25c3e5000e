"""Scan a folder: list the files that may be photos, with class and split, and those skipped."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from extract.photos import layout
from extract.photos.layout import Layout
from extract.photos.tree import Tree
from extract.system import locations
from extract.system.console import InputError, count
from extract.system.locations import Location


@dataclass(frozen=True, order=True)
class Photo:
    """A file in a class folder that may be a photo.

    Attributes
    ----------
    path : str
        Relative to the data set's root, with ``/`` between its parts.
    class_name : str
    split : str
        ``train``, ``val`` or ``test`` if the photo lies in such a folder, or the manifest says so,
        else empty.
    group : str
        Photos of the same group never lie in different splits. Empty if it belongs to none.
    """

    path: str
    class_name: str
    split: str = ""
    group: str = ""


@dataclass
class Scan:
    """The content of a folder: every file is a photo to try or is skipped with a reason.

    Attributes
    ----------
    root : Path or UPath
        The folder that holds the class folders, or the folders of the splits. Paths are relative
        to it. It lies inside the scanned folder if that one only wraps it.
    photos : list of Photo, in sorted path order
    skipped : list of (path, reason)
        In sorted path order. The path of a folder ends with a slash.
    class_names : list of str, sorted
        The names of all class folders that can be read, with or without photos.
    notes : list of str
        What the user should know about the way the folders were read, a sentence each.
    stamps : dict of path to list of int, or None
        Numbers that change with an object in a store, see `extract.system.locations.Listing`. None
        for files on a disk.
    """

    root: Location
    photos: list[Photo] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stamps: dict[str, locations.Stamp] | None = None


def labelled_photos(folder: Location, *, exclude: Sequence[str] = ()) -> Scan:
    """List the photos of a folder of class folders, or of one with train, val and test.

    Parameters
    ----------
    folder : Path or UPath
        See `extract.photos.layout.read` for the layouts. Folders inside a class folder belong to
        the class.
    exclude : sequence of str
        Class folders to leave out.

    Raises
    ------
    InputError
        If there are fewer than two classes, or the layout cannot be understood.
    """
    found = layout.read(Tree(folder))
    tree, photos, class_names, nested = found.tree, list[Photo](), set[str](), set[str]()
    for place in found.classes:
        if place.name in exclude:
            tree.skipped[f"{place.path}/"] = "class left out (--background keeps it)"
            continue
        paths = list(tree.files_to_try(place.path))
        if f"{place.path}/" not in tree.skipped:
            class_names.add(place.name)
            photos += [Photo(path, place.name, place.split) for path in paths]
            if any("/" in path.removeprefix(f"{place.path}/") for path in paths):
                nested.add(place.name)
    if len(class_names) < 2:
        raise InputError(_too_few(found, class_names))
    return Scan(
        root=tree.root,
        photos=sorted(photos),
        skipped=sorted(tree.skipped.items()),
        class_names=sorted(class_names),
        notes=[*found.notes, *_nested(nested), *alike(class_names)],
        stamps=tree.stamps,
    )


def all_photos(folder: Location) -> Scan:
    """List the photos of a folder and its sub-folders, without classes.

    Files are skipped by the rules of `labelled_photos`. The class names are empty.
    """
    tree = Tree(folder)
    photos = sorted(Photo(path, "") for path in tree.files_to_try(""))
    return Scan(folder, photos, sorted(tree.skipped.items()), stamps=tree.stamps)


def grouped(found: Scan, group_by: str) -> Scan:
    """Give photos that have no group the one that their path names.

    Parameters
    ----------
    found : Scan
    group_by : str
        A regular expression whose only capturing group is the name, wherever it matches in the
        path; or ``folder``, for the folder that the photo lies in below that of its class.
    """
    name_of = _folder if group_by == "folder" else partial(_matched, re.compile(group_by))
    photos = [
        photo if photo.group else replace(photo, group=name_of(photo)) for photo in found.photos
    ]
    alone = sum(not photo.group for photo in photos)
    notes = [f"{count(alone, 'photo')} of {len(photos):,} in no group"] if alone else []
    return replace(found, photos=photos, notes=[*found.notes, *notes])


def _folder(photo: Photo) -> str:
    folders = photo.path.split("/")[:-1]
    names = [unicodedata.normalize("NFC", folder) for folder in folders]
    if photo.class_name not in names:
        return "/".join(folders)
    below = folders[names.index(photo.class_name) + 1 :]
    return "/".join([photo.class_name, *below]) if below else ""


def _matched(pattern: re.Pattern[str], photo: Photo) -> str:
    match = pattern.search(photo.path)
    return (match[1] or "") if match else ""


def _too_few(found: Layout, class_names: set[str]) -> str:
    """Say which class folders were found, and what else lies there."""
    root, skipped = found.tree.root, found.tree.skipped
    if "/" in skipped:
        return f"{root}: {skipped['/']}"
    folders = [path for path in skipped if path.endswith("/")]
    files = len(skipped) - len(folders)
    names = f" ({', '.join(class_names)})" if class_names else ""
    loose = f", {count(files, 'file')} in none" if files else ""
    left_out = f", {folders[0]} left out ({skipped[folders[0]]})" if folders else ""
    return (
        f"{root}: {count(len(class_names), 'class folder')} found{names}{loose}{left_out}; two are "
        "needed, so put the photos of each class in a sub-folder of its own"
    )


def _nested(class_names: set[str]) -> list[str]:
    """Point out classes that have sub-folders, which might be the classes that were meant."""
    if not class_names:
        return []
    more = f" and {len(class_names) - 1:,} more" if len(class_names) > 1 else ""
    return [
        f"the class {min(class_names)!r}{more} has sub-folders, whose photos belong to the class"
    ]


def alike(class_names: Collection[str]) -> list[str]:
    """Point out classes whose names differ in case or in spaces only."""
    shapes = Counter(_shape(name) for name in class_names)
    groups = [
        [name for name in sorted(class_names) if _shape(name) == shape]
        for shape, n in sorted(shapes.items())
        if n > 1
    ]
    return [
        f"the classes {' and '.join(map(repr, names))} differ only in case or spaces; if they are "
        "one class, give it one name"
        for names in groups
    ]


def _shape(name: str) -> str:
    return "".join(name.casefold().split())
