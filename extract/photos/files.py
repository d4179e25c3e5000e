"""Read files of photos within bounded memory, and only those that begin like a photo."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from extract.photos import decode
from extract.photos.decode import Unreadable
from extract.system import locations
from extract.system.locations import Location, Read

BLOCK = 16_000_000
"""Bytes that are read before it is asked whether a file begins like a photo. So nearly every photo
takes one request to a store."""

LARGE = 64_000_000
"""Of the files that have more bytes, one is in memory at a time."""

LARGEST = 600_000_000
"""Files with more bytes are not read. An uncompressed photo of 178 million pixels, the most that
are decoded, has 537 million."""

_one_large = threading.Lock()


@contextmanager
def content(root: Location, path: str = "") -> Iterator[bytes]:
    """Read a whole file for the time of the block.

    Raises
    ------
    Unreadable
        If the file is larger than a block and begins like no photo, or is larger than `LARGEST`.
    OSError
        If this file alone cannot be read.
    InputError
        If the next file could not be read either.
    """
    with locations.opened(root, path) as read:
        data = read(0, BLOCK)
        if len(data) < BLOCK:
            yield data
            return
        _refuse_others(data)
        data += read(BLOCK, LARGE)
        if len(data) < LARGE:
            yield data
            return
        del data
        _refuse_larger(read)
        with _one_large:
            yield read(0, LARGEST)


def digest(read: Read) -> str:
    """Return the SHA-256 of a file, block by block.

    Parameters
    ----------
    read : callable
        See `extract.system.locations.opened`.

    Raises
    ------
    Unreadable
        As `content` does it.
    """
    block = read(0, BLOCK)
    sha256, size = hashlib.sha256(block), len(block)
    if size == BLOCK:
        _refuse_others(block)
        _refuse_larger(read)
    while len(block) == BLOCK:
        block = read(size, size + BLOCK)
        size += len(block)
        sha256.update(block)
    return sha256.hexdigest()


def _refuse_others(start: bytes) -> None:
    if reason := decode.why_no_photo(start):
        raise Unreadable(reason)


def _refuse_larger(read: Read) -> None:
    if read(LARGEST, LARGEST + 1):
        raise Unreadable(f"larger than {LARGEST // 1_000_000} MB, the most that is read of a photo")
