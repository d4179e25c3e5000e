"""Bring the features file of a data set up to date with its photos."""

import json
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from extract import (
    console,
    datasets,
    digests,
    duplicates,
    engines,
    images,
    lock,
    pipeline,
    ray_coordinator,
    shards,
    splits,
    store,
    weights,
)
from extract.console import InputError, count, say, warn
from extract.images import Photo, Scan
from extract.pipeline import Computed
from extract.provenance import now, versions
from extract.ray_worker import Job
from extract.recipe import SIZE, SIZES, joint_digest, named, recipe
from extract.remote import Location
from extract.shards import Place
from extract.store import Pair, Row
from extract.weights import Weights

Compute = Callable[..., Computed]

SHOWN = 10
"""Skipped files and near-duplicates are named on the screen up to this many."""


@dataclass
class Seen:
    """What is known of the photos of a data set so far.

    Attributes
    ----------
    digests : dict of path to digest
        Of every file that could be read.
    places : dict of size to dict of digest to Place
        Where the features are.
    unreadable : dict of path to reason
    computed : set of digest
        Images that VGG16 looked at in this run.
    """

    digests: dict[str, str]
    places: dict[int, dict[str, Place]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)


class Plan(NamedTuple):
    """What a data set's features file is to say of its photos.

    Attributes
    ----------
    rows : list of Row
        In sorted path order.
    skipped : list of (path, reason)
    rule : str
        How the photos were split.
    copies : int
        Photos that are copies of another in the file.
    """

    rows: list[Row]
    skipped: list[tuple[str, str]]
    rule: str
    copies: int


def make(
    data: str,
    *,
    out: Path,
    seed: int,
    weights_file: Path | None = None,
    background: bool = False,
    strict: bool = False,
    rehash: bool = False,
    allow_conflicts: bool = False,
    engine: str = "auto",
    sizes: Collection[int] = (SIZE,),
    on: str | None = None,
    cache: Location | None = None,
) -> None:
    """Bring ``features/<data>.h5`` up to date with the photos, saying what is done.

    Parameters
    ----------
    data : str
        A built-in name, or the path or URL of a folder.
    out : Path
        Where ``features/`` is.
    seed : int
        Of the split.
    weights_file : Path or None
        VGG16's weights, if not the usual ones.
    background : bool
        Keep a class named BACKGROUND_Google.
    strict : bool
        Take an unreadable photo for an error.
    rehash : bool
        Read every file again, whatever its size and time say.
    allow_conflicts : bool
        Accept the same photo in two classes.
    engine : str
        What runs VGG16, see `extract.engines.choose`.
    sizes : collection of int
        In pixels, of the squares that VGG16 is shown of each photo: some of
        `extract.recipe.SIZES`, 224 among them.
    on : str or None
        The cluster that computes, see `extract.ray_cluster.connected`; this process if None.
    cache : Path, UPath or None
        Where the shards of every recipe are, if not below `out`. Others may use it meanwhile.

    Raises
    ------
    InputError
        If the photos cannot make a data set, or something needed is not to be had.
    """
    sizes = _ordered(sizes)
    path = store.file_of(data, out)
    published = _attributes(path)
    root = datasets.locate(data)
    found = images.scan(root, exclude=() if background else (datasets.BACKGROUND,))
    classes = count(len(found.class_names), "class", "classes")
    say(f"{store.name_of(data)}: {count(len(found.photos), 'file')} in {classes} at {root}")
    own = shards.cache_of(out)
    with lock.held(own / "lock"):
        vgg16 = weights.load(weights_file, cache=own)
        say(f"weights: VGG16 {vgg16.digest[:12]} from {vgg16.origin}")
        recipes = {size: recipe(vgg16.digest, size=size) for size in sizes}
        for the_recipe in recipes.values():
            _make_ready(shards.folder_of(out, the_recipe), cache)
        index = own / "digests.sqlite"
        compute = partial(
            partial(_compute_on_ray, on=on) if on else _compute, weights=vgg16, engine=engine
        )
        seen = Seen(_digests(root, found, index, rehash=rehash))
        # A class that is too small is refused before hours of computing and not after.
        splits.members(found.class_names, *_columns(found.photos, seen))
        while True:
            _see_all(seen, root, _paths(found), recipes, out, cache or own, compute)
            digests.correct(root, seen.digests, index=index)
            if strict and seen.unreadable:
                raise _unreadable(seen.unreadable)
            if not allow_conflicts:
                _refuse_conflicts(found, seen)
            plan = _plan(found, seen, seed=seed)
            fixed = _fixed(plan, found.class_names, data, root, vgg16, recipes, seed)
            _tell(plan, found.class_names)
            if all(published.get(key) == value for key, value in fixed.items()):
                say(f"{path}: nothing to do, {count(len(plan.rows), 'photo')} there")
                return
            try:
                pairs = _publish(path, plan, seen, found.class_names, fixed)
            except shards.Damaged as damaged:
                shards.set_aside(damaged)
                continue
            _tell_pairs(pairs, plan.rows)
            say(f"{path}: written")
            return


