"""Shards: immutable HDF5 files of the cache, each with the digests and taps of some images.

A shard is written whole or not at all, and is never changed. A damaged shard is not deleted: it is
set aside under another name, and its images are computed again.
"""

import hashlib
import io
import json
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from extract.store import hdf5
from extract.system import availability, locations
from extract.system.console import InputError, finishing, warn
from extract.system.locations import Location
from extract.vgg16 import pairs
from extract.vgg16.recipe import ALL_TAPS, MAPS, PAIRS, dtype_of, pairs_added, recipe_digest

if TYPE_CHECKING:
    from upath import UPath

SCHEMA = 1

SHARD_IMAGES = 256

LARGE_SHARD_BYTES = 32_000_000
"""The taps of a shard from a fast network. Each shard costs some 50 ms, however small it is."""

CHUNK_ROWS = 64

SHARD_SECONDS = 60.0

LARGEST = 2**30
"""No shard takes more memory than this many bytes, but a few bytes of HDF5 can stand for them."""

Taps = Mapping[str, NDArray[np.floating[Any]]]


class Damaged(Exception):
    """A shard cannot be used.

    Attributes
    ----------
    shard : Path or UPath
    reason : str
    """

    def __init__(self, shard: Location, reason: object) -> None:
        super().__init__(f"{shard}: {reason}")
        self.shard = shard
        self.reason = str(reason)


class Shard(NamedTuple):
    """What is in a shard.

    Attributes
    ----------
    digests : list of str, length n
    taps : dict of tap name to ndarray of shape (n, ...)
        They have the shapes and the dtype that the recipe names.
    engine : str
    seconds : float
        The time it took to compute these images.
    """

    digests: list[str]
    taps: Taps
    engine: str
    seconds: float


def cache_of(out: Path) -> Path:
    """Return the cache folder that all data sets below `out` share."""
    return out / "features" / "cache"


def folder_of(out: Path, recipe: dict[str, Any]) -> Path:
    """Return the folder of a recipe's shards."""
    return cache_of(out) / recipe_digest(recipe)


def engines_of(cache: Path, plain_recipe: dict[str, Any]) -> Path:
    """Return the folder that keeps converted networks and the checks of engines for a recipe.

    If there are features with pairs of channels, it is theirs, so that no engine is checked twice.
    """
    richer = cache / recipe_digest(pairs_added(plain_recipe))
    return richer if richer.is_dir() else cache / recipe_digest(plain_recipe)


def files(folder: Location) -> list[Location]:
    """Return the shards in a recipe's folder, except those being written or set aside."""
    if isinstance(folder, Path):
        return [*listed(folder)]
    return [folder / name for name in sorted(sizes(folder))]


def listed(folder: Path) -> list[Path]:
    """Return the HDF5 files in a folder, sorted; none if there is no folder.

    Raises
    ------
    Unavailable
        If the folder cannot be read. `Path.glob` would take it for empty.
    """
    with availability.expected(folder), suppress(FileNotFoundError):
        names = sorted(os.listdir(folder))
        # macOS leaves ._photos.h5 beside photos.h5 on foreign disks.
        return [folder / name for name in names if name.endswith(".h5") and name[:2] != "._"]
    return []


def sizes(folder: "UPath") -> dict[str, int]:
    """Return the sizes in bytes of the shards in a recipe's folder of a store, by name."""
    return {name: size for name, size in locations.sizes(folder).items() if name.endswith(".h5")}


