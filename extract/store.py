"""The feature store: immutable shards in a cache, and the published features file.

Any HDF5 tool reads a published file::

    with h5py.File("features/chess.h5") as file:
        X = file["taps/block5_avg"][file["split"].asstr()[:] == "train"]
"""

import hashlib
import io
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from extract import atomic
from extract.console import InputError, warn
from extract.recipe import DTYPE, TAPS, recipe_digest

SCHEMA = 1
SHARD_IMAGES = 256
SHARD_SECONDS = 60.0
ROWS_AT_ONCE = 1024
TEXT = h5py.string_dtype()
MOVE_AWAY = "move it away and run make features (photos already seen are not computed again)"

Taps = Mapping[str, NDArray[np.float32]]


class Place(NamedTuple):
    """Where the taps of an image are: a shard, a row of it, and what the image cost."""

    shard: Path
    row: int
    seconds: float


@dataclass(frozen=True)
class Row:
    """One photo of a published file."""

    path: str
    digest: str
    label: int
    split: str


def name_of(data: str) -> str:
    """Return the name under which features, runs and reports of a data set are stored.

    Raises
    ------
    InputError
        If `data` is a path with no last part to name it by.
    """
    name = Path(os.path.abspath(data)).name
    if not name:
        raise InputError(f"{data}: cannot name a data set after this path; choose a folder in it")
    return name


def file_of(data: str, out: Path) -> Path:
    """Return where the features of `data` are: itself if it is an .h5 file, else below `out`."""
    return Path(data) if data.endswith(".h5") else out / "features" / f"{name_of(data)}.h5"


def cache_of(out: Path) -> Path:
    """Return the cache that all data sets below `out` share."""
    return out / "features" / "cache"


class ShardWriter:
    """Collect taps and write them as shards, at least every 256 images or 60 seconds.

    Leaving the ``with`` block writes what is still held, also when an exception leaves it.

    Parameters
    ----------
    folder : Path
        The cache folder of the recipe.
    recipe : dict
    """

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        self.folder = folder
        self.recipe = recipe
        self.engine = ""
        self.digests: list[str] = []
        self.taps: list[Taps] = []
        self.since = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A write that has just failed would fail again and hide the reason.
        if not isinstance(error, OSError):
            self.flush()

    def add(self, digests: Sequence[str], taps: Taps, *, engine: str) -> None:
        """Take the taps of a batch, each of shape (n, values), in the order of `digests`."""
        if any(len(taps[tap]) != len(digests) for tap in TAPS):
            raise ValueError(f"{engine} did not return one row of every tap a photo")
        self.engine = engine
        self.digests += digests
        self.taps.append(taps)
        late = time.monotonic() - self.since >= SHARD_SECONDS
        if late or len(self.digests) >= SHARD_IMAGES:
            self.flush()

    def flush(self) -> None:
        """Write what is held as one shard."""
        if self.digests:
            taps = {tap: np.concatenate([batch[tap] for batch in self.taps]) for tap in TAPS}
            seconds = time.monotonic() - self.since
            write_shard(
                self.folder,
                self.digests,
                taps,
                recipe=self.recipe,
                engine=self.engine,
                seconds=seconds,
            )
        self.digests, self.taps, self.since = [], [], time.monotonic()


def write_shard(
    folder: Path,
    digests: Sequence[str],
    taps: Taps,
    *,
    recipe: dict[str, Any],
    engine: str,
    seconds: float,
) -> Path:
    """Write one immutable shard, named by the images in it.

    Parameters
    ----------
    digests : sequence of str, length n
    taps : dict of tap name to ndarray of shape (n, values), float32
    seconds : float
        What computing these images took.
    """
    name = hashlib.sha256("".join(digests).encode()).hexdigest()[:32]
    # Built in memory, so that a full disk is met by one plain write and not inside HDF5.
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file["digest"] = np.array(digests, dtype="S64")
        for tap, values in taps.items():
            _create_tap(file, tap, len(digests))[:] = values
        file.attrs["schema"] = SCHEMA
        file.attrs["recipe"] = json.dumps(recipe, sort_keys=True)
        file.attrs["recipe_digest"] = recipe_digest(recipe)
        file.attrs["engine"] = engine
        file.attrs["seconds"] = seconds
    path = folder / f"{name}.h5"
    atomic.write_bytes(path, image.getvalue())
    return path


