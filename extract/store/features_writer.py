"""Write the features file of a data set from the shards, whole or not at all."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from extract.photos import duplicates
from extract.store import shards
from extract.store.features_file import ROWS_AT_ONCE, SCHEMA, TEXT, Pair, Row
from extract.store.shard_index import Place
from extract.system import atomic, console
from extract.system.console import finishing
from extract.system.locations import Location
from extract.vgg16.recipe import DTYPE, TAPS, named


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
    places: Mapping[int, Mapping[str, Place]],
    *,
    class_names: Sequence[str],
    skipped: Sequence[tuple[str, str]],
    attributes: Mapping[str, Any],
) -> list[Pair]:
    """Write the features file of a data set from the shards, whole or not at all.

    Memory holds 1,024 rows of taps, whatever their number.

    Parameters
    ----------
    rows : sequence of Row
        In sorted path order.
    places : mapping of size to mapping of digest to Place
        Where the taps of the photos at each size are; must name every row's digest. 224 must be
        among the sizes: its ``block5_avg`` tells near-duplicates.
    skipped : sequence of (path, reason)
    attributes : mapping
        Root attributes beside schema and the seconds of each size.

    Returns
    -------
    list of (row, row, cosine)
        Near-duplicates in different splits, see `extract.photos.duplicates.near`.

    Raises
    ------
    Damaged
        If a shard is not what was written.
    """
    with (
        finishing() as check,
        atomic.replacing(path) as temporary,
        _Sink(temporary, "w+") as sink,
    ):

        def vectors(some: NDArray[np.intp]) -> NDArray[np.float32]:
            check()
            read: NDArray[np.float32] = file["taps/block5_avg"][some]
            return read

        try:
            with h5py.File(sink, "w") as file:
                columns = {
                    "path": np.array([row.path for row in rows], dtype=TEXT),
                    "digest": np.array([row.digest for row in rows], dtype="S64"),
                    "label": np.array([row.label for row in rows], dtype=np.int64),
                    "split": np.array([row.split for row in rows], dtype=TEXT),
                    "class_names": np.array(class_names, dtype=TEXT),
                    "skipped/path": np.array([path for path, _ in skipped], dtype=TEXT),
                    "skipped/reason": np.array([reason for _, reason in skipped], dtype=TEXT),
                }
                for name, values in columns.items():
                    file[name] = values
                    # HDF5 may crash when it reads back what could not be written.
                    sink.check()
                for size in places:
                    for tap, width in TAPS.items():
                        shards.create_tap(file, named(tap, size), (len(rows), width), DTYPE)
                with console.progress("publishing", len(rows), unit="rows") as advance:
                    for start in range(0, len(rows), ROWS_AT_ONCE):
                        some = rows[start : start + ROWS_AT_ONCE]
                        block = slice(start, start + len(some))
                        for size, of_size in places.items():
                            check()
                            gathered = _gather([of_size[row.digest] for row in some])
                            for tap, values in gathered.items():
                                file[f"taps/{named(tap, size)}"][block] = values
                            sink.check()
                        advance(len(some))
                pairs = duplicates.near(
                    vectors, [row.digest for row in rows], [row.split for row in rows]
                )
                file["near/row"] = np.array([pair[:2] for pair in pairs], np.int64).reshape(-1, 2)
                file["near/cosine"] = np.array([pair[2] for pair in pairs], np.float32)
                distinct = {row.digest for row in rows}
                file.attrs["schema"] = SCHEMA
                for size, of_size in places.items():
                    seconds = sum(of_size[digest].seconds for digest in distinct)
                    file.attrs[named("seconds", size)] = seconds
                file.attrs.update(attributes)
        finally:
            sink.check()
    return pairs


def _gather(places: Sequence[Place]) -> dict[str, NDArray[np.float32]]:
    """Read the taps of some images at one size, each shard once."""
    taps = {tap: np.empty((len(places), width), np.float32) for tap, width in TAPS.items()}
    by_shard: dict[Location, list[int]] = {}
    for position, place in enumerate(places):
        by_shard.setdefault(place.shard, []).append(position)
    for path, positions in by_shard.items():
        rows = [places[position].row for position in positions]
        shard = shards.read(path)
        for tap, values in taps.items():
            values[positions] = shard.taps[tap][rows]
    return taps
