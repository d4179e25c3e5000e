"""Maintain the store: show its content, verify it, and remove what no features file needs."""

import json
from pathlib import Path

from extract.photos import duplicates
from extract.store import features_file, shards
from extract.store.shards import Damaged
from extract.system import atomic, console, locations, lock
from extract.system.availability import Unavailable
from extract.system.console import InputError, count, say, warn
from extract.system.locations import Location
from extract.vgg16.recipe import pairs_added, recipe_digest

ASIDE = ".damaged"

SMALL = shards.SHARD_IMAGES // 2
"""A shard with fewer needed images than this is joined with others."""


def info(path: Path) -> None:
    """Print what is in a features file.

    Raises
    ------
    InputError
        If it is not a features file.
    """
    with features_file.open(path) as features:
        attributes = features.attributes
        say(f"{features.data}: {count(len(features.paths), 'photo')} at {attributes['root']}")
        per_split = {split: features.labels[features.rows(split)] for split in features_file.SPLITS}
        for label, name in enumerate(features.class_names):
            sizes = ", ".join(
                f"{s} {int((split_labels == label).sum()):,}"
                for s, split_labels in per_split.items()
            )
            say(f"class {name}: {sizes}")
        sizes = ", ".join(f"{split} {len(labels):,}" for split, labels in per_split.items())
        say(f"split: {sizes}; {attributes['split_rule']}; seed {attributes['seed']}")
        say("taps: " + ", ".join(f"{tap} {width:,}" for tap, width in features.taps.items()))
        for recipe in features.recipes.values():
            say(f"recipe: {recipe_digest(recipe)}")
            for key, value in recipe.items():
                if key != "taps":
                    say(f"  {key}: {value}")
        say(f"weights: {attributes['weights']}")
        say(f"data digest: {features.data_digest}")
        versions = json.loads(attributes["versions"])
        say("made: " + attributes["created"])
        say("versions: " + ", ".join(f"{name} {number}" for name, number in versions.items()))
        computed, reused = attributes["images_computed"], attributes["images_reused"]
        say(f"images: {computed:,} computed, {reused:,} reused; {features.seconds:.0f} s in all")
        say(f"copies: {attributes['copies']:,}")
        if len(features.paths) > duplicates.ROWS:
            say(duplicates.NOT_LOOKED_FOR)
        else:
            summary = duplicates.summary(
                len(features.near), features.near_found, features.near_photos
            )
            say(f"near-duplicates in different splits: {summary}")
        for row, other, cosine in features.near:
            say(f"  {features.paths[row]} and {features.paths[other]}: cosine {cosine:.3f}")
        say(f"skipped: {len(features.skipped):,}")
        for skipped, reason in features.skipped:
            say(f"  {skipped}: {reason}")


def verify(out: Path, shared: Location | None = None) -> None:
    """Read every shard and every features file below `out`; set damaged files aside.

    Parameters
    ----------
    out : Path
    shared : Path, UPath or None
        Another cache whose shards are read too.

    Raises
    ------
    InputError
        If anything is damaged or could not be read. It is raised after everything was checked.
    """
    cache = _cache(out)
    if isinstance(shared, Path) and not shared.is_dir():
        raise InputError(f"{shared}: no such folder; name with --cache one that holds shards")
    damaged: list[str] = []
    unread: list[str] = []
    with lock.held(cache / "lock"):
        folders: list[Location] = [*_recipes(cache)]
        if shared is not None:
            folders += [shared / name for name in sorted(locations.folders(shared))]
        paths = [path for folder in folders for path in shards.files(folder)]
        images = 0
        with console.progress("shards", len(paths), unit="shards") as advance:
            for path in paths:
                try:
                    images += len(shards.read(path).digests)
                except Damaged as found:
                    shards.set_aside(found)
                    damaged.append(f"{path}: {found.reason}")
                except Unavailable as error:
                    unread.append(str(error))
                advance(1)
        published = _published(out)
        for path in published:
            try:
                _check(path)
            except features_file.Damaged as found:
                _set_aside(found)
                damaged.append(f"{path}: {found.reason}")
            except InputError as error:
                unread.append(str(error))
    checked = f"{count(len(paths), 'shard')} with {count(images, 'image')}"
    say(f"checked: {checked}, {count(len(published), 'features file')}")
    for line in damaged:
        say(f"damaged: {line}")
    for line in unread:
        say(f"not checked: {line}")
    problems = []
    if damaged:
        problems.append(f"{count(len(damaged), 'damaged file')}; run make features to mend them")
    if unread:
        problems.append(f"{count(len(unread), 'file')} could not be checked, see above")
    if problems:
        raise InputError("; ".join(problems))


