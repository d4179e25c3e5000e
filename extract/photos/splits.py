"""Split photos into train, val and test by their content, not by names or listing order.

Photos that must stay together are a unit: copies, photos of one group, and whatever these have in
common. A unit is named by its group, or else by a digest.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from extract.system.console import InputError, count

VAL_SHARE = 0.2
TEST_SHARE = 0.2

BY_DIGEST = "60/20/20 of each class by SHA-256(seed, digest)"
GIVEN = "train, val and test as given"
GIVEN_TEST = "train and test as given; val is 20% of each class of train by SHA-256(seed, digest)"
GIVEN_VAL = "the given val is the test; val is 20% of each class of train by SHA-256(seed, digest)"

SHARES = {
    BY_DIGEST: {"test": TEST_SHARE, "val": VAL_SHARE},
    GIVEN_TEST: {"val": VAL_SHARE},
    GIVEN_VAL: {"val": VAL_SHARE},
    GIVEN: {},
}
"""The shares that each rule cuts from the photos whose folder names no val or test split."""


TOGETHER = "; groups, and the same picture stored twice, stay together"
"""What a rule adds if photos with different digests had to stay together."""


def split_rule(given: set[str]) -> str:
    """Return the rule for photos of the splits `given`; without val and test, train is cut."""
    if not given & {"val", "test"}:
        return BY_DIGEST
    if given >= {"train", "val", "test"}:
        return GIVEN
    return GIVEN_TEST if "test" in given else GIVEN_VAL


def effective(given: Sequence[str]) -> list[str]:
    """Return the given splits; val becomes test if there is no test."""
    if split_rule(set(given)) == GIVEN_VAL:
        return ["test" if split == "val" else split for split in given]
    return list(given)


def units(
    digests: Sequence[str], groups: Sequence[str], alike: Iterable[tuple[int, int]] = ()
) -> list[str]:
    """Return the name of the unit of each row; rows of a unit must have the same split.

    Parameters
    ----------
    digests : sequence of str, length n
        Rows with equal digests are together.
    groups : sequence of str, length n
        Rows with equal groups are together; an empty one is no group.
    alike : iterable of (int, int)
        Pairs of rows that are together, too.

    Returns
    -------
    list of str, length n
        The digest of a row that is only together with its copies. For other rows, the first group
        of the unit, or its first digest if it has no group.
    """
    n = len(digests)
    pairs = list(alike)
    for keys in (digests, groups):
        first: dict[str, int] = {}
        pairs += [(first.setdefault(key, row), row) for row, key in enumerate(keys) if key]
    rows, others = np.array(pairs, np.intp).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows), bool), (rows, others)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    names: dict[int, tuple[bool, str]] = {}
    for unit, digest, group in zip(component.tolist(), digests, groups, strict=True):
        names[unit] = min(names.get(unit, (True, digest)), (not group, group or digest))
    return [names[unit][1] for unit in component.tolist()]


def leaking_copies(digests: Sequence[str], given: Sequence[str]) -> dict[int, int]:
    """Find photos in the training (or val) folder that are copies of one in the val or test folder.

    Returns
    -------
    dict of int to int
        The key is a row to leave out; the value is the row in a later split that it copies.
    """
    order = ("train", "val", "test")
    last: dict[str, int] = {}
    splits = effective(given)
    for row, digest in enumerate(digests):
        if digest not in last or order.index(splits[row]) > order.index(splits[last[digest]]):
            last[digest] = row
    return {
        row: last[digest]
        for row, digest in enumerate(digests)
        if splits[row] != splits[last[digest]]
    }


def members(
    classes: Sequence[str],
    class_names: Sequence[str],
    together: Sequence[str],
    given: Sequence[str],
) -> dict[str, set[str]]:
    """Return the units of each class that will be divided between splits.

    Parameters
    ----------
    classes : sequence of str
        All classes.
    class_names, given : sequences of str, length n
        As in `assign`.
    together : sequence of str, length n
        The unit of each photo: its digest if it belongs to no group.

    Raises
    ------
    InputError
        If a class has too few units.
    """
    by_class: dict[str, set[str]] = {name: set() for name in classes}
    photos: Counter[str] = Counter()
    for name, unit, split in zip(class_names, together, effective(given), strict=True):
        if split in ("train", ""):
            by_class[name].add(unit)
            photos[name] += 1
    shares = SHARES[split_rule(set(given))]
    for name, distinct in by_class.items():
        if len(distinct) <= len(shares):
            has = count(len(distinct), "distinct usable photo")
            if len(distinct) < photos[name]:
                has += f" or group (of {count(photos[name], 'photo')})"
            needed = ", ".join(["train", *sorted(shares, reverse=True)])
            raise InputError(
                f"class '{name}' has {has} to share between {needed}; add photos or remove it"
            )
    return by_class


def assign(
    classes: Sequence[str],
    class_names: Sequence[str],
    digests: Sequence[str],
    given: Sequence[str],
    *,
    seed: int,
    together: Sequence[str] | None = None,
) -> NDArray[np.str_]:
    """Decide the split of every photo.

    Equal digests are always together, so a copy of a training photo can never be a test photo.

    Parameters
    ----------
    classes : sequence of str
        All classes.
    class_names : sequence of str, length n
        The class of each photo.
    digests : sequence of str, length n
        SHA-256 of each photo.
    given : sequence of str, length n
        The split that each photo's folder names; all are empty if the folders name no splits.
    seed : int
        Another seed gives another split.
    together : sequence of str, length n, optional
        The unit of each photo, see `units`. The digests by default.

    Returns
    -------
    ndarray of shape (n,), str
        ``train``, ``val`` or ``test``.

    Raises
    ------
    InputError
        If a class has too few photos to have one in each split.
    """
    shares = SHARES[split_rule(set(given))]
    unit_of = digests if together is None else together
    by_class = members(classes, class_names, unit_of, given)
    cut: dict[str, str] = {}
    if list(unit_of) == list(digests):
        for distinct in by_class.values():
            # A photo that lies in two classes keeps the split that it got in the first class.
            cut = _cut(distinct, shares, seed) | cut
    else:
        sizes = _sizes(class_names, digests, unit_of)
        # A class of few units has the least choice, so it comes first.
        for name in sorted(by_class, key=lambda name: len(by_class[name])):
            _cut_units({u: sizes[name, u] for u in by_class[name]}, shares, seed, cut)
        _mend(by_class, ["train", *shares], cut)
    _refuse_missing(by_class, ["train", *shares], cut)
    return np.array(
        [
            cut[unit] if split in ("train", "") else split
            for unit, split in zip(unit_of, effective(given), strict=True)
        ]
    )


def _refuse_missing(
    by_class: Mapping[str, set[str]], splits: Sequence[str], cut: Mapping[str, str]
) -> None:
    for name, distinct in by_class.items():
        missing = set(splits) - {cut[unit] for unit in distinct}
        if missing:
            raise InputError(
                f"class '{name}' has no photo for {', '.join(sorted(missing))}, because its "
                f"{count(len(distinct), 'distinct photo or group', 'distinct photos or groups')} "
                "are also in other classes; remove the copies or the class, or choose other groups"
            )


def _cut(digests: set[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Cut one class so that every split has a share, at least one distinct photo each."""
    ordered = sorted(digests, key=lambda d: _turn(seed, d))
    splits: list[str] = []
    for split, share in shares.items():
        splits += [split] * max(1, round(share * len(ordered)))
    return dict(zip(ordered, splits + ["train"] * (len(ordered) - len(splits)), strict=True))


