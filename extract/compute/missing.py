"""Have VGG16 see every image that is not in the cache yet, at every size."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from extract.compute import pipeline, ray_coordinator
from extract.compute.job import Job
from extract.compute.pipeline import Computed
from extract.engines import selection
from extract.engines.base import Engine
from extract.store import shard_index, shards
from extract.store.shard_index import ShardRow
from extract.system import console
from extract.system.console import count, say, warn
from extract.vgg16.recipe import SIZE


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


def compute(images: Images, paths: Sequence[str], jobs: Sequence[Job], *, on: str | None) -> None:
    """Have the taps of every photo at every size in the cache, and note where they are.

    Parameters
    ----------
    images : Images
        Brought up to date.
    paths : sequence of str
        Relative to the root.
    jobs : sequence of Job
        One for each size.
    on : str or None
        See `extract.compute.ray_cluster.connected`; None computes in this process.
    """
    while True:
        for job in jobs:
            _compute_size(images, paths, job, on)
        # A photo that changed between two passes has a digest that the first pass never saw.
        if not any(_pending(images, paths, job.size) for job in jobs):
            return


def _compute_size(images: Images, paths: Sequence[str], job: Job, on: str | None) -> None:
    """Have the taps of every photo at one size in the cache."""
    size = job.size
    read_index = partial(
        shard_index.read,
        job.shard_folder,
        job.recipe,
        memory=job.local_folder / "elsewhere.txt",
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
                if on is None:
                    done = _compute_here(job, pending, advance)
                else:
                    done = ray_coordinator.compute(job, pending, on=on, advance=advance)
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


def _compute_here(job: Job, paths: Sequence[str], advance: Callable[[int], None]) -> Computed:
    """Compute photos in this process."""

    def build_engine(photos: NDArray[np.uint8]) -> Engine:
        return selection.choose(job.engine, job.weights, photos, folder=job.local_folder)

    with shards.Writer(job.shard_folder, job.recipe) as writer:
        return pipeline.compute(
            job.root,
            paths,
            build_engine=build_engine,
            writer=writer,
            advance=advance,
            size=job.size,
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