def _set_aside(damaged: features_file.Damaged) -> None:
    """Rename a damaged features file, because make features would take it for up to date."""
    aside = damaged.path.with_name(f"{damaged.path.name}{ASIDE}")
    damaged.path.replace(aside)
    warn(f"{damaged.path}: {damaged.reason}; set aside as {aside.name}")


def collect(out: Path) -> None:
    """Remove from the cache the images that no features file below `out` names; join small shards.

    New shards are complete before old ones are removed, so a killed run loses nothing.

    Raises
    ------
    InputError
        If a features file cannot be read. What it needs is then unknown, and nothing is removed.
    """
    cache = _cache(out)
    with lock.held(cache / "lock"):
        _refuse_damaged(out)
        needed: dict[str, set[str]] = {}
        for path in _published(out):
            with features_file.open(path) as features:
                for recipe in features.recipes.values():
                    # The taps may lie in shards that have pairs of channels besides.
                    for held in (recipe, pairs_added(recipe)):
                        needed.setdefault(recipe_digest(held), set()).update(features.digests)
        # What nobody needs goes first: on a full disk, this makes the space that joining takes.
        for folder in sorted(_recipes(cache), key=lambda folder: folder.name in needed):
            while True:
                try:
                    _collect(folder, needed.get(folder.name, set()))
                    break
                except Damaged as damaged:
                    shards.set_aside(damaged)


def _collect(folder: Path, needed: set[str]) -> None:
    """Keep one copy of every needed image of a recipe."""
    atomic.sweep(folder)
    before = {path: path.stat().st_size for path in shards.files(folder)}
    kept: set[str] = set()
    small: list[Location] = []
    unused: list[Location] = []
    for path in before:
        useful = (set(shards.digests_of(path)) & needed) - kept
        if not useful:
            unused.append(path)
        elif len(useful) < SMALL:
            small.append(path)
        kept |= useful
    for path in unused:
        path.unlink()
    joined = shards.join(folder, small, needed) if len(small) > 1 else []
    for path in small if joined else ():
        # A killed run may have written a joined shard of the same name already.
        if path not in joined:
            path.unlink()
    after = {path: path.stat().st_size for path in shards.files(folder)}
    freed = (sum(before.values()) - sum(after.values())) / 1e6
    # Joined shards may be a little larger: their last chunks are not full.
    change = f"{freed:.1f} MB freed" if freed > -0.05 else f"{-freed:.1f} MB added"
    say(
        f"{folder.name[:12]}: {count(len(kept), 'image')} kept in {count(len(after), 'shard')}, "
        f"{len(before):,} before; {change.replace('-0.0', '0.0')}"
    )


def _refuse_damaged(out: Path) -> None:
    """Refuse to collect while it is unknown what a features file that was set aside needs."""
    for aside in sorted((out / "features").glob(f"*.h5{ASIDE}")):
        path = aside.with_name(aside.name.removesuffix(ASIDE))
        if not path.exists():
            raise InputError(
                f"{aside}: set aside as damaged, so what it needs is unknown; run make features to "
                "write it anew, or remove it if it is no longer needed"
            )


def _cache(out: Path) -> Path:
    cache = shards.cache_of(out)
    if not cache.is_dir():
        raise InputError(f"{cache}: no such folder; name with --out the one that has features/")
    return cache


def _recipes(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


def _published(out: Path) -> list[Path]:
    return shards.listed(out / "features")


def _check(path: Path) -> None:
    """Read a whole features file.

    Raises
    ------
    features_file.Damaged
        If its content is not what was written.
    InputError
        If it is of another kind, or cannot be read at this moment.
    """
    with features_file.open(path) as features:
        for _ in features.batches(features.taps, *features_file.SPLITS):
            pass
        rows = [
            features_file.Row(*fields)
            for fields in zip(
                features.paths,
                features.digests,
                features.labels.tolist(),
                features.splits.tolist(),
                features.groups,
                strict=True,
            )
        ]
        if features_file.data_digest(rows, features.class_names) != features.data_digest:
            raise features_file.Damaged(path, "its rows are not those that were written")
        if features_file.skipped_digest(features.skipped) != features.attributes["skipped_digest"]:
            raise features_file.Damaged(path, "its skipped files are not those that were written")
