"""Export a features file to other programs: Parquet, CSV, or NumPy's format.

Memory holds 1,024 photos at once, whatever their number.
"""

import csv
import importlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from extract.store.features_file import SPLITS, Features
from extract.system import atomic, console
from extract.system.console import InputError

FORMATS = ("parquet", "csv", "npy")

Block = tuple[NDArray[np.intp], NDArray[np.float32]]


def export(features: Features, kind: str, taps: Sequence[str], target: Path) -> None:
    """Write taps of all photos with path, label, split, digest and any group.

    Parameters
    ----------
    features : Features
    kind : str
        One of `FORMATS`.
    taps : sequence of str
    target : Path
        A file, which is replaced; a folder for ``npy``, in which three files are replaced.

    Raises
    ------
    InputError
        If there is no such tap, the target cannot be used, or a package is missing.
    """
    features.shape(taps)
    if target.is_dir() != (kind == "npy") and target.exists():
        wrong = "a folder, and one file is" if target.is_dir() else "a file, and a folder is"
        raise InputError(f"{target}: {wrong} written with --to {kind}; choose another with --file")
    with console.progress("export", len(features.paths), unit="photos") as advance:

        def blocks() -> Iterator[Block]:
            for rows, values in features.batches(taps, *SPLITS):
                yield rows, values
                advance(len(rows))

        _WRITERS[kind](features, {tap: features.taps[tap] for tap in taps}, blocks(), target)


def _columns(features: Features) -> dict[str, Sequence[str]]:
    """Return what is known about each photo except its taps."""
    columns: dict[str, Sequence[str]] = {
        "path": features.paths,
        "label": [features.class_names[label] for label in features.labels],
        "split": features.splits.tolist(),
        "digest": features.digests,
    }
    return columns | ({"group": features.groups} if any(features.groups) else {})


def _write_csv(
    features: Features, taps: Mapping[str, int], blocks: Iterator[Block], target: Path
) -> None:
    columns = _columns(features)
    names = [f"{tap}_{i}" for tap, width in taps.items() for i in range(width)]
    with atomic.replacing(target) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*columns, *names])
        for rows, values in blocks:
            for row, numbers in zip(rows, values, strict=True):
                writer.writerow([*_cells(columns, int(row)), *map(str, numbers)])


def _cells(columns: Mapping[str, Sequence[str]], row: int) -> list[str]:
    return [console.csv_cell(values[row]) for values in columns.values()]


def _write_photos(columns: Mapping[str, Sequence[str]], file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in range(len(columns["path"])):
        writer.writerow(_cells(columns, row))


def _write_npy(
    features: Features, taps: Mapping[str, int], blocks: Iterator[Block], target: Path
) -> None:
    ends = np.cumsum([*taps.values()]).tolist()
    places = {tap: [end - width, end] for (tap, width), end in zip(taps.items(), ends, strict=True)}
    about = {"data": features.data, "data_digest": features.data_digest, "taps": places}
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(features.paths), ends[-1])}
    target.mkdir(parents=True, exist_ok=True)
    with atomic.replacing_files(target) as new:
        # A memory map of a file would crash the process on a full disk.
        with (new / "features.npy").open("wb") as file:
            np.lib.format.write_array_header_2_0(file, header)
            for _, values in blocks:
                file.write(np.ascontiguousarray(values, "<f4").tobytes())
        with (new / "photos.csv").open("w", encoding="utf-8", newline="") as photos:
            _write_photos(_columns(features), photos)
        (new / "about.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")


def _write_parquet(
    features: Features, taps: Mapping[str, int], blocks: Iterator[Block], target: Path
) -> None:
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise InputError(
            f"--to parquet needs the package pyarrow; install it with {sys.executable} -m pip "
            "install pyarrow, or choose --to npy or csv"
        ) from error
    columns = _columns(features)
    schema = arrow.schema(
        [(name, arrow.string()) for name in columns]
        + [(tap, arrow.list_(arrow.float32(), width)) for tap, width in taps.items()]
    )
    with (
        atomic.replacing(target) as new,
        parquet.ParquetWriter(new, schema, compression="zstd") as writer,
    ):
        for rows, values in blocks:
            texts = [[values_of[row] for row in rows.tolist()] for values_of in columns.values()]
            arrays = [arrow.array(column, arrow.string()) for column in texts]
            begin = 0
            for width in taps.values():
                flat = arrow.array(values[:, begin : begin + width].ravel())
                arrays.append(arrow.FixedSizeListArray.from_arrays(flat, width))
                begin += width
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))


_WRITERS = {"parquet": _write_parquet, "csv": _write_csv, "npy": _write_npy}