def _create_tap(file: h5py.File, tap: str, n: int) -> h5py.Dataset:
    chunks = (max(1, min(n, 64)), TAPS[tap])
    shape = (n, TAPS[tap])
    return file.create_dataset(f"taps/{tap}", shape, DTYPE, chunks=chunks, fletcher32=True)


def index(folder: Path, recipe: dict[str, Any]) -> dict[str, Place]:
    """Find every image in the shards of a recipe.

    A shard that cannot be read is named and passed over; its images are computed anew.

    Returns
    -------
    dict of str to Place
        Keyed by the photo's digest.
    """
    places: dict[str, Place] = {}
    for shard in sorted(folder.glob("*.h5")):
        try:
            with h5py.File(shard, "r") as file:
                if file.attrs["recipe_digest"] != recipe_digest(recipe):
                    raise ValueError("made by another recipe")
                digests = file["digest"].asstr("ascii")[:]
                shapes = {tap: file[f"taps/{tap}"].shape for tap in TAPS}
                if shapes != {tap: (len(digests), width) for tap, width in TAPS.items()}:
                    raise ValueError("its taps do not fit its digests")
                seconds = float(file.attrs["seconds"]) / len(digests)
        # HDF5 raises many things on a damaged or foreign file.
        except Exception as error:
            warn(f"{shard}: not a whole shard ({error}); its images are computed anew")
            continue
        places |= {digest: Place(shard, row, seconds) for row, digest in enumerate(digests)}
    return places


def data_digest(rows: Sequence[Row], class_names: Sequence[str]) -> str:
    """Return the SHA-256 over path, digest, class and split of every row, in order."""
    sha256 = hashlib.sha256()
    for row in rows:
        fields = [row.path, row.digest, class_names[row.label], row.split]
        sha256.update(json.dumps(fields).encode() + b"\n")
    return sha256.hexdigest()


def skipped_digest(skipped: Sequence[tuple[str, str]]) -> str:
    """Return the SHA-256 over path and reason of every skipped file, in order."""
    return hashlib.sha256(json.dumps(skipped).encode()).hexdigest()


