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
from extract.system import locations
from extract.system.console import InputError, finishing
from extract.vgg16.recipe import SIZE, SIZES, TAPS, named

SCHEMA = 1

ROWS_AT_ONCE = 1024

SPLITS = ("train", "val", "test")

TEXT = h5py.string_dtype()

LONGEST_NAME = 230
"""Bytes. The name of a file has at most 255, and a file that is being written has a longer name."""

MOVE_AWAY = "move it away and run make features (photos already seen are not computed again)"

Pair = tuple[int, int, float]


@dataclass(frozen=True, slots=True)
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
        If `data` is a path whose last part is not a name, such as ``/``, or is too long.
    """
    name = locations.readable_name(Path(os.path.abspath(data)).name)
    if not name:
        raise InputError(f"{data}: this path has no name for a data set; choose a folder inside it")
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise InputError(
            f"{data}: the name of this folder has more than {LONGEST_NAME} bytes, which is too "
            "long for files that are named after it; rename it"
        )
    return name


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
    """Return the SHA-256 over path, digest, class and split of every row, in order."""
    sha256 = hashlib.sha256()
    for row in rows:
        fields = [row.path, row.digest, class_names[row.label], row.split]
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
    class_names : list of str, length k
    paths : list of str, length n
    digests : list of str, length n
    labels : ndarray of shape (n,), int64
    splits : ndarray of shape (n,), str
    skipped : list of (path, reason)
    near : list of (row, row, cosine)
        Near-duplicates in different splits, most alike first.
    sizes : list of int
        The sides in pixels of the squares that VGG16 saw: 224 first, then ascending.
    taps : dict of str to int
        The number of values of each tap, in the order of the sizes, deepest first within a size;
        see `extract.vgg16.recipe.named`.
    recipes : dict of int to dict
        How the photos became taps of each size, see `extract.vgg16.recipe.recipe`.
    seconds : float
        The time it took to compute these images at all sizes, in the last run or earlier ones.
    attributes : dict
        Every root attribute.
    """

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self.attributes = dict(file.attrs)
        self.data = str(file.attrs["data"])
        self.root = str(file.attrs["root"])
        self.data_digest = str(file.attrs["data_digest"])
        self.recipe_digest = str(file.attrs["recipe_digest"])
        further = [size for size in SIZES[1:] if named("seconds", size) in file.attrs]
        self.sizes = [SIZE, *further]
        self.recipes: dict[int, dict[str, Any]] = {
            size: json.loads(str(file.attrs[named("recipe", size)])) for size in self.sizes
        }
        self.seconds = sum(self.seconds_of(size) for size in self.sizes)
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
        self.near: list[Pair] = [
            (one, other, cosine)
            for (one, other), cosine in zip(
                file["near/row"][:].tolist(), file["near/cosine"][:].tolist(), strict=True
            )
        ]
        self.taps: dict[str, int] = {
            name: file[f"taps/{name}"].shape[1]
            for size in self.sizes
            for name in (named(tap, size) for tap in TAPS)
        }

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
        return float(self.attributes[named("seconds", size)])

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
            If there is no such tap, or a checksum shows that the file is damaged.
        """
        matrix = np.empty(self.shape(taps, *splits), np.float32)
        done = 0
        for rows, values in self.batches(taps, *splits):
            matrix[done : done + len(rows)] = values
            done += len(rows)
        return matrix

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
            If there is no such tap, or a checksum shows that the file is damaged.
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
                raise InputError(
                    f"{self.file.filename}: it has no tap {tap}, only taps of photos at "
                    f"{', '.join(map(str, self.sizes))} pixels; run make features with other SIZES"
                )

    def _block(self, tap: str, block: slice) -> NDArray[np.float32]:
        try:
            values: NDArray[np.float32] = self.file[f"taps/{tap}"][block]
        except OSError as error:
            raise InputError(f"{self.file.filename}: damaged ({error}); {MOVE_AWAY}") from error
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
    InputError
        If the file cannot be used, as in `open`, or the data set that is stored under this name
        below `out` is another one.
    """
    path = file_of(data, out)
    features = open(path)
    try:
        if _is_file(data):
            _check_results(features, path, out)
        elif not datasets.lies_at(data, features.root):
            given = data if locations.is_url(data) else datasets.folder_of(data)
            advice = "; run make features if that is the same folder in another place, otherwise "
            raise another_root(path, features.root, str(given), advice)
    except BaseException:
        features.file.close()
        raise
    return features


def another_root(path: Path, root: str, given: str, advice: str) -> InputError:
    """Return the error that two data sets would be stored under the same name."""
    return InputError(
        f"{path} belongs to {root}, and DATA is {given}{advice}rename one of the two folders, or "
        "choose another OUT (--out) for one of them; or move this file away, if it is not needed"
    )


def _check_results(features: Features, path: Path, out: Path) -> None:
    """Make sure that the results of a features file would not replace those of another one."""
    published = path_of(features.data, out)
    if not published.exists() or published.samefile(path):
        return
    with open(published) as other:
        if other.root != features.root and other.data_digest != features.data_digest:
            raise InputError(
                f"{path} was made from {features.root}, and {published} from {other.root}: their "
                "results would have the same names; choose another OUT (--out)"
            )


def open(path: Path) -> Features:
    """Open a published features file.

    Raises
    ------
    InputError
        If it is missing or damaged, has another schema, or is not a features file.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; run make features first")
    with finishing():
        return _open(path)


def _open(path: Path) -> Features:
    try:
        file = hdf5.open_whole(path)
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it; grant it") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: a folder, not a features file; {MOVE_AWAY}") from error
    except OSError as error:
        raise InputError(f"{path}: damaged or not HDF5; {MOVE_AWAY}") from error
    except ValueError as error:
        raise InputError(f"{path}: not a features file ({error})") from error
    try:
        if file.attrs.get("schema") != SCHEMA:
            schema = file.attrs.get("schema", "none")
            raise ValueError(f"its schema is {schema}, and this version reads {SCHEMA}")
        features = Features(file)
        if not _is_name(features.data):
            raise ValueError(f"its data set is called '{features.data}', which is no name")
        return features
    # HDF5 raises exceptions of many types on a damaged or foreign file.
    except Exception as error:
        file.close()
        raise InputError(f"{path}: not a features file ({error}); {MOVE_AWAY}") from error


def _is_name(text: str) -> bool:
    """Say whether a folder can have this name, which then is no path to any other place."""
    return text not in ("", "..") and Path(text).name == text and "\0" not in text