def _ordered(sizes: Collection[int]) -> list[int]:
    """Return the sizes in the order of `extract.recipe.SIZES`, each once."""
    asked = f"--sizes {' '.join(map(str, sizes))}"
    for size in sizes:
        if size not in SIZES:
            raise InputError(
                f"{asked}: {size} is not a multiple of 32 from {min(SIZES)} to {max(SIZES)}"
            )
    if SIZE not in sizes:
        raise InputError(
            f"{asked}: {SIZE} must be among them, because fine-tuning and the search for "
            "near-duplicates need it"
        )
    return [size for size in SIZES if size in sizes]


def _attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of what is published already; refuse what is not a features file."""
    if not path.exists():
        return {}
    with store.open(path) as features:
        return features.attributes


def _paths(found: Scan) -> list[str]:
    return [photo.path for photo in found.photos]


def _digests(root: Location, found: Scan, index: Path, *, rehash: bool) -> dict[str, str]:
    of_files = partial(
        digests.of_files, root, _paths(found), index=index, stamps=found.stamps, rehash=rehash
    )
    if found.stamps is None:
        return of_files()
    # A store gives photos more slowly than a disk: long enough to be watched.
    with console.progress("digests", len(found.photos), unit="photos") as advance:
        return of_files(advance=advance)


def _make_ready(folder: Path, cache: Location | None) -> None:
    """Have the folders to write to; what a killed run left is removed where nobody else writes."""
    _make_writable(folder, "--out")
    if isinstance(cache, Path):
        _make_writable(cache / folder.name, "--cache")
    # Shards, fetched weights and features files.
    for place in (folder, folder.parent, folder.parent.parent):
        shards.sweep(place)


def _make_writable(folder: Path, option: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder}: no permission to write; choose another folder with {option}")


def _see_all(
    seen: Seen,
    root: Location,
    paths: Sequence[str],
    recipes: Mapping[int, dict[str, Any]],
    out: Path,
    cache: Location,
    compute: Compute,
) -> None:
    """Have every photo's features of every size in the cache."""
    while True:
        for the_recipe in recipes.values():
            _see(seen, root, paths, the_recipe, out, cache, compute)
        # A photo that changed between two passes is news to the first of them.
        if not any(_pending(paths, seen, size) for size in recipes):
            return


