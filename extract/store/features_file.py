"""The published features file: its schema, and how to read it.

With this module, which gives shapes before anything is loaded::

    with store.open(Path("features/chess.h5")) as features:
        features.shape(["block5_avg"], "train")  # (335, 512)
        X = features.read(["block5_avg"], "train")
        for rows, values in features.batches(["block5_avg", "block5_max"], "train", "val"):
            y = features.labels[rows]

With plain h5py, or any other HDF5 tool::

    with h5py.File("features/chess.h5") as file:
        X = file["taps/block5_avg"][file["split"].asstr()[:] == "train"]
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from extract.photos import datasets
from extract.store import hdf5
from extract.store.columns import Columns, number, record, text
from extract.system import availability, locations
from extract.system.console import InputError, finishing
from extract.vgg16.pairs import DTYPE as PAIRS_DTYPE
from extract.vgg16.recipe import (
    DTYPE,
    PAIRS,
    SIZE,
    SIZES,
    TAPS,
    has_pairs,
    joint_digest,
    named,
)

SCHEMA = 1

ROWS_AT_ONCE = 1024

SPLITS = ("train", "val", "test")

TEXT = h5py.string_dtype()

LONGEST_NAME = 230
"""Bytes. The name of a file has at most 255, and a file that is being written has a longer name."""

MOVE_AWAY = "move it away and run make features (photos already seen are not computed again)"

TEXTS = (
    "data",
    "root",
    "weights",
    "weights_digest",
    "recipe_digest",
    "data_digest",
    "skipped_digest",
    "split_rule",
    "created",
    "versions",
)
NUMBERS = ("seed", "copies", "images_computed", "images_reused")
DIGEST = re.compile("[0-9a-f]{64}")
LARGEST_TAP = 1e9
"""Real photos stay far below; the square of a larger value would soon be infinite."""

Pair = tuple[int, int, float]


class Damaged(InputError):
    """The content of a features file was read and found wrong.

    Attributes
    ----------
    path : Path
    reason : str
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}; {MOVE_AWAY}")
        self.path = path
        self.reason = reason


class NoFeatures(InputError):
    """There is no features file.

    Attributes
    ----------
    data : str or None
        The data set that was asked for; None if a file was.
    out : Path
        The folder below which it was looked for.
    """

    data: str | None = None
    out: Path = Path()


@dataclass(frozen=True, slots=True)
class Row:
    """One photo of a published file."""

    path: str
    digest: str
    label: int
    split: str
    group: str = ""


def name_of(data: str) -> str:
    """Return the name under which features, runs and reports of a data set are stored.

    Raises
    ------
    InputError
        If `data` is a path whose last part is not a name, such as ``/``, or is too long.
        The name of a manifest is that of its file without the ending.
    """
    path = Path(os.path.abspath(data))
    name = locations.readable_name(path.stem if datasets.is_manifest(data) else path.name)
    if not name:
        raise InputError(f"{data}: this path has no name for a data set; choose a folder inside it")
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise InputError(
            f"{data}: the name of this data set has more than {LONGEST_NAME} bytes, which is too "
            "long for files that are named after it; rename it"
        )
    if not locations.is_name_here(name):
        raise InputError(
            f"{data}: Windows has no files that are named after this data set, {name!r}; rename it"
        )
    return name


def check_name(data: str) -> None:
    """Check the name of a data set that was read from a file, before it becomes part of a path.

    Raises
    ------
    ValueError
        If it could lead out of the folder that it is put in.
    """
    outside = data in ("", ".", "..") or {"/", "\0"} & set(data) or not locations.is_name_here(data)
    if outside or len(data.encode()) > LONGEST_NAME:
        raise ValueError(f"its data set is called {data[:80]!r}, which is not a plain name")


def taps_are_possible(tap: str, values: NDArray[Any]) -> bool:
    """Say whether values can be a tap of photos: finite, and not negative after ReLU.

    Those of pairs have a sign.
    """
    least = -LARGEST_TAP if has_pairs(tap) else 0
    return not values.size or bool(values.min() >= least and values.max() <= LARGEST_TAP)


def file_of(data: str, out: Path) -> Path:
    """Return the features file of `data`: an .h5 file is its own, any other is below `out`."""
    return Path(data) if _is_file(data) else path_of(name_of(data), out)


def path_of(name: str, out: Path) -> Path:
    """Return the features file below `out` of the data set that is stored under a name."""
    return out / "features" / f"{name}.h5"


def _is_file(data: str) -> bool:
    if not data.endswith(".h5") or locations.is_url(data):
        return False
    folder = datasets.folder_of(data)
    return folder is None or not folder.is_dir()


