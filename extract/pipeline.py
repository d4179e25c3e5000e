"""Photos through the network: reading and decoding run ahead while the network computes."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract import images
from extract.engines import Engine
from extract.recipe import SIZE
from extract.shards import Writer

BATCH_SIZE = 32
READERS = 2
READ_AHEAD = 3 * BATCH_SIZE


class Read(NamedTuple):
    """A file as it was read: the digest and the pixels are of the same bytes.

    Attributes
    ----------
    path : str
    digest : str
        Empty where the file could not be read at all.
    photo : ndarray of shape (size, size, 3), uint8, or None
    reason : str
        Why there is no photo.
    """

    path: str
    digest: str
    photo: NDArray[np.uint8] | None
    reason: str


def read(root: Path, path: str, *, size: int = SIZE) -> Read:
    """Read, hash and decode one file."""
    try:
        data = (root / path).read_bytes()
    except OSError as error:
        return Read(path, "", None, f"cannot be read: {error.strerror}")
    digest = hashlib.sha256(data).hexdigest()
    try:
        return Read(path, digest, images.decode(data, size=size), "")
    except images.Unreadable as reason:
        return Read(path, digest, None, str(reason))


def read_ahead(root: Path, paths: Sequence[str]) -> Iterator[Read]:
    """Yield every file in order, decoding the next ones in threads meanwhile."""
    pool = ThreadPoolExecutor(READERS)
    try:
        waiting = iter(paths)
        running: deque[Future[Read]] = deque()
        for path in islice(waiting, READ_AHEAD):
            running.append(pool.submit(read, root, path))
        while running:
            yield running.popleft().result()
            for path in islice(waiting, 1):
                running.append(pool.submit(read, root, path))
    finally:
        pool.shutdown(cancel_futures=True)


def compute(
    root: Path,
    paths: Sequence[str],
    *,
    build_engine: Callable[[NDArray[np.uint8]], Engine],
    writer: Writer,
    advance: Callable[[int], None],
    batch_size: int = BATCH_SIZE,
) -> tuple[dict[str, str], dict[str, str]]:
    """Run the network over files and hand the taps to the writer, batch by batch.

    Parameters
    ----------
    root : Path
    paths : sequence of str
        Files to try, relative to `root`.
    build_engine : callable
        Called with the first batch of photos, and not at all if there is none.
    writer : Writer
    advance : callable
        Told how many files are done.

    Returns
    -------
    digests : dict of path to digest
        Of the very bytes that were computed.
    unreadable : dict of path to reason
    """
    digests: dict[str, str] = {}
    unreadable: dict[str, str] = {}

    def photos() -> Iterator[Read]:
        for item in read_ahead(root, paths):
            if item.photo is None:
                unreadable[item.path] = item.reason
                advance(1)
            else:
                yield item

    engine = None
    readable = photos()
    while batch := list(islice(readable, batch_size)):
        pixels = np.stack([item.photo for item in batch if item.photo is not None])
        engine = engine or build_engine(pixels)
        taps = engine.forward(pixels)
        writer.add([item.digest for item in batch], taps, engine=engine.name)
        digests |= {item.path: item.digest for item in batch}
        advance(len(batch))
    return digests, unreadable