def _see(
    seen: Seen,
    root: Location,
    paths: Sequence[str],
    the_recipe: dict[str, Any],
    out: Path,
    cache: Location,
    compute: Compute,
) -> None:
    """Have every photo's features of one size in the cache, computing those that are not there."""
    size, own = the_recipe["size"], shards.folder_of(out, the_recipe)
    folder = cache / own.name
    index = partial(shards.index, folder, the_recipe, memory=own / "elsewhere.txt")
    name = "VGG16" if size == SIZE else f"VGG16 at {size} x {size}"
    seen.places[size] = index()
    reused = len(seen.places[size].keys() & set(seen.digests.values()))
    started = time.monotonic()
    computed = Computed.nothing()
    # A photo that changes while it is read has another digest than its copies: look again.
    while pending := _pending(paths, seen, size):
        try:
            with console.progress(name, len(pending), unit="photos") as advance:
                done = compute(
                    root, pending, recipe=the_recipe, folder=folder, own=own, advance=advance
                )
        except console.Stopped:
            kept = len(index()) - len(seen.places[size])
            warn(f"{name}: {kept:,} of {count(len(pending), 'image')} computed and kept")
            raise
        computed.add(done)
        seen.computed |= set(done.digests.values())
        seen.unreadable |= _with_copies(done.unreadable, seen.digests)
        seen.digests |= done.digests
        seen.places[size] = index()
    if computed.digests:
        seconds = time.monotonic() - started
        n = len(computed.digests)
        speed = f"{seconds:.0f} s, {n / seconds:.1f} photos/s"
        say(f"{name}: {count(n, 'image')} computed ({speed}), {reused:,} reused")
        shares = ", ".join(f"{stage} {of / seconds:.1%}" for stage, of in computed.seconds.items())
        say(f"  share of the time, many at once: {shares}")


def _compute(
    root: Location,
    paths: Sequence[str],
    *,
    weights: Weights,
    engine: str,
    recipe: dict[str, Any],
    folder: Location,
    own: Path,
    advance: Callable[[int], None],
) -> Computed:
    """Compute photos in this process."""
    with shards.Writer(folder, recipe) as writer:
        return pipeline.compute(
            root,
            paths,
            build_engine=lambda photos: engines.choose(engine, weights, photos, folder=own),
            writer=writer,
            advance=advance,
            size=recipe["size"],
        )


def _compute_on_ray(
    root: Location,
    paths: Sequence[str],
    *,
    on: str,
    folder: Location,
    own: Path,
    advance: Callable[[int, str], None],
    **rest: Any,
) -> Computed:
    """Compute photos on a cluster."""
    job = Job(root, shard_folder=folder, local_folder=own, **rest)
    return ray_coordinator.compute(job, paths, on=on, advance=advance)


def _pending(paths: Sequence[str], seen: Seen, size: int) -> list[str]:
    """Return one path of every image that is neither in the cache nor known to be unreadable."""
    first: dict[str, str] = {}
    for path in paths:
        digest = seen.digests.get(path, f"unknown: {path}")
        if digest not in seen.places[size] and path not in seen.unreadable:
            first.setdefault(digest, path)
    return list(first.values())


def _with_copies(failed: dict[str, str], digests: dict[str, str]) -> dict[str, str]:
    """Give the copies of an unreadable file its reason."""
    reasons = {digests[path]: reason for path, reason in failed.items() if path in digests}
    copies = {path: reasons[digest] for path, digest in digests.items() if digest in reasons}
    return copies | failed


def _unreadable(reasons: dict[str, str]) -> InputError:
    path, reason = min(reasons.items())
    photos = count(len(reasons), "unreadable photo")
    return InputError(f"{photos} and --strict, the first {path}: {reason}; mend or remove it")


def _columns(photos: Sequence[Photo], seen: Seen) -> tuple[list[str], list[str], list[str]]:
    """Return class, digest and given split of the photos that are not known to be unreadable."""
    usable = [p for p in photos if p.path in seen.digests and p.path not in seen.unreadable]
    return (
        [photo.class_name for photo in usable],
        [seen.digests[photo.path] for photo in usable],
        [photo.split for photo in usable],
    )


def _plan(found: Scan, seen: Seen, *, seed: int) -> Plan:
    """Give every usable photo its label and split; leave out copies that would leak."""
    photos = [photo for photo in found.photos if photo.path not in seen.unreadable]
    _, shas, given = _columns(photos, seen)
    leaks = splits.copies(shas, given) if any(given) else {}
    left_out = [
        (photos[row].path, f"copy of {photos[original].path}, which is kept out of training")
        for row, original in leaks.items()
    ]
    photos = [photo for row, photo in enumerate(photos) if row not in leaks]
    class_names, shas, given = _columns(photos, seen)
    assigned = splits.assign(found.class_names, class_names, shas, given, seed=seed)
    labels = {name: label for label, name in enumerate(found.class_names)}
    rows = [
        Row(photo.path, digest, labels[photo.class_name], str(split))
        for photo, digest, split in zip(photos, shas, assigned, strict=True)
    ]
    skipped = sorted([*found.skipped, *seen.unreadable.items(), *left_out])
    assert len(rows) + len(seen.unreadable) + len(left_out) == len(found.photos)
    return Plan(rows, skipped, splits.split_rule(set(given)), len(shas) - len(set(shas)))