def data_digest(rows: Sequence[Row], class_names: Sequence[str]) -> str:
    """Return the SHA-256 over path, digest, class, split and any group of every row, in order."""
    sha256 = hashlib.sha256()
    for row in rows:
        fields = [row.path, row.digest, class_names[row.label], row.split]
        fields += [row.group] if row.group else []
        sha256.update(json.dumps(fields).encode() + b"\n")
    return sha256.hexdigest()


def skipped_digest(skipped: Sequence[tuple[str, str]]) -> str:
    """Return the SHA-256 over path and reason of every skipped file, in order."""
    return hashlib.sha256(json.dumps(skipped).encode()).hexdigest()


class Features:
    """A published features file, open for reading; use it in a ``with`` block.

    Attributes
    ----------
    data, data_digest, recipe_digest : str
    root : str
        The folder or URL that has the class folders.
    manifest : str
        The file that named the photos; empty if none did.
    origin : str
        The manifest, or the root if there is none.
    class_names : list of str, length k
    paths : list of str, length n
    digests : list of str, length n
    labels : ndarray of shape (n,), int64
    splits : ndarray of shape (n,), str
    groups : list of str, length n
        Photos of one group are in one split; empty for a photo that is in none.
    units : list of str, length n
        The group of each photo, or its digest. Photos of one unit belong in one split or fold.
    same : list of (digest, digest, cosine)
        Pictures that are stored more than once, see `extract.twins`. One of the two may be left
        out.
    skipped : list of (path, reason)
    near : list of (row, row, cosine)
        Near-duplicates in different splits, most alike first: for each photo, at most the few
        that are most like it; see `extract.photos.duplicates.near`.
    near_found, near_photos : int
        The number of all pairs that were found, listed or not, and of the photos in them.
    sizes : list of int
        The sides in pixels of the squares that VGG16 saw: 224 first, then ascending.
    taps : dict of str to int
        The number of values of each tap, in the order of the sizes, deepest first within a size;
        see `extract.vgg16.recipe.named`.
    asked : dict
        The options that changed the rows, besides seed and sizes; empty in older files.
    has_pairs : bool
        Whether the taps of `PAIRS` are among them, at every size.
    recipes : dict of int to dict
        How the photos became taps of each size, see `extract.vgg16.recipe.recipe`.
    seconds : float
        The time it took to compute these images at all sizes, in the last run or earlier ones.
    attributes : dict
        Every root attribute.
    """

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        columns = Columns(file)
        self.attributes = columns.attributes()
        self._read_attributes()
        self.paths = columns.texts("path")
        self.digests = [digest.decode() for digest in columns.numbers("digest", np.bytes_)]
        self.labels: NDArray[np.int64] = columns.numbers("label", np.signedinteger).astype(np.int64)
        self.splits: NDArray[np.str_] = np.array(columns.texts("split"), dtype=str)
        self.groups = columns.texts("group") if "group" in file else [""] * len(self.paths)
        self.class_names = columns.texts("class_names")
        self.skipped = list(
            zip(columns.texts("skipped/path"), columns.texts("skipped/reason"), strict=True)
        )
        pairs = columns.numbers("near/row", np.signedinteger, 2)
        cosines = columns.numbers("near/cosine", np.floating)
        self._check_rows(pairs, cosines)
        pairs_of = zip(self.groups, self.digests, strict=True)
        self.units = [group or digest for group, digest in pairs_of]
        self.same = self._same(columns) if "same" in file else []
        self.near: list[Pair] = [
            (one, other, cosine)
            for (one, other), cosine in zip(pairs.tolist(), cosines.tolist(), strict=True)
        ]
        self.near_found, self.near_photos = (
            int(self.attributes.get(name, found))
            for name, found in (("near_pairs", len(pairs)), ("near_photos", len(np.unique(pairs))))
        )
        self.taps: dict[str, int] = {
            named(tap, size): width
            for size in self.sizes
            for tap, width in {**TAPS, **(PAIRS if self.has_pairs else {})}.items()
        }
        for tap, width in self.taps.items():
            dtype = PAIRS_DTYPE if has_pairs(tap) else DTYPE
            columns.check_tap(f"taps/{tap}", len(self.paths), width, dtype)

    def _read_attributes(self) -> None:
        attributes = self.attributes
        for name in TEXTS:
            text(attributes, name)
        for name in NUMBERS:
            number(attributes, name)
        record(attributes, "versions")
        self.data = text(attributes, "data")
        self.root = text(attributes, "root")
        self.manifest = text(attributes, "manifest") if "manifest" in attributes else ""
        self.asked = record(attributes, "asked") if "asked" in attributes else {}
        self.origin = self.manifest or self.root
        check_name(self.data)
        self.data_digest = text(attributes, "data_digest")
        self.recipe_digest = text(attributes, "recipe_digest")
        self.sizes = [SIZE, *(size for size in SIZES[1:] if named("seconds", size) in attributes)]
        self.recipes: dict[int, dict[str, Any]] = {
            size: record(attributes, named("recipe", size)) for size in self.sizes
        }
        self.has_pairs = all("pairs" in recipe for recipe in self.recipes.values())
        if joint_digest(self.recipes.values()) != self.recipe_digest:
            raise ValueError("its recipes do not have its recipe_digest")
        self.seconds = sum(self.seconds_of(size) for size in self.sizes)

    def _check_rows(self, pairs: NDArray[np.int64], cosines: NDArray[np.float32]) -> None:
        n, k = len(self.paths), len(self.class_names)
        lengths = {
            "digest": len(self.digests),
            "label": len(self.labels),
            "split": len(self.splits),
            "group": len(self.groups),
        }
        for name, length in lengths.items():
            if length != n:
                raise ValueError(f"{name} has {length} rows, and path has {n}")
        if not n or not k:
            raise ValueError("it has no photo or no class")
        if len(set(self.class_names)) < k or not all(self.class_names):
            raise ValueError("a name in class_names is empty or occurs twice")
        if self.labels.min() < 0 or self.labels.max() >= k:
            raise ValueError(f"label has values that are not from 0 to {k - 1}")
        if not np.isin(self.splits, SPLITS).all():
            raise ValueError(f"split has values that are not {', '.join(SPLITS)}")
        if not all(map(DIGEST.fullmatch, self.digests)):
            raise ValueError("digest has values that are not 64 hexadecimal digits")
        if len(set(self.paths)) < n or not all(map(_is_below_root, self.paths)):
            raise ValueError("path has values that occur twice or do not lie below the root")
        if pairs.size and not (pairs.min() >= 0 and pairs.max() < n):
            raise ValueError("near/row has values that are no rows")
        if not (np.abs(cosines) <= 1).all():
            raise ValueError("near/cosine has values that are no cosines")

    def _same(self, columns: Columns) -> list[tuple[str, str, float]]:
        digests = columns.numbers("same/digest", np.bytes_, 2).astype(str)
        cosines = columns.numbers("same/cosine", np.floating)
        if not all(map(DIGEST.fullmatch, digests.ravel())) or not (np.abs(cosines) <= 1).all():
            raise ValueError("same/digest or same/cosine has values that are none")
        return [
            (one, other, cosine)
            for (one, other), cosine in zip(digests.tolist(), cosines.tolist(), strict=True)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.file.close()

    def seconds_of(self, size: int) -> float:
        """Return the seconds it took to compute these images at one size."""
        return number(self.attributes, named("seconds", size))

    def rows(self, *splits: str) -> NDArray[np.intp]:
        """Return the row numbers of the given splits, in path order."""
        return np.flatnonzero(np.isin(self.splits, splits))

    def shape(self, taps: Collection[str], *splits: str) -> tuple[int, int]:
        """Return the shape that `read` returns, without reading; each value takes 4 bytes.

        Raises
        ------
        InputError
            If there is no such tap.
        """
        self._check(taps)
        return len(self.rows(*splits)), sum(self.taps[tap] for tap in taps)

    def read(self, taps: Collection[str], *splits: str) -> NDArray[np.float32]:
        """Read taps of the given splits side by side, of shape (rows, values), float32.

        Raises
        ------
        InputError
            If there is no such tap, or the file is damaged.
        """
        matrix = np.empty(self.shape(taps, *splits), np.float32)
        done = 0
        for rows, values in self.batches(taps, *splits):
            matrix[done : done + len(rows)] = values
            done += len(rows)
        return matrix

    def read_rows(self, taps: Collection[str], rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Read taps of a few rows, given ascending, side by side; the others are not read.

        Raises
        ------
        InputError
            If there is no such tap, or the file is damaged.
        """
        self._check(taps)
        return np.hstack([self._block(tap, rows) for tap in taps])

    def batches(
        self, taps: Collection[str], *splits: str
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """Yield taps of the given splits side by side, at most 1,024 rows at once.

        Yields
        ------
        rows : ndarray of shape (b,)
            Row numbers, ascending.
        values : ndarray of shape (b, values), float32

        Raises
        ------
        InputError
            If there is no such tap, or the file is damaged.
        """
        self._check(taps)
        selected = self.rows(*splits)
        for start in range(0, len(self.paths), ROWS_AT_ONCE):
            rows = selected[(selected >= start) & (selected < start + ROWS_AT_ONCE)]
            if len(rows):
                block = slice(start, start + ROWS_AT_ONCE)
                yield rows, np.hstack([self._block(tap, block)[rows - start] for tap in taps])

    def _check(self, taps: Collection[str]) -> None:
        for tap in taps:
            if tap not in self.taps:
                if has_pairs(tap) and not self.has_pairs:
                    raise InputError(
                        f"{self.file.filename}: it has no tap {tap}; run make features PAIRS=yes"
                    )
                raise InputError(
                    f"{self.file.filename}: it has no tap {tap}, only taps of photos at "
                    f"{', '.join(map(str, self.sizes))} pixels; run make features for other sizes"
                )

    def _block(self, tap: str, block: slice | NDArray[np.intp]) -> NDArray[np.float32]:
        path = Path(self.file.filename)
        try:
            with availability.expected(path):
                values: NDArray[np.float32] = self.file[f"taps/{tap}"][block].astype(
                    np.float32, copy=False
                )
        except OSError as error:
            raise Damaged(path, f"damaged ({error})") from error
        if not taps_are_possible(tap, values):
            raise Damaged(path, f"damaged (taps/{tap} has values that no photo gives)")
        return values


def open_data_set(data: str, out: Path) -> Features:
    """Open the features of a data set.

    Parameters
    ----------
    data : str
        The name, path or URL of a data set, or a features file.
    out : Path

    Raises
    ------
    NoFeatures
        If there is no such file.
    InputError
        If the file cannot be used, as in `open`, or the data set that is stored under this name
        below `out` is another one.
    """
    path = file_of(data, out)
    try:
        features = open(path)
    except NoFeatures as missing:
        if not _is_file(data):
            missing.data, missing.out = data, out
        raise
    try:
        if _is_file(data):
            _check_results(features, path, out)
        elif not datasets.lies_at(data, features.root, features.manifest):
            given = data if locations.is_url(data) else datasets.folder_of(data)
            advice = "; run make features if those are the same photos and labels, otherwise "
            raise another_root(path, features.origin, str(given), advice)
    except BaseException:
        features.file.close()
        raise
    return features


def another_root(path: Path, origin: str, given: str, advice: str) -> InputError:
    """Return the error that two data sets would be stored under the same name."""
    return InputError(
        f"{path} belongs to {origin}, and DATA is {given}{advice}rename one of the two, or "
        "choose another OUT (--out) for one of them; or move this file away, if it is not needed"
    )


def _check_results(features: Features, path: Path, out: Path) -> None:
    """Make sure that the results of a features file would not replace those of another one."""
    published = path_of(features.data, out)
    if not published.exists() or published.samefile(path):
        return
    with open(published) as other:
        if other.origin != features.origin and other.data_digest != features.data_digest:
            raise InputError(
                f"{path} was made from {features.origin}, and {published} from {other.origin}: "
                "their results would have the same names; choose another OUT (--out)"
            )


def _is_below_root(path: str) -> bool:
    if sys.platform == "win32" and {"\\", ":"} & set(path):
        return False
    return "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def open(path: Path) -> Features:
    """Open a published features file.

    Raises
    ------
    Damaged
        If its content is not that of a features file.
    InputError
        If it is missing, has another schema, or cannot be read at this moment.
    """
    with finishing(), availability.expected(path):
        return _open(path)


def _open(path: Path) -> Features:
    try:
        file = hdf5.open_whole(path)
    except FileNotFoundError as error:
        raise NoFeatures(f"{path}: no such file; run make features first") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: a folder, not a features file; {MOVE_AWAY}") from error
    except OSError as error:
        raise Damaged(path, "damaged or not HDF5") from error
    except ValueError as error:
        raise InputError(f"{path}: not a features file ({error}); {MOVE_AWAY}") from error
    try:
        with availability.expected(path):
            schema = Columns(file).attribute("schema")
            if schema != SCHEMA:
                shown = "none" if schema is None else str(schema)[:20]
                raise InputError(
                    f"{path}: not a features file (its schema is {shown}, and this version reads "
                    f"{SCHEMA}); {MOVE_AWAY}"
                )
            return Features(file)
    except InputError:
        file.close()
        raise
    # HDF5 raises exceptions of many types on a damaged or foreign file.
    except Exception as error:
        file.close()
        raise Damaged(path, f"not a features file ({error})") from error
