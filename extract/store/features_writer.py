"""Write the features file of a data set from the shards, whole or not at all."""

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from extract.photos.duplicates import Near
from extract.store import shards
from extract.store.features_file import ROWS_AT_ONCE, SCHEMA, TEXT, Row
from extract.store.shard_index import ShardRow
from extract.system import atomic
from extract.system.console import finishing
from extract.system.locations import Location
from extract.vgg16.recipe import ALL_TAPS, dtype_of, named


@dataclass(frozen=True)
class Contents:
    """The content of a features file, except the taps and near-duplicates.

    Attributes
    ----------
    rows : sequence of Row, length n
        Sorted by path.
    class_names : sequence of str
    skipped : sequence of (path, reason)
    attributes : mapping
        The root attributes, except the schema and the seconds of each size.
    same : sequence of (digest, digest, cosine)
        See `extract.twins`.
    """

    rows: Sequence[Row]
    class_names: Sequence[str]
    skipped: Sequence[tuple[str, str]]
    attributes: Mapping[str, Any]
    same: Sequence[tuple[str, str, float]] = ()


class Draft:
    """A features file that is being written.

    Parameters
    ----------
    file : h5py.File
    sink : _Sink
        The file that `file` writes to.
    contents : Contents
    sources : mapping of size to mapping of digest to ShardRow
        Where the taps of the photos are, at each size. It must contain every row's digest.
    check : callable
        Raises Stopped if a signal asked the program to stop.
    """

    def __init__(
        self,
        file: h5py.File,
        sink: "_Sink",
        contents: Contents,
        sources: Mapping[int, Mapping[str, ShardRow]],
        check: Callable[[], None],
    ) -> None:
        self.file, self.sink = file, sink
        self.contents, self.sources = contents, sources
        self.check = check

    def write_columns(self) -> None:
        """Write everything about the photos except their taps."""
        rows, skipped = self.contents.rows, self.contents.skipped
        columns = {
            "path": np.array([row.path for row in rows], dtype=TEXT),
            "digest": np.array([row.digest for row in rows], dtype="S64"),
            "label": np.array([row.label for row in rows], dtype=np.int64),
            "split": np.array([row.split for row in rows], dtype=TEXT),
            "class_names": np.array(self.contents.class_names, dtype=TEXT),
            "skipped/path": np.array([path for path, _ in skipped], dtype=TEXT),
            "skipped/reason": np.array([reason for _, reason in skipped], dtype=TEXT),
        }
        if any(row.group for row in rows):
            columns["group"] = np.array([row.group for row in rows], dtype=TEXT)
        if same := self.contents.same:
            columns["same/digest"] = np.array([pair[:2] for pair in same], dtype="S64")
            columns["same/cosine"] = np.array([pair[2] for pair in same], dtype=np.float32)
        for name, values in columns.items():
            self.file[name] = values
            # HDF5 may crash when it reads back what could not be written.
            self.sink.check()

    def write_taps(self, advance: Callable[[int], None] = lambda rows: None) -> None:
        """Write the taps at every size; memory holds 1,024 rows of them.

        Parameters
        ----------
        advance : callable
            Called with the number of rows just written.

        Raises
        ------
        Damaged
            If a shard is not what was written.
        """
        rows = self.contents.rows
        recipes = {
            size: json.loads(self.contents.attributes[named("recipe", size)])
            for size in self.sources
        }
        for size, recipe in recipes.items():
            for tap in recipe["taps"]:
                shape = (len(rows), ALL_TAPS[tap])
                shards.create_tap(self.file, named(tap, size), shape, dtype_of(tap, recipe))
        for start in range(0, len(rows), ROWS_AT_ONCE):
            batch = rows[start : start + ROWS_AT_ONCE]
            block = slice(start, start + len(batch))
            for size, source in self.sources.items():
                self.check()
                taps = gather([source[row.digest] for row in batch], recipes[size]["taps"])
                for tap, values in taps.items():
                    self.file[f"taps/{named(tap, size)}"][block] = values
                self.sink.check()
            advance(len(batch))

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Read ``block5_avg`` of ascending rows, of shape (rows, 512)."""
        self.check()
        values: NDArray[np.float32] = self.file["taps/block5_avg"][rows]
        return values

    def write_near(self, near: Near) -> None:
        """Write the near-duplicates, see `extract.photos.duplicates.near`."""
        pairs = near.pairs
        self.file.attrs["near_pairs"], self.file.attrs["near_photos"] = near.found, near.photos
        self.file["near/row"] = np.array([pair[:2] for pair in pairs], np.int64).reshape(-1, 2)
        self.file["near/cosine"] = np.array([pair[2] for pair in pairs], np.float32)

    def write_attributes(self) -> None:
        """Write the root attributes."""
        digests = {row.digest for row in self.contents.rows}
        self.file.attrs["schema"] = SCHEMA
        for size, source in self.sources.items():
            seconds = sum(source[digest].seconds for digest in digests)
            self.file.attrs[named("seconds", size)] = seconds
        self.file.attrs.update(self.contents.attributes)


@contextmanager
def writing(
    path: Path, contents: Contents, sources: Mapping[int, Mapping[str, ShardRow]]
) -> Iterator[Draft]:
    """Give the block a draft to write taps and near-duplicates to; then publish the draft.

    The file appears under its name only when the block ends without an exception.

    Parameters
    ----------
    path : Path
    contents : Contents
    sources : mapping of size to mapping of digest to ShardRow
        See `Draft`.
    """
    with (
        finishing() as check,
        atomic.replacing(path) as temporary,
        _Sink(temporary, "w+") as sink,
    ):
        try:
            with h5py.File(sink, "w") as file:
                draft = Draft(file, sink, contents, sources, check)
                draft.write_columns()
                yield draft
                draft.write_attributes()
        finally:
            sink.check()


def gather(rows: Sequence[ShardRow], names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Read taps of some images at one size; each shard is read once.

    Raises
    ------
    Damaged
        If a shard is not what was written.
    """
    taps = {tap: np.empty((len(rows), ALL_TAPS[tap]), np.float32) for tap in names}
    by_shard: dict[Location, list[int]] = {}
    for position, row in enumerate(rows):
        by_shard.setdefault(row.shard, []).append(position)
    for path, positions in by_shard.items():
        shard = shards.read(path)
        for tap, values in taps.items():
            values[positions] = shard.taps[tap][[rows[position].row for position in positions]]
    return taps


class _Sink(io.FileIO):
    """A file for HDF5 to write to that hides a full disk from HDF5.

    HDF5 crashes the process when a write fails and the file is closed after it. So `error` keeps
    the first failure, later writes do nothing, and `check` raises the failure.
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
        """Raise the error that made a write fail."""
        if self.error is not None:
            raise OSError(self.error.errno, self.error.strerror, os.fsdecode(self.name))
