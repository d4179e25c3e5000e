"""Compute the taps of every image that is not in the cache yet, at every size."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from extract.compute import pipeline, ray_coordinator
from extract.compute.activations import Wanted, WriterOfBoth
from extract.compute.job import Job
from extract.compute.pipeline import STAGES, Computed
from extract.engines import selection
from extract.store import shard_index, shards
from extract.store.shard_index import ShardRow
from extract.system import console
from extract.system.console import count, say, warn
from extract.vgg16.recipe import SIZE


@dataclass
class Images:
    """What is known so far about the images of a data set.

    Attributes
    ----------
    digests : dict of path to digest
        The digest of every file that could be read.
    rows : dict of size to dict of digest to ShardRow
        Where the taps of each image are in the cache.
    unreadable : dict of path to reason
    computed : set of digest
        The images whose taps were computed in this run.
    learn : callable
        Called with the digests of files that machines of a cluster have read.
    """

    digests: dict[str, str]
    rows: dict[int, dict[str, ShardRow]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)
    learn: Callable[[Mapping[str, str]], None] = lambda digests: None


def compute(
    images: Images,
    paths: Sequence[str],
    jobs: Sequence[Job],
    *,
    on: str | None,
    wanted: Wanted | None = None,
) -> None:
    """Compute the missing taps of all photos at every size, and note where in the cache they are.

    Parameters
    ----------
    images : Images
        It is updated in place.
    paths : sequence of str
        Photos, relative to the root of the jobs.
    jobs : sequence of Job
        One for each size.
    on : str or None
        See `extract.compute.ray_cluster.connected`; None computes in this process.
    wanted : Wanted or None
        Activations to keep as well. A cluster does not keep them.
    """
    for job in jobs:
        images.rows[job.size] = _read_index(job)
    # A photo that changes between two passes has a digest that the first one never saw.
    while unfinished := [
        (job, pending) for job in jobs if (pending := _pending(images, paths, job.size))
    ]:
        job, pending = unfinished[0]
        started = time.monotonic()
        with _watched(job, images, len(pending)) as advance:
            if on is not None:
                hashed = all(path in images.digests for path in pending)
                done = ray_coordinator.compute(
                    job,
                    pending,
                    on=on,
                    advance=advance,
                    known=() if hashed else images.rows[job.size],
                    learn=images.learn,
                )
            else:
                of_size = wanted if job.size == SIZE else None
                done = _compute_here(job, pending, advance, of_size)
        images.digests |= done.others | done.digests
        reused = len(images.rows[job.size].keys() & set(images.digests.values()))
        _report(job, done, time.monotonic() - started, reused)
        images.computed |= set(done.digests.values())
        images.unreadable |= _with_copies(done.unreadable, images.digests)
        images.rows[job.size] = _read_index(job)
        shard_index.require(images.rows[job.size], done.digests.values(), job.shard_folder)


def without_pairs(jobs: Sequence[Job], images: Images) -> int:
    """Return how many of the images are in the cache without their pairs of channels."""
    digests = set(images.digests.values())
    found: set[str] = set()
    for job in jobs:
        found |= (_own_index(job).keys() - _own_index(job.with_pairs()).keys()) & digests
    return len(found)


def _compute_here(
    job: Job, pending: Sequence[str], advance: Callable[[int], None], wanted: Wanted | None
) -> Computed:
    choose = partial(
        selection.choose,
        job.engine,
        job.weights,
        folder=job.local_folder,
        expected=len(pending),
        outputs=(*job.taps, wanted.layer) if wanted else job.taps,
    )
    writer = shards.Writer(job.shard_folder, job.recipe)
    if wanted:
        writer = both = WriterOfBoth(job, wanted)
    with writer:
        done = pipeline.compute(
            job.root,
            pending,
            build_engine=choose,
            writer=writer,
            advance=advance,
        )
    if wanted:
        say(f"{wanted.layer}, plain: {count(both.maps.written, 'photo')} kept for fine-tuning")
    return done


def _read_index(job: Job) -> dict[str, ShardRow]:
    """Find the images in the shards of a recipe, and in those that have pairs of channels, too."""
    found: dict[str, ShardRow] = {}
    for one in (job,) if "pairs" in job.recipe else (job.with_pairs(), job):
        found |= _own_index(one)
    return found


def _own_index(job: Job) -> dict[str, ShardRow]:
    memory = job.local_folder / "elsewhere.txt"
    return shard_index.read(job.shard_folder, job.recipe, memory=memory)


@contextmanager
def _watched(job: Job, images: Images, photos: int) -> Iterator[Callable[..., None]]:
    """Show the progress of a pass; if it is stopped, say how many photos were computed."""
    try:
        with console.progress(_name(job), photos, unit="photos") as advance:
            yield advance
    except console.Stopped:
        computed = len(_read_index(job)) - len(images.rows[job.size])
        warn(f"{_name(job)}: {computed:,} of {count(photos, 'image')} computed and kept")
        raise


def _name(job: Job) -> str:
    return "VGG16" if job.size == SIZE else f"VGG16 at {job.size} x {job.size}"


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


def _report(job: Job, done: Computed, seconds: float, reused: int) -> None:
    n = len(set(done.digests.values()))
    if n:
        speed = f"{seconds:.0f} s, {n / seconds:.1f} photos/s"
        computed = f"{_name(job)}: {count(n, 'image')} computed ({speed}), {reused:,} reused"
        say(f"{computed}; {done.limit()} was the limit")
        shares = [f"{stage} {done.seconds[stage] / seconds:.1%}" for stage in STAGES]
        say(f"  share of the time, many at once: {', '.join(shares)}")
