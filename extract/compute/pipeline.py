"""Send photos through the network; files are read, decoded and written while it computes."""

import math
import threading
import time
from collections.abc import (
    Callable,
    Container,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from extract.compute import reader_processes, reading
from extract.compute.reading import BATCH_SIZE, LoadedPhoto
from extract.engines.base import Engine, Taps
from extract.store.shards import Writer
from extract.system import threads
from extract.system.locations import Location
from extract.system.machine import cores
from extract.vgg16.recipe import SIZE

MANY = 1000
"""Processes read photos only if there are so many: threads read this number in about a second."""

FEW_CORES = 4
"""With so many cores or fewer, threads read. A photo holds Python's lock for a sixth of the time
that it takes, so few threads seldom wait for each other, and they hand photos over at no cost."""

LEAST_IDLE = 0.05
"""A network that is idle for less than this share of its time is what the others wait for."""

WRITERS = 2
"""Threads that write what a fast network gives: one alone would write some 3,000 photos/s."""

STAGES = ("engine", "read", "decode", "forward", "write")

WAITS = ("for photos", "for the network", "network idle")
"""How long batches waited for photos, how long they waited for the network, and how long the
network had no batch."""


class Computed(NamedTuple):
    """The outcome for each file.

    Attributes
    ----------
    digests : dict of path to digest
        The digests of the bytes that the network was given.
    others : dict of path to digest
        Those of files that were read but not given to the network: their digest was known, they are
        copies of another file, or they are no photos.
    unreadable : dict of path to reason
    seconds : dict of str to float
        How long each of `STAGES` took, and each of `WAITS`. All stages but the first run at the
        same time.
    """

    digests: dict[str, str]
    others: dict[str, str]
    unreadable: dict[str, str]
    seconds: dict[str, float]

    @classmethod
    def nothing(cls) -> Self:
        """Return an empty outcome, to which others are added."""
        return cls({}, {}, {}, dict.fromkeys((*STAGES, *WAITS), 0.0))

    def add(self, other: Self) -> None:
        """Add the outcome for other files."""
        self.digests.update(other.digests)
        self.others.update(other.others)
        self.unreadable.update(other.unreadable)
        for stage, seconds in other.seconds.items():
            self.seconds[stage] += seconds

    def limit(self) -> str:
        """Say in words which stage the others waited for."""
        seconds = self.seconds
        if seconds["engine"] > seconds["forward"] + seconds["network idle"]:
            return "choosing and building the engine"
        idle = seconds["network idle"]
        if seconds["for the network"] >= idle or idle < LEAST_IDLE * seconds["forward"]:
            return "the network"
        if seconds["write"] > seconds["for photos"]:
            return "writing"
        return "reading" if seconds["read"] > seconds["decode"] else "decoding"


class Batch(NamedTuple):
    """Photos that the network is given together.

    Attributes
    ----------
    paths, digests : list of str
    photos : list of n ndarrays of shape (size, size, 3), uint8
    ready : float
        When it was complete, as `time.perf_counter` counts.
    """

    paths: list[str]
    digests: list[str]
    photos: list[NDArray[np.uint8]]
    ready: float


class _Network:
    """An engine that notes how long it waits for batches, and how long they wait for it.

    Several threads may call it. While one of them computes, it does not wait.
    """

    def __init__(self, engine: Engine, seconds: dict[str, float]) -> None:
        self.engine = engine
        self.seconds = seconds
        self.free = time.perf_counter()
        self.at_work = 0
        self.lock = threading.Lock()

    def forward(self, batch: Batch) -> tuple[Batch, Taps]:
        with self.lock:
            begun = time.perf_counter()
            if not self.at_work:
                self.seconds["network idle"] += begun - self.free
            self.seconds["for the network"] += begun - batch.ready
            self.at_work += 1
        pixels = np.stack(batch.photos)
        # The pixels are in memory once.
        batch.photos.clear()
        taps = self.engine.forward(pixels)
        with self.lock:
            self.free = time.perf_counter()
            self.seconds["forward"] += self.free - begun
            self.at_work -= 1
        return batch, taps


def compute(
    root: Location,
    paths: Sequence[str],
    *,
    build_engine: Callable[[NDArray[np.uint8]], Engine],
    writer: Writer,
    advance: Callable[[int], None],
    batch_size: int | None = None,
    known: Container[str] = (),
) -> Computed:
    """Run the network over files and hand the taps to the writer, batch by batch.

    As many threads read and decode as the network needs. If there are many cores, processes do it
    for an engine that wants larger batches than usual, which only a fast one does. The network has
    a thread of its own, for which a batch waits. Another thread writes, and the calling thread
    assembles batches.

    Parameters
    ----------
    root : Path or UPath
    paths : sequence of str
        Files to try, relative to `root`.
    build_engine : callable
        Called with the first photos. It is not called if there are none.
    writer : Writer
        Its recipe has the side in pixels of the squares that the network takes.
    advance : callable
        Called with the number of files just finished.
    batch_size : int or None
        Photos of 224 x 224 pixels in a batch; see `at_once`. With None, an engine is chosen with
        the first `BATCH_SIZE` photos, and says how many it wants at once.
    known : container of str
        Digests whose taps exist: their files are only read.
    """
    done, size = Computed.nothing(), writer.recipe["size"]
    demand = _Demand(at_once(size, batch_size or BATCH_SIZE))
    with closing(_items(root, paths, size, known, demand)) as items:
        photos = _readable(items, done, advance)
        if not (first := list(islice(photos, demand.photos))):
            return done
        with _timed(done.seconds, "engine"):
            engine = build_engine(np.stack(_pixels(first)))
        if batch_size is None and engine.batch_size != BATCH_SIZE:
            demand.photos = engine.batch_size
        if engine.batch_size > BATCH_SIZE:
            demand.is_fast = True
            writer.expect_many()
        network = _Network(engine, done.seconds)
        # The first batch is filled up to the size that the engine wants.
        batches = _batches(chain(first, photos), demand, done.seconds)
        with closing(_written(batches, network, writer)) as written:
            for batch in written:
                done.digests.update(zip(batch.paths, batch.digests, strict=True))
                advance(len(batch.paths))
    return done


@dataclass
class _Demand:
    """How many photos the network wants together, and whether it is fast."""

    photos: int
    is_fast: bool = False


def _items(
    root: Location, paths: Sequence[str], size: int, known: Container[str], demand: _Demand
) -> Generator[LoadedPhoto, None, None]:
    """Yield every file in order, read by processes if they would be faster than threads."""
    if isinstance(root, Path) and not known and len(paths) >= MANY and cores() > FEW_CORES:
        return reader_processes.read_ahead(
            *(root, paths),
            size=size,
            batch_size=lambda: demand.photos,
            many=lambda: demand.is_fast,
        )
    return reading.read_ahead(root, paths, size=size, known=known, batch_size=lambda: demand.photos)


def _written(
    batches: Iterable[Batch], network: _Network, writer: Writer
) -> Generator[Batch, None, None]:
    """Send batches through the network, and yield each whose taps the writer has."""

    def write(computed: tuple[Batch, Taps]) -> Batch:
        batch, taps = computed
        with _timed(network.seconds, "write"):
            writer.add(batch.digests, taps, engine=network.engine.name)
        return batch

    most = network.engine.in_flight
    writers = WRITERS if writer.waiting else 1
    waiting = max(writer.waiting // network.engine.batch_size, writers)
    # An engine must not be at work when the process ends, and a shard must be written whole.
    in_turn = partial(threads.ahead, patience=None)
    with (
        closing(in_turn(network.forward, batches, workers=most, limit=most)) as computed,
        closing(in_turn(write, computed, workers=writers, limit=waiting)) as written,
    ):
        yield from written


def _readable(
    items: Iterable[LoadedPhoto], done: Computed, advance: Callable[[int], None]
) -> Iterator[LoadedPhoto]:
    """Yield the files that give a photo of their own, and note the others in `done`."""
    given: set[str] = set()
    for item in items:
        done.seconds["read"] += item.seconds[0]
        done.seconds["decode"] += item.seconds[1]
        if item.photo is not None and item.digest not in given:
            given.add(item.digest)
            yield item
            continue
        if item.reason:
            done.unreadable[item.path] = item.reason
        if item.digest:
            done.others[item.path] = item.digest
        advance(1)


def _batches(
    items: Iterator[LoadedPhoto], demand: _Demand, seconds: dict[str, float]
) -> Iterator[Batch]:
    while True:
        with _timed(seconds, "for photos"):
            batch = list(islice(items, demand.photos))
        if not batch:
            return
        paths, digests = [item.path for item in batch], [item.digest for item in batch]
        pixels = _pixels(batch)
        del batch
        yield Batch(paths, digests, pixels, time.perf_counter())


def _pixels(items: Sequence[LoadedPhoto]) -> list[NDArray[np.uint8]]:
    return [item.photo for item in items if item.photo is not None]


def at_once(size: int, batch_size: int = BATCH_SIZE) -> int:
    """Return how many photos of a size make a batch; batches of large photos are small.

    A batch has about as many pixels as `batch_size` photos of 224 x 224, rounded up so that every
    core gets the same number of photos.
    """
    as_many_pixels = batch_size * SIZE**2 / size**2
    return min(batch_size, cores() * math.ceil(as_many_pixels / cores()))


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] += time.perf_counter() - started