class Writer:
    """Collect taps, and write a shard after 256 images or 60 seconds, whichever comes first.

    At the end of the ``with`` block the rest is written, also after an exception. Threads may add
    batches, and then write several shards at once.

    Parameters
    ----------
    folder : Path or UPath
        The folder of the recipe's shards.
    recipe : dict
    timed : bool
        Whether the shards record the time that passed. False if the shards of another writer do,
        which is given something else of the same photos.
    images : int or None
        The number of images after which a shard is written, if it is not 256.

    Attributes
    ----------
    waiting : int
        How many images may wait until a shard is written: few, but for a fast network.
    written : int
        The number of images in the shards written so far.
    """

    def __init__(
        self,
        folder: Location,
        recipe: dict[str, Any],
        *,
        timed: bool = True,
        images: int | None = None,
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self.timed = timed
        self.images = images or SHARD_IMAGES
        self.waiting = 0
        self.written = 0
        self.engine = ""
        self.lock = threading.Lock()
        # One list holds both, so a signal never finds the digests of a batch without its taps.
        self.batches: list[tuple[Sequence[str], Taps]] = []
        self.since = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # After a failed write, another one would fail as well and hide the reason.
        if not isinstance(error, OSError):
            self.flush()

    def add(self, digests: Sequence[str], taps: Taps, *, engine: str) -> None:
        """Add the taps of a batch; each has one row per photo, in the order of `digests`."""
        if any(len(taps[tap]) != len(digests) for tap in shapes(self.recipe)):
            raise ValueError(f"{engine} did not return one row per photo for every tap")
        if not all(np.isfinite(values).all() for values in taps.values()):
            raise InputError(
                f"{engine}: VGG16 gave values that are not finite; check the weights, or choose "
                "another --engine"
            )
        batch = digests, {**taps, **_in_range(taps)}
        with self.lock:
            self.engine = engine
            self.batches.append(batch)
            late = time.monotonic() - self.since >= SHARD_SECONDS
            full = sum(len(batch) for batch, _ in self.batches) >= self.images
        if late or full:
            self.flush()

    def expect_many(self) -> None:
        """Write larger shards from now on, because a fast network must not wait for each."""
        image = sum(
            math.prod(shape) * np.dtype(dtype_of(tap, self.recipe)).itemsize
            for tap, shape in shapes(self.recipe).items()
        )
        self.waiting = int(LARGE_SHARD_BYTES // image)
        self.images = max(self.images, self.waiting)

    def flush(self) -> None:
        """Write the batches that are held as one shard."""
        with finishing():
            with self.lock:
                batches, self.batches = self.batches, []
                seconds = time.monotonic() - self.since if self.timed else 0.0
                self.since = time.monotonic()
            if not batches:
                return
            try:
                write(self.folder, self._shard(batches, seconds), self.recipe)
            except BaseException:
                with self.lock:
                    self.batches = batches + self.batches
                raise
            with self.lock:
                self.written += sum(len(digests) for digests, _ in batches)

    def _shard(self, batches: Sequence[tuple[Sequence[str], Taps]], seconds: float) -> Shard:
        digests = [digest for batch, _ in batches for digest in batch]
        taps = {
            tap: np.concatenate([taps[tap] for _, taps in batches]) for tap in shapes(self.recipe)
        }
        return Shard(digests, taps, self.engine, seconds)


def _in_range(taps: Taps) -> Taps:
    """Return the taps of pairs as they are stored; their type cannot hold every number."""
    return {
        tap: taps[tap].clip(-pairs.LARGEST, pairs.LARGEST).astype(pairs.DTYPE)
        for tap in PAIRS
        if tap in taps
    }


def write(folder: Location, shard: Shard, recipe: dict[str, Any]) -> Location:
    """Write a shard, named by the images in it, and return its path."""
    # The file is built in memory, so on a full disk one plain write fails, and nothing in HDF5. The
    # images that HDF5 1.14.6 gives of its own files in memory have a wrong checksum.
    image = io.BytesIO()
    # From format v110 on, all structures of HDF5 have checksums; without them one flipped bit can
    # crash the process. Texts of variable length have no checksum, so texts are stored as bytes.
    with finishing(), h5py.File(image, "w", libver=("v110", "v110")) as file:
        # The taps come last, so the first bytes of a remote shard show which images it holds.
        file.attrs["schema"] = SCHEMA
        file.attrs["recipe"] = np.bytes_(json.dumps(recipe, sort_keys=True).encode())
        file.attrs["recipe_digest"] = np.bytes_(recipe_digest(recipe).encode())
        file.attrs["content_digest"] = np.bytes_(_content_digest(shard, recipe).encode())
        file.attrs["engine"] = np.bytes_(shard.engine.encode())
        file.attrs["seconds"] = shard.seconds
        file["digest"] = np.array(shard.digests, dtype="S64")
        for tap, shape in shapes(recipe).items():
            whole = (len(shard.digests), *shape)
            create_tap(file, tap, whole, dtype_of(tap, recipe))[:] = shard.taps[tap]
    path = folder / name_of(shard.digests)
    locations.write_bytes(path, image.getvalue())
    return path


def name_of(digests: Sequence[str]) -> str:
    """Return the file name of the shard that holds these images in this order."""
    return f"{hashlib.sha256(''.join(digests).encode()).hexdigest()[:32]}.h5"


def create_tap(file: h5py.File, tap: str, shape: tuple[int, ...], dtype: str) -> h5py.Dataset:
    """Create the dataset of a tap, in chunks of rows with Fletcher-32 checksums.

    A map of activations is large and mostly zeros, so it is compressed. Its chunks are single rows,
    because training reads rows in any order.
    """
    n, *values = shape
    # Chunks are stored whole. Equal ones leave little of the last one empty.
    chunk_rows = math.ceil(n / math.ceil(n / CHUNK_ROWS)) if n else 1
    options: dict[str, Any] = {"chunks": (chunk_rows, *values)}
    if len(values) > 1:
        options = {"chunks": (1, *values), "compression": "lzf", "shuffle": True}
    return file.create_dataset(f"taps/{tap}", shape, dtype, fletcher32=True, **options)


def shapes(recipe: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every array that a recipe stores per photo, in shard order."""
    kept = recipe["taps"]
    return {tap: tuple(np.atleast_1d(kept[tap])) for tap in (*ALL_TAPS, *MAPS) if tap in kept}


def read(path: Location) -> Shard:
    """Read a whole shard and check it against its content digest.

    Raises
    ------
    Damaged
        If it was cut short or changed, or is not a shard.
    """
    with opened(path) as file:
        recipe = _recipe(file)
        shard = Shard(
            read_digests(file, recipe),
            {tap: file[f"taps/{tap}"][:] for tap in shapes(recipe)},
            text_attribute(file, "engine"),
            float(file.attrs["seconds"]),
        )
        if _content_digest(shard, recipe) != text_attribute(file, "content_digest"):
            raise ValueError("its content is not what was written")
        if not all(np.isfinite(values).all() for values in shard.taps.values()):
            raise ValueError("it has values that no photo gives")
        return shard


def digests_of(path: Location) -> list[str]:
    """Return the digests of a shard's images without reading their taps.

    Raises
    ------
    Damaged
        If it is not a shard.
    """
    with opened(path) as file:
        return read_digests(file, _recipe(file))


def join(folder: Location, paths: Sequence[Location], needed: Set[str]) -> list[Location]:
    """Write the needed images of some shards as few new shards; memory holds only a few at a time.

    Returns
    -------
    list of Path or UPath
        The new shards; the old ones stay.

    Raises
    ------
    Damaged
        If an old shard is not what was written.
    """
    left = set(needed)
    written: list[Location] = []
    # A shard names one engine, so images from different engines stay apart.
    waiting: dict[str, Shard] = {}
    for path in paths:
        shard = _only(read(path), left)
        left -= set(shard.digests)
        held = waiting.pop(shard.engine, None)
        joined = _together(held, shard) if held else shard
        if len(joined.digests) >= SHARD_IMAGES:
            written.append(write(folder, joined, _recipe_of(path)))
        else:
            waiting[shard.engine] = joined
    written += [write(folder, shard, _recipe_of(paths[0])) for shard in waiting.values()]
    return written


def set_aside(damaged: Damaged) -> None:
    """Rename a damaged shard, so that it is neither used nor lost, and warn."""
    aside = f"{damaged.shard.name}.damaged"
    locations.move(damaged.shard, aside)
    warn(f"{damaged}; set aside as {aside}, its images are computed again")


def rows(shard: Location, wanted: Sequence[int], taps: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read some rows of a shard, by the name of the tap; checksums guard them.

    Raises
    ------
    Damaged
        If the rows cannot be read.
    """
    with opened(shard) as file:
        return {tap: np.stack([file[f"taps/{tap}"][row] for row in wanted]) for tap in taps}


def _only(shard: Shard, digests: Set[str]) -> Shard:
    rows = [row for row, digest in enumerate(shard.digests) if digest in digests]
    return Shard(
        [shard.digests[row] for row in rows],
        {tap: values[rows] for tap, values in shard.taps.items()},
        shard.engine,
        shard.seconds * len(rows) / len(shard.digests),
    )


def _together(one: Shard, other: Shard) -> Shard:
    return Shard(
        one.digests + other.digests,
        {tap: np.concatenate([one.taps[tap], other.taps[tap]]) for tap in one.taps},
        one.engine,
        one.seconds + other.seconds,
    )


@contextmanager
def opened(path: Location) -> Iterator[h5py.File]:
    """Open a shard; if its content cannot be read, it is damaged.

    Raises
    ------
    Damaged
    Unavailable
        If the shard cannot be read at this moment.
    """
    try:
        with finishing(), hdf5.open_whole(path) as file, availability.expected(path):
            yield file
    except InputError:
        raise
    # HDF5 raises exceptions of many types on a damaged or foreign file.
    except Exception as error:
        raise Damaged(path, error) from error


def _recipe_of(path: Location) -> dict[str, Any]:
    with opened(path) as file:
        return _recipe(file)


def _recipe(file: h5py.File) -> dict[str, Any]:
    recipe: dict[str, Any] = json.loads(text_attribute(file, "recipe"))
    return recipe


def text_attribute(file: h5py.File, name: str) -> str:
    """Read an attribute that was stored as UTF-8 bytes."""
    return bytes(file.attrs[name]).decode()


def read_digests(file: h5py.File, recipe: dict[str, Any]) -> list[str]:
    """Read the digests of an open shard and check that its taps fit them.

    Raises
    ------
    ValueError
        If they do not fit, or the shard has another schema.
    """
    if file.attrs["schema"] != SCHEMA:
        raise ValueError(f"its schema is {file.attrs['schema']}, and this version reads {SCHEMA}")
    kept = [file["digest"], *(file[f"taps/{tap}"] for tap in shapes(recipe))]
    if sum(dataset.nbytes for dataset in kept) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST / 1e6:,.0f} MB")
    digests: list[str] = file["digest"].asstr("ascii")[:].tolist()
    expected = {tap: (len(digests), *shape) for tap, shape in shapes(recipe).items()}
    if not digests or {tap: file[f"taps/{tap}"].shape for tap in expected} != expected:
        raise ValueError("its taps do not fit its digests")
    return digests


def _content_digest(shard: Shard, recipe: dict[str, Any]) -> str:
    """Return the SHA-256 over everything that `read` returns."""
    about = [shard.digests, shard.engine, shard.seconds, recipe]
    sha256 = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for tap in shapes(recipe):
        little = np.dtype(dtype_of(tap, recipe)).newbyteorder("<")
        sha256.update(np.ascontiguousarray(shard.taps[tap], dtype=little).data)
    return sha256.hexdigest()