def _turn(seed: int, name: str) -> bytes:
    """Return what decides when it is the turn of a photo or group."""
    return hashlib.sha256(f"{seed},{name}".encode()).digest()


def _sizes(
    class_names: Sequence[str], digests: Sequence[str], together: Sequence[str]
) -> Counter[tuple[str, str]]:
    """Return the number of distinct photos of each unit in each class."""
    distinct = set(zip(class_names, together, digests, strict=True))
    return Counter((name, unit) for name, unit, _ in distinct)


def _cut_units(
    sizes: Mapping[str, int], shares: Mapping[str, float], seed: int, cut: dict[str, str]
) -> None:
    """Cut one class between units, as near to the shares as these allow.

    Parameters
    ----------
    sizes : mapping of str to int
        The number of photos of each unit in this class.
    shares : mapping of str to float
    seed : int
    cut : dict of str to str
        The splits of units; those of this class that lack one are added.
    """
    free = sorted((unit for unit in sizes if unit not in cut), key=lambda unit: _turn(seed, unit))
    held = Counter[str]()
    for unit in sizes.keys() & cut.keys():
        held[cut[unit]] += sizes[unit]
    empty = [split for split in (*shares, "train") if not held[split]]
    for split, share in shares.items():
        target = max(1, round(share * sum(sizes.values())))
        waiting = len([other for other in empty if other != split])
        taken: list[str] = []
        for unit in free:
            nearer = abs(held[split] + sizes[unit] - target) < abs(held[split] - target)
            if nearer and len(free) - len(taken) > waiting:
                taken.append(unit)
                held[split] += sizes[unit]
        if not held[split] and len(free) > waiting:
            taken = [min(free, key=lambda unit: sizes[unit])]
            held[split] += sizes[taken[0]]
        cut.update(dict.fromkeys(taken, split))
        free = [unit for unit in free if unit not in cut]
        empty = [other for other in empty if other != split]
    cut.update(dict.fromkeys(free, "train"))


def _mend(by_class: Mapping[str, set[str]], splits: Sequence[str], cut: dict[str, str]) -> None:
    """Move units into splits that lack a class, as long as no class loses its last unit there."""
    classes_of: dict[str, list[str]] = {}
    for name, distinct in by_class.items():
        for unit in distinct:
            classes_of.setdefault(unit, []).append(name)
    held = Counter((name, cut[unit]) for unit, names in classes_of.items() for name in names)
    for name, distinct in by_class.items():
        for split in splits:
            if held[name, split]:
                continue
            movable = [
                unit
                for unit in distinct
                if all(held[other, cut[unit]] > 1 for other in classes_of[unit])
            ]
            if movable:
                unit = min(movable, key=lambda unit: (len(classes_of[unit]), unit))
                for other in classes_of[unit]:
                    held[other, cut[unit]] -= 1
                    held[other, split] += 1
                cut[unit] = split
