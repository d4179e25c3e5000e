"""Plan a features file: the label and split of each photo, and which files are skipped."""

from collections.abc import Sequence
from typing import NamedTuple

from extract.compute.missing import Images
from extract.photos import duplicates, splits
from extract.photos.scan import Photo, Scan
from extract.store.features_file import Row
from extract.system.console import InputError, count


class Plan(NamedTuple):
    """The rows of a features file, and the files that it leaves out.

    Attributes
    ----------
    rows : list of Row
        Sorted by path.
    class_names : list of str
    skipped : list of (path, reason)
    rule : str
        How the photos were split.
    copies : int
        The number of photos that are copies of another photo in the file.
    """

    rows: list[Row]
    class_names: list[str]
    skipped: list[tuple[str, str]]
    rule: str
    copies: int


def plan_rows(found: Scan, images: Images, *, seed: int) -> Plan:
    """Give every usable photo its label and split; leave out copies that would leak.

    Raises
    ------
    InputError
        If a class has too few photos to have one in each split.
    """
    photos = _readable(found, images)
    _, digests, given_splits = columns(photos, images)
    leaks = splits.leaking_copies(digests, given_splits) if any(given_splits) else {}
    left_out = [
        (photos[row].path, f"copy of {photos[original].path}, which is kept out of training")
        for row, original in leaks.items()
    ]
    photos = [photo for row, photo in enumerate(photos) if row not in leaks]
    class_names, digests, given_splits = columns(photos, images)
    assigned = splits.assign(found.class_names, class_names, digests, given_splits, seed=seed)
    labels = {name: label for label, name in enumerate(found.class_names)}
    rows = [
        Row(photo.path, digest, labels[photo.class_name], str(split))
        for photo, digest, split in zip(photos, digests, assigned, strict=True)
    ]
    skipped = sorted([*found.skipped, *images.unreadable.items(), *left_out])
    assert len(rows) + len(images.unreadable) + len(left_out) == len(found.photos)
    rule, copies = splits.split_rule(set(given_splits)), len(digests) - len(set(digests))
    return Plan(rows, found.class_names, skipped, rule, copies)


def training_images(found: Scan, images: Images, *, seed: int) -> set[str]:
    """Return the digests of the photos that `plan_rows` will put into train or val.

    They are those of all files that were read, whether or not they can be decoded. If these cannot
    be split, none is returned, and `check` or `plan_rows` will say why.
    """
    class_names, digests, given = columns(found.photos, images)
    try:
        assigned = splits.assign(found.class_names, class_names, digests, given, seed=seed)
    except InputError:
        return set()
    of_test = {digest for digest, split in zip(digests, assigned, strict=True) if split == "test"}
    return set(digests) - of_test


def check(found: Scan, images: Images, *, strict: bool, allow_conflicts: bool) -> None:
    """Refuse unreadable photos if `strict`, and a photo in two classes unless `allow_conflicts`.

    Raises
    ------
    InputError
        If there is such a photo; the message names the first.
    """
    if strict and images.unreadable:
        path, reason = min(images.unreadable.items())
        photos = count(len(images.unreadable), "unreadable photo")
        raise InputError(f"{photos} and --strict, the first {path}: {reason}; mend or remove it")
    if not allow_conflicts:
        _refuse_conflicts(found, images)


def columns(photos: Sequence[Photo], images: Images) -> tuple[list[str], list[str], list[str]]:
    """Return class, digest and given split of the photos not yet found to be unreadable."""
    usable = [p for p in photos if p.path in images.digests and p.path not in images.unreadable]
    return (
        [photo.class_name for photo in usable],
        [images.digests[photo.path] for photo in usable],
        [photo.split for photo in usable],
    )


def _readable(found: Scan, images: Images) -> list[Photo]:
    return [photo for photo in found.photos if photo.path not in images.unreadable]


def _refuse_conflicts(found: Scan, images: Images) -> None:
    photos = _readable(found, images)
    class_names, digests, _ = columns(photos, images)
    label = {name: label for label, name in enumerate(found.class_names)}
    groups = duplicates.conflicts(digests, [label[name] for name in class_names])
    if groups:
        paths = " and ".join(photos[row].path for row in groups[0])
        more = f", and {count(len(groups) - 1, 'other photo')} alike" if len(groups) > 1 else ""
        raise InputError(
            f"the same photo is in two classes: {paths}{more}; remove it from all classes but one, "
            "or accept it with --allow-conflicts"
        )
