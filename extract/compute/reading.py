"""Read files, hash them and decode them to squares, one by one or ahead of who wants them."""

import hashlib
import time
from collections.abc import Callable, Container, Generator, Iterable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract.photos import decode, files
from extract.system import threads
from extract.system.console import MEMORY_ADVICE
from extract.system.locations import Location, readable_name, readers
from extract.system.memory import OutOfMemory
from extract.vgg16.recipe import SIZE

BATCH_SIZE = 16
"""Every engine was equally fast with 8, 16 and 32 on two cores; more only takes memory."""

READ_AHEAD_BYTES = 256_000_000
"""The most that decoded photos take which wait to be put into a batch."""


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