class _Sink(io.FileIO):
    """A file for HDF5 to write to that keeps a full disk to itself.

    HDF5 crashes the process when a write fails and the file is closed after it. So the first
    failure is kept in `error`, to be raised by whoever opened the file, and writing goes on into
    nothing.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """Cut or extend the file."""
        try:
            return super().truncate(size) if self.error is None else 0
        except OSError as error:
            self.error = error
            return 0

    def check(self) -> None:
        """Raise what made a write fail."""
        if self.error is not None:
            raise OSError(self.error.errno, self.error.strerror, os.fsdecode(self.name))


def publish(
    path: Path,
    rows: Sequence[Row],
    places: Mapping[str, Place],
    *,
    class_names: Sequence[str],
    skipped: Sequence[tuple[str, str]],
    attributes: Mapping[str, Any],
) -> None:
    """Write the features file of a data set from the shards, whole or not at all.

    Parameters
    ----------
    rows : sequence of Row
        In sorted path order.
    places : mapping of digest to Place
        Where the taps are; must name every row's digest.
    skipped : sequence of (path, reason)
    attributes : mapping
        Root attributes beside schema and seconds.
    """
    with atomic.replacing(path) as temporary, _Sink(temporary, "w+") as sink:
        try:
            with h5py.File(sink, "w") as file:
                file["path"] = np.array([row.path for row in rows], dtype=TEXT)
                file["digest"] = np.array([row.digest for row in rows], dtype="S64")
                file["label"] = np.array([row.label for row in rows], dtype=np.int64)
                file["split"] = np.array([row.split for row in rows], dtype=TEXT)
                file["class_names"] = np.array(class_names, dtype=TEXT)
                file["skipped/path"] = np.array([path for path, _ in skipped], dtype=TEXT)
                file["skipped/reason"] = np.array([reason for _, reason in skipped], dtype=TEXT)
                for tap in TAPS:
                    _create_tap(file, tap, len(rows))
                for start in range(0, len(rows), ROWS_AT_ONCE):
                    wanted = [places[row.digest] for row in rows[start : start + ROWS_AT_ONCE]]
                    for tap, values in _gather(wanted).items():
                        file[f"taps/{tap}"][start : start + len(wanted)] = values
                    sink.check()
                distinct = {row.digest for row in rows}
                file.attrs["schema"] = SCHEMA
                file.attrs["seconds"] = sum(places[digest].seconds for digest in distinct)
                file.attrs.update(attributes)
        finally:
            sink.check()


def _gather(places: Sequence[Place]) -> dict[str, NDArray[np.float32]]:
    """Read the taps of some images, opening each shard once."""
    taps = {tap: np.empty((len(places), width), np.float32) for tap, width in TAPS.items()}
    by_shard: dict[Path, list[int]] = {}
    for position, place in enumerate(places):
        by_shard.setdefault(place.shard, []).append(position)
    for shard, positions in by_shard.items():
        rows = [places[position].row for position in positions]
        try:
            with h5py.File(shard, "r") as file:
                for tap, values in taps.items():
                    values[positions] = file[f"taps/{tap}"][:][rows]
        except OSError as error:
            raise InputError(
                f"{shard}: damaged ({error}); remove it and run the same command again, its images "
                "are computed anew"
            ) from error
    return taps


class Features:
    """A published features file, open for reading; use it in a ``with`` block.

    Attributes
    ----------
    data, data_digest, recipe_digest : str
    class_names : list of str, length k
    paths : list of str, length n
    digests : list of str, length n
    labels : ndarray of shape (n,), int64
    splits : ndarray of shape (n,), str
    skipped : list of (path, reason)
    seconds : float
        What computing these images cost, whenever that was.
    widths : dict of str to int
        Values of each tap, deepest first.
    attributes : dict
        Every root attribute.
    """

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self.attributes = dict(file.attrs)
        self.data = str(file.attrs["data"])
        self.data_digest = str(file.attrs["data_digest"])
        self.recipe_digest = str(file.attrs["recipe_digest"])
        self.seconds = float(file.attrs["seconds"])
        self.class_names: list[str] = file["class_names"].asstr()[:].tolist()
        self.paths: list[str] = file["path"].asstr()[:].tolist()
        self.digests: list[str] = file["digest"].asstr("ascii")[:].tolist()
        self.labels: NDArray[np.int64] = file["label"][:]
        self.splits: NDArray[np.str_] = file["split"].asstr()[:].astype(str)
        self.skipped: list[tuple[str, str]] = list(
            zip(
                file["skipped/path"].asstr()[:],
                file["skipped/reason"].asstr()[:],
                strict=True,
            )
        )
        self.widths = {tap: file[f"taps/{tap}"].shape[1] for tap in TAPS}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.file.close()

    def rows(self, *splits: str) -> NDArray[np.intp]:
        """Return the row numbers of the given splits, in path order."""
        return np.flatnonzero(np.isin(self.splits, splits))

    def read(self, taps: Iterable[str], *splits: str) -> NDArray[np.float32]:
        """Read taps of the given splits side by side, of shape (rows, values), float32."""
        rows = self.rows(*splits)
        try:
            return np.hstack([self.file[f"taps/{tap}"][:][rows] for tap in taps])
        except OSError as error:
            raise InputError(f"{self.file.filename}: damaged ({error}); {MOVE_AWAY}") from error


def open(path: Path) -> Features:
    """Open a published features file.

    Raises
    ------
    InputError
        If it is not there, damaged, of another schema or not a features file.
    """
    if not path.exists():
        raise InputError(f"{path}: not there; run make features first")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: damaged or not HDF5; {MOVE_AWAY}") from error
    try:
        if file.attrs.get("schema") != SCHEMA:
            schema = file.attrs.get("schema", "none")
            raise ValueError(f"its schema is {schema}, and this version reads {SCHEMA}")
        return Features(file)
    # HDF5 raises many things on a damaged or foreign file.
    except Exception as error:
        file.close()
        raise InputError(f"{path}: not a features file ({error}); {MOVE_AWAY}") from error
