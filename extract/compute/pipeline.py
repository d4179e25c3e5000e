"""Send photos through the network; files are read, decoded and written while it computes."""

import hashlib
import math
import threading
import time
from collections.abc import (
    Callable,
    Container,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain, islice
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from extract.engines.base import Engine, Taps
from extract.photos import decode, files
from extract.store.shards import Writer
from extract.system import threads
from extract.system.console import MEMORY_ADVICE
from extract.system.locations import Location, readable_name, readers
from extract.system.machine import cores
from extract.system.memory import OutOfMemory
from extract.vgg16.recipe import SIZE

BATCH_SIZE = 16
"""Every engine was equally fast with 8, 16 and 32 on two cores; more only takes memory."""

READ_AHEAD_BYTES = 256_000_000
"""The most that decoded photos take which wait to be put into a batch."""

STAGES = ("engine", "read", "decode", "forward", "write")

WAITS = ("for photos", "for the network", "network idle")
"""How long batches waited for photos, how long they waited for the network, and how long the
network had no batch."""


class LoadedPhoto(NamedTuple):
    """A file that was read once: its digest and its pixels come from the same bytes.

    Attributes
    ----------
    path : str
    digest : str
        Empty if the file was not read whole.
    photo : ndarray of shape (size, size, 3), uint8, or None
    reason : str
        Why the file gives no photo. Empty if it gives one, or if its digest was known.
    seconds : tuple of two floats
        The time for reading and hashing, and the time for decoding.
    """

    path: str
    digest: str
    photo: NDArray[np.uint8] | None
    reason: str
    seconds: tuple[float, float] = (0.0, 0.0)


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
        if seconds["for the network"] >= seconds["network idle"]:
            return "the network"
        if seconds["write"] > seconds["for photos"]:
            return "writing"
        return "reading" if seconds["read"] > seconds["decode"] else "decoding"


class Batch(NamedTuple):
    """Photos that the network is given together.

    Attributes
    ----------
    paths, digests : list of str
    pixels : ndarray of shape (n, size, size, 3), uint8
    ready : float
        When it was complete, as `time.perf_counter` counts.
    """

    paths: list[str]
    digests: list[str]
    pixels: NDArray[np.uint8]
    ready: float


class _Network:
    """An engine that notes how long it waits for batches, and how long they wait for it.

    Several threads may call it. While one of them computes, it does not wait.
    """

    def __init__(self, engine: Engine, seconds: dict[str, float]) -> None:
        self.engine = engine
        self.seconds = seconds
        self.built = self.free = time.perf_counter()
        self.at_work = 0
        self.lock = threading.Lock()

    def forward(self, batch: Batch) -> tuple[Batch, Taps]:
        with self.lock:
            begun = time.perf_counter()
            if not self.at_work:
                self.seconds["network idle"] += begun - self.free
            self.seconds["for the network"] += begun - max(batch.ready, self.built)
            self.at_work += 1
        taps = self.engine.forward(batch.pixels)
        with self.lock:
            self.free = time.perf_counter()
            self.seconds["forward"] += self.free - begun
            self.at_work -= 1
        return batch, taps


def read(root: Location, path: str, *, size: int = SIZE, known: Container[str] = ()) -> LoadedPhoto:
    """Read and hash one file, and decode it unless its digest is `known`.

    Raises
    ------
    InputError
        If the file was not read or decoded for a reason that does not lie in this file.
    """
    return read_squares(root, path, known={size: known})[size]


def decoded(path: str, data: bytes, *, size: int = SIZE, known: Container[str] = ()) -> LoadedPhoto:
    """Hash the bytes of a file, and decode them unless their digest is `known`."""
    started = time.perf_counter()
    digest = hashlib.sha256(data).hexdigest()
    between = time.perf_counter()
    photo, reason = None, ""
    if digest not in known:
        try:
            photo = decode.decode_photo(data, size=size)
        except decode.Unreadable as unreadable:
            reason = str(unreadable)
    return LoadedPhoto(
        path, digest, photo, reason, (between - started, time.perf_counter() - between)
    )


def read_ahead(
    root: Location,
    paths: Iterable[str],
    *,
    size: int = SIZE,
    known: Container[str] = (),
    batch_size: Callable[[], int] = lambda: BATCH_SIZE,
) -> Generator[LoadedPhoto, None, None]:
    """Yield every file in order, as `read` returns it; threads read the next ones meanwhile.

    `batch_size` returns how many of them will be wanted together. It may change.
    """
    function = partial(read, root, size=size, known=known)
    most = readers(root)

    def limit() -> int:
        return photos_ahead(batch_size(), size, most)

    return threads.ahead(function, paths, workers=most, limit=limit)


def photos_ahead(batch_size: int, size: int, readers: int) -> int:
    """Return how many photos of a size are read ahead: enough for three batches and all readers.

    They take no more than `READ_AHEAD_BYTES`.
    """
    return min(max(3 * batch_size, 2 * readers), READ_AHEAD_BYTES // (3 * size**2))


Squares = dict[int, LoadedPhoto]
"""One file as squares of several sizes: the sides in pixels, each with what `read` returns."""


def squares(path: str, data: bytes, *, known: Mapping[int, Container[str]]) -> Squares:
    """Decode the bytes of a file once for each size; `known` has the digests known at each."""
    return {size: decoded(path, data, size=size, known=digests) for size, digests in known.items()}


def read_squares(root: Location, path: str, *, known: Mapping[int, Container[str]]) -> Squares:
    """Read one file, and hash and decode it for each size, as `read` does it for one.

    Parameters
    ----------
    root : Path or UPath
    path : str
    known : mapping of int to container of str
        The sides of the squares, each with the digests that are known at this size.

    Raises
    ------
    InputError
        If the file was not read or decoded for a reason that does not lie in this file.
    """
    started = time.perf_counter()
    try:
        with files.content(root, path) as data:
            reading = time.perf_counter() - started
            found = squares(path, data, known=known)
    except decode.Unreadable as error:
        reason = str(error)
    except OutOfMemory as error:
        raise OutOfMemory(f"{readable_name(path)}: {error}") from error
    except MemoryError as error:
        raise OutOfMemory(
            f"{readable_name(path)}: not enough memory to read it; {MEMORY_ADVICE}"
        ) from error
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    else:
        return {
            size: item._replace(seconds=(reading + item.seconds[0], item.seconds[1]))
            for size, item in found.items()
        }
    return {size: LoadedPhoto(path, "", None, reason) for size in known}


def read_squares_ahead(
    root: Location, paths: Iterable[str], *, known: Mapping[int, Container[str]]
) -> Generator[Squares, None, None]:
    """Yield every file in order, as `read_squares` returns it; threads read the next ones."""
    function = partial(read_squares, root, known=known)
    most = readers(root)
    limit = photos_ahead(BATCH_SIZE, sum(known), most)
    return threads.ahead(function, paths, workers=most, limit=limit)


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

    As many threads read and decode as the network needs. The network has a thread of its own, for
    which a batch waits. The calling thread assembles batches and writes.

    Parameters
    ----------
    root : Path or UPath
    paths : sequence of str
        Files to try, relative to `root`.
    build_engine : callable
        Called with the first batch of photos. It is not called if there are no photos.
    writer : Writer
        Its recipe has the side in pixels of the squares that the network takes.
    advance : callable
        Called with the number of files just finished.
    batch_size : int or None
        Photos of 224 x 224 pixels in a batch; see `at_once`. With None, the engine says how many
        photos it wants after the first batch, which has `BATCH_SIZE`.
    known : container of str
        Digests whose taps exist: their files are only read.
    """
    done, size = Computed.nothing(), writer.recipe["size"]
    photos = at_once(size, batch_size or BATCH_SIZE)

    def wanted() -> int:
        return photos

    with closing(read_ahead(root, paths, size=size, known=known, batch_size=wanted)) as files:
        batches = _batches(_readable(files, done, advance), wanted, done.seconds)
        if (first := next(batches, None)) is None:
            return done
        with _timed(done.seconds, "engine"):
            engine = build_engine(first.pixels)
        # Nothing could have been done meanwhile, so nothing was kept waiting.
        done.seconds["for photos"] = 0.0
        if batch_size is None and engine.batch_size != BATCH_SIZE:
            photos = engine.batch_size
        network = _Network(engine, done.seconds)
        given = chain([first], batches)
        # An engine must not be at work when the process ends.
        most = engine.in_flight
        networks = threads.ahead(network.forward, given, workers=most, limit=most, patience=None)
        with closing(networks) as computed:
            for batch, taps in computed:
                with _timed(done.seconds, "write"):
                    writer.add(batch.digests, taps, engine=engine.name)
                done.digests.update(zip(batch.paths, batch.digests, strict=True))
                advance(len(batch.paths))
    return done


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
    items: Iterator[LoadedPhoto], photos: Callable[[], int], seconds: dict[str, float]
) -> Iterator[Batch]:
    while True:
        with _timed(seconds, "for photos"):
            batch = list(islice(items, photos()))
        if not batch:
            return
        pixels = np.stack([item.photo for item in batch if item.photo is not None])
        paths, digests = [item.path for item in batch], [item.digest for item in batch]
        # The pixels are in memory once.
        del batch
        yield Batch(paths, digests, pixels, time.perf_counter())


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
