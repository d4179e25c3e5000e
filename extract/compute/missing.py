"""Have VGG16 see every image that is not in the cache yet, at every size."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from extract.compute import pipeline, ray_coordinator
from extract.compute.pipeline import Computed
from extract.engines import selection
from extract.store import shard_index, shards
from extract.store.shard_index import ShardRow
from extract.system import console
from extract.system.console import count, say, warn
from extract.system.locations import Location
from extract.vgg16.recipe import SIZE, recipe_digest
from extract.vgg16.weights import Weights


@dataclass
class Images:
    """What is known of the images of a data set so far.

    Attributes
    ----------
    digests : dict of path to digest
        The digest of every file that could be read.
    rows : dict of size to dict of digest to ShardRow
        Where the taps of each image are in the cache.
    unreadable : dict of path to reason
    computed : set of digest
        The images that VGG16 saw in this run.
    """

    digests: dict[str, str]
    rows: dict[int, dict[str, ShardRow]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Job:
    """What computes the photos of a folder, and where the taps go.

    Attributes
    ----------
    root : Path or UPath
        The folder of the photos.
    weights : Weights
    recipes : dict of size to recipe
    own : Path
        The cache of this machine, for the engines and for what is remembered of remote shards.
    cache : Path or UPath
        The cache that gets the shards, which may be shared; the same as `own` by default.
    engine : str
        See `extract.engines.selection.choose`.
    on : str or None
        See `extract.compute.ray_cluster.connected`; None computes in this process.
    """

    root: Location
    weights: Weights
    recipes: dict[int, dict[str, Any]]
    own: Path
    cache: Location
    engine: str
    on: str | None


def compute(images: Images, paths: Sequence[str], job: Job) -> None:
    """Have the taps of every photo at every size in the cache, and note where they are.

    Parameters
    ----------
    images : Images
        Brought up to date.
    paths : sequence of str
        Relative to the root.
    job : Job
    """
    while True:
        for size in job.recipes:
            _compute_size(images, paths, job, size)
        # A photo that changed between two passes has a digest that the first pass never saw.
        if not any(_pending(images, paths, size) for size in job.recipes):
            return


def _compute_size(images: Images, paths: Sequence[str], job: Job, size: int) -> None:
    """Have the taps of every photo at one size in the cache."""
    the_recipe = job.recipes[size]
    folder = recipe_digest(the_recipe)
    read_index = partial(
        shard_index.read,
        job.cache / folder,
        the_recipe,
        memory=job.own / folder / "elsewhere.txt",
    )
    name = "VGG16" if size == SIZE else f"VGG16 at {size} x {size}"
    images.rows[size] = read_index()
    reused = len(images.rows[size].keys() & set(images.digests.values()))
    started = time.monotonic()
    computed = Computed.nothing()
    # A photo that changes while it is read has another digest than its copies: look again.
    while pending := _pending(images, paths, size):
        try:
            with console.progress(name, len(pending), unit="photos") as advance:
                done = _compute_photos(pending, job, size, advance)
        except console.Stopped:
            kept = len(read_index()) - len(images.rows[size])
            warn(f"{name}: {kept:,} of {count(len(pending), 'image')} computed and kept")
            raise
        computed.add(done)
        images.computed |= set(done.digests.values())
        images.unreadable |= _with_copies(done.unreadable, images.digests)
        images.digests |= done.digests
        images.rows[size] = read_index()
    if computed.digests:
        _report(name, computed, time.monotonic() - started, reused)


def _compute_photos(
    paths: Sequence[str], job: Job, size: int, advance: Callable[..., None]
) -> Computed:
    """Compute photos in this process, or on the machines of a cluster."""
    the_recipe = job.recipes[size]
    folder = recipe_digest(the_recipe)
    if job.on is not None:
        return ray_coordinator.compute(
            job.root,
            paths,
            on=job.on,
            weights=job.weights,
            recipe=the_recipe,
            folder=job.cache / folder,
            own=job.own / folder,
            engine=job.engine,
            advance=advance,
        )
    with shards.Writer(job.cache / folder, the_recipe) as writer:
        return pipeline.compute(
            job.root,
            paths,
            build_engine=lambda photos: selection.choose(
                job.engine, job.weights, photos, folder=job.own / folder
            ),
            writer=writer,
            advance=advance,
            size=size,
        )


def _pending(images: Images, paths: Sequence[str], size: int) -> list[str]:
    """Return one path of every image that is neither in the cache nor known to be unreadable."""
    first: dict[str, str] = {}
    for path in paths:
        digest = images.digests.get(path, f"unknown: {path}")
        if digest not in images.rows[size] and path not in images.unreadable:
            first.setdefault(digest, path)
    return list(first.values())


def _with_copies(unreadable: dict[str, str], digests: dict[str, str]) -> dict[str, str]:
    """Give the copies of an unreadable file its reason."""
    reasons = {digests[path]: reason for path, reason in unreadable.items() if path in digests}
    copies = {path: reasons[digest] for path, digest in digests.items() if digest in reasons}
    return copies | unreadable


def _report(name: str, computed: Computed, seconds: float, reused: int) -> None:
    n = len(computed.digests)
    speed = f"{seconds:.0f} s, {n / seconds:.1f} photos/s"
    say(f"{name}: {count(n, 'image')} computed ({speed}), {reused:,} reused")
    shares = ", ".join(f"{stage} {of / seconds:.1%}" for stage, of in computed.seconds.items())
    say(f"  share of the time, many at once: {shares}")
