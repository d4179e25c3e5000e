"""Bring a features file up to date with its photos: list, hash, compute, plan, publish."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract import plan, twins
from extract.compute import missing
from extract.compute.activations import Wanted
from extract.compute.job import Job
from extract.compute.missing import Images
from extract.photos import datasets, duplicates, hashes, manifest, scan, splits, tree
from extract.photos.duplicates import Near
from extract.photos.hashes import Files
from extract.photos.scan import Scan
from extract.plan import Plan
from extract.store import features_file, features_writer, shard_index, shards
from extract.store.features_file import Row
from extract.system import atomic, console, lock, provenance
from extract.system.console import InputError, count, say, warn
from extract.system.locations import Location, readable_name
from extract.vgg16 import weights
from extract.vgg16.recipe import SIZE, SIZES, joint_digest, named, pixels_note, recipe

SHOWN = 10
"""At most this many skipped files and near-duplicates are named on the screen."""

HASHED_HERE = 256
"""With a cluster, more unknown photos than these are read and hashed by the machines that compute
them. Fewer take this machine a moment, and often none of them needs a cluster after that."""


@dataclass(frozen=True)
class Options:
    """How a features file is built.

    Attributes
    ----------
    out : Path
        The folder that has ``features/``.
    seed : int
        The seed of the split.
    weights : Path or None
        A file with VGG16's weights. None takes the published ones.
    background : bool
        Keep a class named BACKGROUND_Google.
    strict : bool
        Treat an unreadable photo as an error.
    rehash : bool
        Read every file again, whatever its size and time say.
    allow_conflicts : bool
        Accept the same photo in two classes.
    engine : str
        What runs VGG16, see `extract.engines.selection.choose`.
    sizes : sequence of int
        Sides in pixels of the squares that VGG16 sees. They are in `recipe.SIZES`, and 224 is
        among them.
    on : str or None
        The cluster that computes, see `extract.compute.ray_cluster.connected`. With None this
        process computes.
    activations : str or None
        A key of `extract.vgg16.recipe.MAPS`. Its activations are kept from the same pass, because
        fine-tuning will start from them.
    keep_twins : bool
        Let the same picture, stored twice in different ways, lie in different splits.
    pairs : str
        Whether the taps of pairs of channels are kept, too, see `extract.vgg16.pairs`: ``yes``,
        ``no``, or ``auto``, which is yes unless photos in the cache would be computed again.
    group_by : str
        How paths name groups, see `extract.photos.scan.grouped`; empty for no groups.
    cache : Path, UPath or None
        The folder that holds every recipe's shards, which others may use at the same time. None
        is the cache below `out`.
    """

    out: Path = Path()
    seed: int = 0
    weights: Path | None = None
    background: bool = False
    strict: bool = False
    rehash: bool = False
    allow_conflicts: bool = False
    engine: str = "auto"
    sizes: Sequence[int] = (SIZE,)
    on: str | None = None
    activations: str | None = None
    keep_twins: bool = False
    pairs: str = "auto"
    group_by: str = ""
    cache: Location | None = None


def build(data: str, options: Options) -> None:
    """Bring ``features/<data>.h5`` up to date with the photos, and report each step.

    Parameters
    ----------
    data : str
        A built-in name, or the path or URL of a folder.
    options : Options

    Raises
    ------
    InputError
        If the photos do not make a data set, or something that is needed cannot be found.
    """
    sizes = _ordered(options.sizes)
    found = _list_photos(data, options)
    path = features_file.path_of(features_file.name_of(data), options.out)
    with lock.held(shards.cache_of(options.out) / "lock"):
        published = _attributes(path)
        before = published.get("manifest", "")
        moved = bool(published) and not datasets.lies_at(data, published["root"], before)
        if moved:
            _refuse_another(path, found, data)
        jobs = _jobs(found.root, sizes, options)
        files = _files(found, options)
        unread: list[str] = []
        if options.on and not moved and len(files.unknown) > HASHED_HERE:
            unread = [*files.unknown]
        images = Images(files.remembered if unread else _hash(files, found), learn=files.learn)
        if moved:
            _refuse_another(path, found, data, images.digests)
        # A photo that was not read may be unlike all others.
        possible = Images(images.digests | dict(zip(unread, unread, strict=True)))
        _refuse_small_classes(found, possible)
        jobs = _decided(jobs, images, options)
        wanted = _wanted(options)
        near = None
        recomputed = shard_index.Recomputed()
        while near is None:
            paths = [photo.path for photo in found.photos]
            missing.compute(images, paths, jobs, on=options.on, wanted=wanted)
            hashes.correct(found.root, images.digests, index=_index(options))
            plan.check(
                found, images, strict=options.strict, allow_conflicts=options.allow_conflicts
            )
            try:
                same = [] if options.keep_twins else twins.find(images, jobs[0], path)
                planned = plan.plan_rows(found, images, same, seed=options.seed)
                _report(planned)
                attributes = _attributes_of(planned, data, jobs, options)
                same_place = attributes.get("manifest", "") == before
                if same_place and attributes.items() <= published.items():
                    say(f"{path}: nothing to do, it has {count(len(planned.rows), 'photo')}")
                    return
                near = _publish(path, planned, images, attributes)
            except shards.Damaged as damaged:
                recomputed.set_aside(damaged, *images.rows.values())
        _report_near(near, planned.rows)
        say(f"{path}: written")


def _refuse_small_classes(found: Scan, images: Images) -> None:
    """Refuse a class that is too small to be split, before hours of computing."""
    class_names, _, given = plan.columns(found.photos, images)
    splits.members(found.class_names, class_names, plan.units(found.photos, images), given)


def _ordered(sizes: Sequence[int]) -> list[int]:
    """Return the sizes in the order of `recipe.SIZES`, each once."""
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
    """Return the attributes of the published file, if there is one; refuse any other file."""
    if not path.exists():
        return {}
    with features_file.open(path) as features:
        return features.attributes


def _list_photos(data: str, options: Options) -> Scan:
    name = features_file.name_of(data)
    _keep_out(data, options)
    found = scanned(data, background=options.background, group_by=options.group_by)
    for note in found.notes:
        warn(note)
    classes = count(len(found.class_names), "class", "classes")
    origin = _manifest_of(data) or found.root
    say(f"{name}: {count(len(found.photos), 'file')} in {classes} at {origin}")
    return found


def scanned(data: str, *, background: bool = False, group_by: str = "") -> Scan:
    """List the photos of a data set with their labels and groups.

    Raises
    ------
    InputError
        If they make no data set.
    """
    if file := _manifest_of(data):
        found = manifest.labelled_photos(file)
    else:
        exclude = () if background else (datasets.BACKGROUND,)
        found = scan.labelled_photos(datasets.locate(data), exclude=exclude)
    return scan.grouped(found, group_by) if group_by else found


def write_manifest(data: str, file: Path, *, background: bool = False, group_by: str = "") -> None:
    """Write a manifest of a data set.

    Raises
    ------
    InputError
        If the photos make no data set, lie in a store, or the file exists.
    """
    found = scanned(data, background=background, group_by=group_by)
    if not isinstance(found.root, Path):
        raise InputError(f"{data}: a manifest names photos on this machine; copy them here")
    for note in found.notes:
        warn(note)
    manifest.write(file, found)
    classes = count(len(found.class_names), "class", "classes")
    say(f"{file}: {count(len(found.photos), 'file')} in {classes}")


def _manifest_of(data: str) -> Path | None:
    return Path(os.path.abspath(data)) if datasets.is_manifest(data) else None


def _refuse_another(
    path: Path, found: Scan, data: str, digests: Mapping[str, str] | None = None
) -> None:
    """Refuse photos that are not those of the published file, as those of a moved folder are.

    Parameters
    ----------
    path : Path
        The published file, whose photos were in another folder.
    found : Scan
    data : str
        What was given as DATA.
    digests : mapping of path to digest, or None
        None compares only paths and classes, which takes no time.
    """
    origin = str(_manifest_of(data) or found.root)
    with features_file.open(path) as features:
        skipped = {name for name, _ in features.skipped}
        names = [features.class_names[label] for label in features.labels]
        published = {
            name: (class_name, digest if digests is not None else None)
            for name, class_name, digest in zip(
                features.paths, names, features.digests, strict=True
            )
        }
        here = {
            photo.path: (photo.class_name, digests.get(photo.path) if digests is not None else None)
            for photo in found.photos
            if photo.path not in skipped
        }
        if here != published:
            advice = ", which has other photos: "
            raise features_file.another_root(path, features.origin, origin, advice)
    if digests is not None:
        say(f"{path}: its photos have moved from {features.origin} to {origin}")


def _jobs(root: Location, sizes: Sequence[int], options: Options) -> list[Job]:
    """Load the weights, and return a job for each size."""
    own_cache = shards.cache_of(options.out)
    # The photos are read next, which may take long.
    atomic.make_writable(own_cache, "--out")
    vgg16 = weights.load(options.weights, cache=own_cache)
    say(f"weights: VGG16 {vgg16.digest[:12]} from {vgg16.origin}")
    if note := pixels_note():
        warn(note)
    jobs = []
    for size in sizes:
        the_recipe = recipe(vgg16.digest, size=size)
        local_folder = shards.folder_of(options.out, the_recipe)
        shard_folder = (options.cache or own_cache) / local_folder.name
        jobs.append(Job(root, vgg16, the_recipe, shard_folder, local_folder, options.engine))
    return jobs


def _decided(jobs: Sequence[Job], images: Images, options: Options) -> list[Job]:
    """Return the jobs with pairs of channels or without, and prepare their folders."""
    chosen = [job.with_pairs() for job in jobs] if _with_pairs(jobs, images, options) else [*jobs]
    for job in chosen:
        _make_ready(job.local_folder, options.cache)
    return chosen


def _with_pairs(jobs: Sequence[Job], images: Images, options: Options) -> bool:
    if options.pairs != "auto":
        return options.pairs == "yes"
    if known := missing.without_pairs(jobs, images):
        say(
            f"pairs of channels: left out, because {count(known, 'image')} had been computed "
            "without them; --pairs yes (PAIRS=yes) computes these again"
        )
    return not known


def _wanted(options: Options) -> Wanted | None:
    """Return the activations that were asked for, unless a cluster computes."""
    if options.activations is None:
        return None
    if options.on is not None:
        say(f"--activations is ignored with --on {options.on}; make finetune computes them")
        return None
    return Wanted(options.activations, options.out)


def _make_ready(folder: Path, cache: Location | None) -> None:
    """Create the folders, and remove what a killed run left where only this program writes."""
    atomic.make_writable(folder, "--out")
    if isinstance(cache, Path):
        atomic.make_writable(cache / folder.name, "--cache")
    # Unfinished shards, downloaded weights and features files.
    for parent in (folder, folder.parent, folder.parent.parent):
        atomic.sweep(parent)


def _keep_out(data: str, options: Options) -> None:
    """Refuse a folder for results inside the photos, where the next run would take it for a class.

    What lies directly beside the class folders is known by its name.
    """
    photos = datasets.folder_of(data)
    if photos is None:
        return
    real = Path(os.path.realpath(photos))
    for folder, option in ((options.out, "--out"), (options.cache, "--cache")):
        if not isinstance(folder, Path):
            continue
        place = Path(os.path.realpath(folder))
        inside = place.is_relative_to(real) and place != real
        if inside and not tree.is_clutter(place.relative_to(real).parts[0]):
            raise InputError(
                f"{folder.absolute()}: inside DATA ({photos}) it would be taken for a class; "
                f"choose a folder outside with {option}"
            )


def _index(options: Options) -> Path:
    return shards.cache_of(options.out) / "digests.sqlite"


def _files(found: Scan, options: Options) -> Files:
    return Files(
        found.root,
        [photo.path for photo in found.photos],
        index=_index(options),
        stamps=found.stamps,
        rehash=options.rehash,
    )


def _hash(files: Files, found: Scan) -> dict[str, str]:
    """Return the digest of every file that can be read, by path."""
    with console.progress("digests", len(found.photos), unit="photos") as advance:
        return files.read(advance)


def _attributes_of(
    planned: Plan, data: str, jobs: Sequence[Job], options: Options
) -> dict[str, Any]:
    """Return the attributes that tell whether a features file is up to date."""
    job, file = jobs[0], _manifest_of(data)
    return {
        "data": features_file.name_of(data),
        "root": readable_name(str(job.root)),
        "weights": job.weights.origin,
        "weights_digest": job.weights.digest,
        "recipe_digest": joint_digest(job.recipe for job in jobs),
        "split_rule": planned.rule,
        "seed": options.seed,
        "asked": json.dumps(_asked(options)),
        "data_digest": features_file.data_digest(planned.rows, planned.class_names),
        "skipped_digest": features_file.skipped_digest(planned.skipped),
        "copies": planned.copies,
        "same_look": 0.0 if options.keep_twins else duplicates.SAME_LOOK,
        **({"manifest": readable_name(str(file))} if file else {}),
        **{named("recipe", job.size): json.dumps(job.recipe) for job in jobs},
    }


def _asked(options: Options) -> dict[str, Any]:
    """Return the options that change the rows, besides seed and sizes, where they were given."""
    names = ("background", "allow_conflicts", "group_by", "keep_twins")
    return {name: value for name in names if (value := getattr(options, name))}


def _publish(path: Path, planned: Plan, images: Images, attributes: Mapping[str, Any]) -> Near:
    """Write the features file and return its near-duplicates.

    Raises
    ------
    Damaged
        If a shard proves damaged. The file stays as it was.
    """
    rows = planned.rows
    digests, split = [row.digest for row in rows], [row.split for row in rows]
    provenance_attributes = {
        "created": provenance.now(),
        "versions": json.dumps(provenance.versions()),
        "images_computed": len(set(digests) & images.computed),
        "images_reused": len(set(digests) - images.computed),
    }
    contents = features_writer.Contents(
        rows,
        planned.class_names,
        planned.skipped,
        {**attributes, **provenance_attributes},
        planned.twins,
    )
    with features_writer.writing(path, contents, images.rows) as draft:
        with console.progress("publishing", len(rows), unit="rows") as advance:
            draft.write_taps(advance)
        compared = duplicates.rows_compared(split)
        with console.progress("near-duplicates", compared, unit="rows") as advance:
            near = duplicates.near(draft.read, digests, split, advance=advance)
        draft.write_near(near)
    return near


def _report(planned: Plan) -> None:
    sizes = dict.fromkeys(features_file.SPLITS, 0)
    for row in planned.rows:
        sizes[row.split] += 1
    shares = ", ".join(f"{split} {size:,}" for split, size in sizes.items())
    say(f"split: {shares} ({planned.rule})")
    present = {(row.label, row.split) for row in planned.rows}
    empty = [
        f"class '{name}' has no photo in {split}"
        for label, name in enumerate(planned.class_names)
        for split in features_file.SPLITS
        if (label, split) not in present
    ]
    if empty:
        warn(f"classes without a photo in a split: {len(empty):,}")
        _warn_each(empty)
    if planned.copies:
        say(f"copies: {planned.copies:,}, each in the split of its original")
    groups = Counter(row.group for row in planned.rows if row.group)
    if groups:
        say(f"groups: {len(groups):,} of {count(groups.total(), 'photo')}, each in one split")
    if planned.twins:
        pictures = {digest for pair in planned.twins for digest in pair[:2]}
        say(
            f"the same picture stored twice, in other sizes or encodings: {len(pictures):,} files, "
            "kept out of different splits (--keep-twins allows them)"
        )
    if planned.skipped:
        warn(f"skipped: {len(planned.skipped):,}")
        _warn_each([f"{path}: {reason}" for path, reason in planned.skipped])


def _report_near(near: Near, rows: Sequence[Row]) -> None:
    if len(rows) > duplicates.ROWS:
        warn(duplicates.NOT_LOOKED_FOR)
    if near.pairs:
        warn(f"near-duplicates in different splits: {near.summary()}, the most alike first")
        _warn_each(
            [
                f"{rows[row].path} ({rows[row].split}) and {rows[other].path} "
                f"({rows[other].split}): cosine {cosine:.3f}"
                for row, other, cosine in near.pairs
            ]
        )


def _warn_each(lines: Sequence[str]) -> None:
    for line in lines[:SHOWN]:
        warn(f"  {line}")
    if len(lines) > SHOWN:
        warn(f"  and {len(lines) - SHOWN:,} more, all in the features file")
