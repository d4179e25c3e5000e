"""Split photos into train, val and test by their content, not by names or listing order."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

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
    classes: Sequence[str], class_names: Sequence[str], digests: Sequence[str], given: Sequence[str]
) -> dict[str, set[str]]:
    """Return the distinct photos of each class that will be divided between splits.

    Parameters
    ----------
    classes : sequence of str
        All classes.
    class_names, digests, given : sequences of str, length n
        As in `assign`.

    Raises
    ------
    InputError
        If a class has too few distinct photos.
    """
    by_class: dict[str, set[str]] = {name: set() for name in classes}
    for name, digest, split in zip(class_names, digests, effective(given), strict=True):
        if split in ("train", ""):
            by_class[name].add(digest)
    shares = SHARES[split_rule(set(given))]
    for name, distinct in by_class.items():
        if len(distinct) <= len(shares):
            photos = count(len(distinct), "distinct usable photo")
            needed = ", ".join(["train", *sorted(shares, reverse=True)])
            raise InputError(
                f"class '{name}' has {photos} to share between {needed}; add photos or remove it"
            )
    return by_class


def assign(
    classes: Sequence[str],
    class_names: Sequence[str],
    digests: Sequence[str],
    given: Sequence[str],
    *,
    seed: int,
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
    by_class = members(classes, class_names, digests, given)
    cut: dict[str, str] = {}
    for distinct in by_class.values():
        # A photo that lies in two classes keeps the split that it got in the first class.
        cut = _cut(distinct, shares, seed) | cut
    for name, distinct in by_class.items():
        missing = {"train", *shares} - {cut[digest] for digest in distinct}
        if missing:
            raise InputError(
                f"class '{name}' has no photo for {', '.join(sorted(missing))}, because its photos "
                "are also in other classes; remove the copies, or the folder"
            )
    return np.array(
        [
            cut[digest] if split in ("train", "") else split
            for digest, split in zip(digests, effective(given), strict=True)
        ]
    )


def _cut(digests: set[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Cut one class so that every split has a share, at least one distinct photo each."""
    ordered = sorted(digests, key=lambda d: hashlib.sha256(f"{seed},{d}".encode()).digest())
    splits: list[str] = []
    for split, share in shares.items():
        splits += [split] * max(1, round(share * len(ordered)))
    return dict(zip(ordered, splits + ["train"] * (len(ordered) - len(splits)), strict=True))