def _refuse_conflicts(found: Scan, seen: Seen) -> None:
    photos = [photo for photo in found.photos if photo.path not in seen.unreadable]
    class_names, shas, _ = _columns(photos, seen)
    label = {name: label for label, name in enumerate(found.class_names)}
    groups = duplicates.conflicts(shas, [label[name] for name in class_names])
    if groups:
        paths = " and ".join(photos[row].path for row in groups[0])
        more = f", and {count(len(groups) - 1, 'other photo')} alike" if len(groups) > 1 else ""
        raise InputError(
            f"the same photo is in two classes: {paths}{more}; remove it from all classes but one, "
            "or accept it with --allow-conflicts"
        )


def _fixed(
    plan: Plan,
    class_names: Sequence[str],
    data: str,
    root: Location,
    vgg16: Weights,
    recipes: Mapping[int, dict[str, Any]],
    seed: int,
) -> dict[str, Any]:
    """Return the attributes that a file must have to be up to date."""
    return {
        "data": images.readable_name(store.name_of(data)),
        "root": images.readable_name(str(root)),
        "weights": vgg16.origin,
        "weights_digest": vgg16.digest,
        "recipe_digest": joint_digest(recipes.values()),
        "split_rule": plan.rule,
        "seed": seed,
        "data_digest": store.data_digest(plan.rows, class_names),
        "skipped_digest": store.skipped_digest(plan.skipped),
        "copies": plan.copies,
        **{named("recipe", size): json.dumps(made_by) for size, made_by in recipes.items()},
    }


def _publish(
    path: Path, plan: Plan, seen: Seen, class_names: Sequence[str], fixed: dict[str, Any]
) -> list[Pair]:
    distinct = {row.digest for row in plan.rows}
    return store.publish(
        path,
        plan.rows,
        seen.places,
        class_names=class_names,
        skipped=plan.skipped,
        attributes=fixed
        | {
            "created": now(),
            "versions": json.dumps(versions()),
            "images_computed": len(distinct & seen.computed),
            "images_reused": len(distinct - seen.computed),
        },
    )


def _tell(plan: Plan, class_names: Sequence[str]) -> None:
    sizes = dict.fromkeys(store.SPLITS, 0)
    for row in plan.rows:
        sizes[row.split] += 1
    shares = ", ".join(f"{split} {size:,}" for split, size in sizes.items())
    say(f"split: {shares} ({plan.rule})")
    present = {(row.label, row.split) for row in plan.rows}
    empty = [
        f"class '{name}' has no photo in {split}"
        for label, name in enumerate(class_names)
        for split in store.SPLITS
        if (label, split) not in present
    ]
    if empty:
        warn(f"classes without a photo in a split: {len(empty):,}")
        _list(empty)
    if plan.copies:
        say(f"copies: {plan.copies:,}, each in the split of its original")
    if plan.skipped:
        warn(f"skipped: {len(plan.skipped):,}")
        _list([f"{path}: {reason}" for path, reason in plan.skipped])


def _tell_pairs(pairs: Sequence[Pair], rows: Sequence[Row]) -> None:
    if len(rows) > duplicates.ROWS:
        warn(duplicates.NOT_LOOKED_FOR)
    if pairs:
        photos = count(len(pairs), "pair")
        warn(f"near-duplicates in different splits: {photos} to look at, the most alike first")
        _list(
            [
                f"{rows[one].path} ({rows[one].split}) and {rows[other].path} "
                f"({rows[other].split}): cosine {cosine:.3f}"
                for one, other, cosine in pairs
            ]
        )


def _list(lines: Sequence[str]) -> None:
    for line in lines[:SHOWN]:
        warn(f"  {line}")
    if len(lines) > SHOWN:
        warn(f"  and {len(lines) - SHOWN:,} more, all in the features file")
