"""Plan a features file: the label and split of each photo, and which files are skipped."""

from collections.abc import Sequence
from typing import NamedTuple

from extract.compute.missing import Images
from extract.photos import duplicates, splits
from extract.photos.scan import Photo, Scan
from extract.store.features_file import Row
from extract.system.console import InputError, count
from extract.twins import Twin


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
    twins : list of Twin
        See `extract.twins`.
    """

    rows: list[Row]
    class_names: list[str]
    skipped: list[tuple[str, str]]
    rule: str
    copies: int
    twins: list[Twin]


def plan_rows(found: Scan, images: Images, twins: Sequence[Twin], *, seed: int) -> Plan:
    """Give every usable photo its label, split and group; leave out copies that would leak.

    Raises
    ------
    InputError
        If a class has too few photos to have one in each split, or a group lies in two.
    """
    photos = _readable(found, images)
    left_out = _leaking(photos, images, twins)
    photos = [photo for photo in photos if photo.path not in left_out]
    class_names, digests, given = columns(photos, images)
    together = units(photos, images, twins)
    _refuse_divided(photos, together, splits.effective(given))
    try:
        assigned = splits.assign(
            found.class_names, class_names, digests, given, seed=seed, together=together
        )
    except InputError as error:
        if not twins:
            raise
        raise InputError(
            f"{error}; photos that show the same picture count as one, unless you give --keep-twins"
        ) from error
    labels = {name: label for label, name in enumerate(found.class_names)}
    rows = [
        Row(photo.path, digest, labels[photo.class_name], str(split), group)
        for photo, digest, split, group in zip(
            photos, digests, assigned, _groups(digests, together), strict=True
        )
    ]
    skipped = sorted([*found.skipped, *images.unreadable.items(), *left_out.items()])
    assert len(rows) + len(images.unreadable) + len(left_out) == len(found.photos)
    rule = splits.split_rule(set(given)) + (splits.TOGETHER if any(r.group for r in rows) else "")
    copies = len(digests) - len(set(digests))
    return Plan(rows, found.class_names, skipped, rule, copies, [*twins])


def units(photos: Sequence[Photo], images: Images, twins: Sequence[Twin] = ()) -> list[str]:
    """Return the name of the unit of each usable photo, see `extract.photos.splits.units`."""
    usable = _usable(photos, images)
    digests = [images.digests[photo.path] for photo in usable]
    alike = _rows_of(twins, digests)
    return splits.units(digests, [photo.group for photo in usable], alike)


def _groups(digests: Sequence[str], together: Sequence[str]) -> list[str]:
    """Return the unit of each photo, empty for a photo that is only together with its copies."""
    distinct: dict[str, set[str]] = {}
    for digest, unit in zip(digests, together, strict=True):
        distinct.setdefault(unit, set()).add(digest)
    return ["" if distinct[unit] == {unit} else unit for unit in together]


def _rows_of(twins: Sequence[Twin], digests: Sequence[str]) -> list[tuple[int, int]]:
    first: dict[str, int] = {}
    for row, digest in enumerate(digests):
        first.setdefault(digest, row)
    return [
        (first[one], first[other]) for one, other, _ in twins if one in first and other in first
    ]


def _leaking(photos: Sequence[Photo], images: Images, twins: Sequence[Twin]) -> dict[str, str]:
    """Return the training photos that are a picture of val or test too, with the reason."""
    _, digests, given = columns(photos, images)
    if not any(given):
        return {}
    pictures = splits.units(digests, [""] * len(digests), _rows_of(twins, digests))
    left_out = {}
    for row, original in splits.leaking_copies(pictures, given).items():
        kind = "copy of" if digests[row] == digests[original] else "same picture as"
        kept = f"{photos[original].path}, which is kept out of training"
        left_out[photos[row].path] = f"{kind} {kept}"
    return left_out


def _refuse_divided(photos: Sequence[Photo], together: Sequence[str], given: Sequence[str]) -> None:
    """Refuse a group that folders or a manifest put into two splits."""
    first: dict[str, int] = {}
    for row, unit in enumerate(together):
        other = first.setdefault(unit, row)
        if given[row] != given[other]:
            raise InputError(
                f"the group of {photos[other].path} ({given[other]}) and {photos[row].path} "
                f"({given[row]}) lies in two splits; put all its photos into one, or choose other "
                "groups"
            )


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
    usable = _usable(photos, images)
    return (
        [photo.class_name for photo in usable],
        [images.digests[photo.path] for photo in usable],
        [photo.split for photo in usable],
    )


def _usable(photos: Sequence[Photo], images: Images) -> list[Photo]:
    return [p for p in photos if p.path in images.digests and p.path not in images.unreadable]


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
