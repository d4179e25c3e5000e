"""Which folders are classes, which are splits, and which only wrap others."""

import re
import unicodedata
from dataclasses import dataclass, field
from typing import NamedTuple

from extract.photos.tree import Tree, joined
from extract.system.console import InputError, count
from extract.system.locations import Location, readable_name

SPLIT_WORDS = {
    **dict.fromkeys(["train", "training", "trainval", "trn", "treino", "treinamento"], "train"),
    **dict.fromkeys(["val", "valid", "validation", "validate", "validacao"], "val"),
    **dict.fromkeys(["dev", "eval", "evaluation"], "val"),
    **dict.fromkeys(["test", "testing", "tst", "teste", "holdout"], "test"),
}
"""What people call the splits, in English and Portuguese, singular and without accents."""

FILLERS = ("dataset", "data", "set", "split", "image", "img", "photo", "picture", "folder", "file")
"""Words beside the name of a split that mean nothing."""

TEXTS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".mat", ".md", ".html")
"""How the names of files that describe photos end."""

SHOWN = 5
"""At most this many folders are named in a sentence."""


class ClassFolder(NamedTuple):
    """A folder with photos of one class.

    Attributes
    ----------
    path : str
        Relative to the root.
    name : str
        The name of the class in Unicode's composed form (NFC). Systems write the same letters in
        two ways, and two folders whose names look equal are one class.
    split : str
        ``train``, ``val``, ``test`` or empty.
    """

    path: str
    name: str
    split: str


@dataclass
class Layout:
    """How the folders of a tree are read.

    Attributes
    ----------
    tree : Tree
        Its root holds the class folders, or the folders of the splits.
    classes : list of ClassFolder
    notes : list of str
        What the user should know, a sentence each.
    """

    tree: Tree
    classes: list[ClassFolder] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read(tree: Tree) -> Layout:
    """Find the class folders below a tree's root.

    The root, or a single folder in it, has one sub-folder per class; or it has sub-folders for
    train and at least one of val and test, which have one sub-folder per class. `split_folders`
    says which names are those of splits. A split whose photos lie in no class folder is left out,
    with a note.

    Raises
    ------
    InputError
        If the folders can be understood in two ways, or the name of a class folder is not UTF-8.
    """
    found = Layout(tree)
    _step_in(found)
    names = found.tree.content("").folders
    splits = split_folders(names)
    for name in found.tree.content("").files:
        found.tree.skipped[readable_name(name)] = "not in a class folder"
    if splits:
        _add_splits(found, names, splits)
    else:
        _refuse_unnamed_splits(found.tree, names)
        _add_classes(found, "", names, split="")
    return found


def innermost(folder: Location) -> Location:
    """Return the folder that holds the class folders: the given one, or the one that it wraps."""
    path = _wrapped(Tree(folder), "")[-1]
    return folder / path if path else folder


def split_folders(names: list[str]) -> dict[str, str]:
    """Say which of the folders beside each other are splits.

    A name means a split whatever its case, plural, separators, numbers and filler words:
    ``Training``, ``test_set``, ``valid-images``, ``trainData``, ``val2017``. Other words are
    allowed if they are the same in all of them: ``seg_train`` and ``seg_test``. Folders are splits
    only if one of them is train and one is val or test, so a class may be called ``train``.

    Returns
    -------
    dict of str to str
        ``train``, ``val`` or ``test`` by name; empty if the folders are no splits.
    """
    whole = [splits for splits in _groups(names) if {"train"} < set(splits.values())]
    return whole[0] if len(whole) == 1 else {}


def split_of(word: str) -> str:
    """Return the split that a word means, as in `split_folders`; empty if it means none."""
    split, others = _meaning(word)
    return "" if others else split


def _groups(names: list[str]) -> list[dict[str, str]]:
    """Return the folders whose names mean splits, those with the same other words together."""
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        split, others = _meaning(name)
        if split:
            groups.setdefault(others, {})[name] = split
    return list(groups.values())


def _meaning(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the split that a name means, empty if none, and the words that are left."""
    plain = "".join(c for c in unicodedata.normalize("NFD", name) if not unicodedata.combining(c))
    # "trainSet" has two words.
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain).lower()
    words = [_without_filler(word) for word in re.findall(r"[^\W\d_]+", apart)]
    splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    others = tuple(word for word in words if word and word not in SPLIT_WORDS)
    if splits == {"train", "val"}:
        splits = {"train"}
    return (splits.pop() if len(splits) == 1 else ""), others


def _without_filler(word: str) -> str:
    """Return a word in the singular and without a filler at its end: ``testsets`` is ``test``."""
    for plural in (word, word.removesuffix("s")):
        for filler in ("", *FILLERS):
            stem = plural.removesuffix(filler)
            if stem in SPLIT_WORDS or not stem:
                return stem
    return word


def _step_in(found: Layout) -> None:
    """Step into folders that only wrap the class folders, as archives often do."""
    path = _wrapped(found.tree, "")[-1]
    if not path:
        return
    _note_step(found, "", path)
    outer, found.tree = found.tree, found.tree.below(path)
    depth = path.count("/") + 1
    folder = ""
    for up, name in zip(range(depth, 0, -1), path.split("/"), strict=True):
        for file in outer.content(folder).files:
            beside = readable_name("../" * up + file)
            found.tree.skipped[beside] = "outside the folder that holds the class folders"
        folder = joined(folder, name)


def _note_step(found: Layout, folder: str, inner: str) -> None:
    """Tell that the only folder in a folder, which may have been meant as a class, is none."""
    inside = _some(found.tree.content(inner).folders)
    found.notes.append(
        f"{found.tree.root / readable_name(folder)}: it has one folder, so the folders in "
        f"{readable_name(inner)} are the classes or splits: {inside}"
    )


def _wrapped(tree: Tree, folder: str) -> list[str]:
    """Return a folder, then the only folder in it, and so on while those hold folders."""
    chain = [folder]
    while True:
        names = tree.content(chain[-1]).folders
        inner = joined(chain[-1], names[0]) if len(names) == 1 else ""
        # A link to its own folder would be followed forever.
        if not inner or tree.loops(inner) or not tree.content(inner).folders:
            return chain
        chain.append(inner)


def _add_classes(found: Layout, folder: str, names: list[str], *, split: str) -> None:
    for name in names:
        path = joined(folder, name)
        if path != readable_name(path):
            raise InputError(
                f"{found.tree.root}: the name of the class folder {readable_name(path)} is not "
                "UTF-8; rename it"
            )
        found.classes.append(ClassFolder(path, _composed(name), split))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _add_splits(found: Layout, names: list[str], splits: dict[str, str]) -> None:
    tree = found.tree
    homes = {name: _wrapped(tree, name)[-1] for name in splits}
    for name in splits:
        if f"{name}/" in tree.skipped:
            raise InputError(f"{tree.root / name}: {tree.skipped[f'{name}/']}")
    trains = [name for name, split in splits.items() if split == "train"]
    classes = {_composed(c) for name in trains for c in tree.content(homes[name]).folders}
    if not classes:
        files = count(len(tree.content(homes[trains[0]]).files), "file")
        raise InputError(
            f"{tree.root / trains[0]}: {files} and no class folder; put the photos of each class "
            "in a sub-folder of its own"
        )
    for name, split in splits.items():
        if split != "train":
            homes[name] = _labelled_home(tree, name, classes)
        elif homes[name] != name:
            _note_step(found, name, homes[name])
        if homes[name]:
            inside = tree.content(homes[name])
            _add_classes(found, homes[name], inside.folders, split=split)
            for file in inside.files:
                path = readable_name(joined(homes[name], file))
                tree.skipped[path] = "not in a class folder"
    labelled = {split for name, split in splits.items() if homes[name]}
    for name in names:
        if name not in splits:
            _refuse_labelled(tree, name, classes)
        if not homes.get(name):
            _leave_out(found, name, missing=splits.get(name, ""), labelled=labelled)


def _labelled_home(tree: Tree, folder: str, classes: set[str]) -> str:
    """Return the folder inside a split that holds its class folders; empty if there are none."""
    chain = _wrapped(tree, folder)
    for home in chain:
        if classes & {_composed(name) for name in tree.content(home).folders}:
            return home
    # One folder that train lacks is a wrapper too, as in test/unknown. Several are classes.
    return chain[-1] if len(tree.content(chain[-1]).folders) > 1 else ""


def _refuse_labelled(tree: Tree, name: str, classes: set[str]) -> None:
    """Refuse a folder beside the splits that holds labelled photos as well."""
    inside = tree.content(name).folders
    same = sorted(classes & {_composed(folder) for folder in inside})
    if same or split_folders(inside):
        held = f"a folder {same[0]}, as train does" if same else "splits of its own"
        raise InputError(
            f"{tree.root / readable_name(name)} lies beside train and test and holds {held}; name "
            "it train, val or test, or move it away"
        )


def _leave_out(found: Layout, name: str, *, missing: str, labelled: set[str]) -> None:
    """Skip a folder whose photos have no labels, and say how to classify them."""
    tree, shown = found.tree, readable_name(name)
    n = sum(1 for _ in tree.files_to_try(name))
    tree.skipped[f"{shown}/"] = f"{count(n, 'file')} in no class folder of train"
    note = f"{tree.root / shown}: {tree.skipped[f'{shown}/']}"
    if missing == "test" and "test" not in labelled:
        note += "; val serves as test" if "val" in labelled else "; test is cut from train"
    elif missing == "val" and "val" not in labelled:
        note += "; val is cut from train"
    if n:
        note += f'; make predict IMAGES="{tree.root / shown}" classifies them'
    found.notes.append(note)


def _refuse_unnamed_splits(tree: Tree, names: list[str]) -> None:
    """Refuse folders that look like splits, though their names do not say so."""
    shown = _some(names)
    groups = _groups(names)
    whole = [splits for splits in groups if {"train"} < set(splits.values())]
    if len(whole) > 1:
        raise InputError(
            f"{tree.root}: the names {shown} tell both split and class; put the photos in folders "
            "such as train/cat and test/cat"
        )
    splits = groups[0] if len(groups) == 1 else {}
    if len(splits) == len(names) > 1:
        raise InputError(
            f"{tree.root}: {shown} are named as splits are, and one of each kind is needed; name "
            "the folders train, val and test, or give classes other names"
        )
    trains = [name for group in groups for name, split in group.items() if split == "train"]
    for name in trains:
        inside = tree.content(name)
        if len(inside.folders) > 1 and not inside.files and len(names) > 1:
            others = _some([other for other in names if other != name])
            raise InputError(
                f"{tree.root / readable_name(name)} holds folders as a split does, and the names "
                f"beside it are not those of splits: {others}; name them val or test, or move "
                "them away"
            )
    _refuse_same_folders(tree, names)
    _refuse_annotations(tree, names)


def _refuse_annotations(tree: Tree, names: list[str]) -> None:
    """Refuse a folder of class folders beside folders without photos, such as images and meta."""
    parents = [name for name in names if len(tree.content(name).folders) > 1]
    if len(parents) != 1 or len(names) < 2 or tree.content(parents[0]).files:
        return
    parent = tree.root / readable_name(parents[0])
    for name in names:
        if name != parents[0] and all(map(_is_named_as_text, tree.files_to_try(name))):
            raise InputError(
                f"{parent} holds folders, and {readable_name(name)} beside it holds no photo; if "
                f'those folders are the classes, type DATA="{parent}", otherwise remove '
                f"{readable_name(name)}"
            )


def _is_named_as_text(path: str) -> bool:
    return path.lower().endswith(TEXTS)


def _refuse_same_folders(tree: Tree, names: list[str]) -> None:
    """Refuse folders that all hold the same folders, as either may be the classes."""
    if len(names) < 2:
        return
    common: set[str] = set()
    union: set[str] = set()
    for name in names:
        inside = tree.content(name)
        folders = {_composed(folder) for folder in inside.folders}
        common = common & folders if union else folders
        union |= folders
        if inside.files or len(common) < 2:
            return
    if split_folders(sorted(common)):
        raise InputError(
            f"{tree.root}: the folders ({_some(names)}) hold splits ({_some(sorted(common))}); "
            f"turn them inside out: {sorted(common)[0]}/{readable_name(names[0])} and so on"
        )
    if 2 * len(common) >= len(union):
        raise InputError(
            f"{tree.root}: all folders ({_some(names)}) hold the same ones "
            f"({_some(sorted(common))}); if they are splits, name them train, val and "
            "test; if only one is meant, give it as DATA; if they are classes, put their "
            "photos directly into them"
        )


def _some(names: list[str]) -> str:
    """Write the first names of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(readable_name, names[:SHOWN])) + more
