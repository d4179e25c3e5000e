"""Open HDF5 files that a stranger may have made; refuse those that refer to other files.

HDF5 can refer to data in other files through links, external storage and virtual datasets, and
follows them silently. Someone who sends such a file could make a private file of the reader appear
as its content.
"""

import io
import os
import stat
from pathlib import Path
from typing import Any

import h5py

from extract.system import availability, locations
from extract.system.locations import Location

MOST_ITEMS = 10_000
DEEPEST = 8


def open_whole(path: Location | io.BytesIO) -> h5py.File:
    """Open a file, or one in memory, for reading; a file in a store is read into memory.

    Raises
    ------
    OSError
        If it is missing or not HDF5.
    ValueError
        If it refers to another file, has far too many items, or is no file at all.
    InputError
        If it cannot be read at this moment, or its store cannot be reached.
    """
    with availability.expected(path):
        if isinstance(path, Path) and not stat.S_ISREG(os.stat(path).st_mode):
            # A pipe would keep this program waiting for ever.
            raise ValueError("it is not a file")
        file = h5py.File(
            path if isinstance(path, Path | io.BytesIO) else io.BytesIO(locations.read_bytes(path)),
            "r",
        )
        try:
            _check_items(file)
        except BaseException as error:
            file.close()
            if isinstance(error, RuntimeError | KeyError):
                # HDF5 raises them for damage as well.
                raise OSError(f"damaged: {error}") from error
            raise
        return file


def open_prefix(prefix: bytes, size: int, dataset: str) -> h5py.File:
    """Open the first bytes of a file of `size` bytes, to read its attributes and one dataset.

    Everything after the first bytes is read as zeros, unless a checksum shows that it is missing.

    Raises
    ------
    OSError, KeyError
        If the first bytes are too few, or the file is not HDF5.
    ValueError
        If the dataset lies in another file.
    """
    file = h5py.File(io.BytesIO(prefix.ljust(size, b"\0")), "r")
    try:
        link = file.get(dataset, getlink=True)
        if _link_outside(dataset, link) or _data_outside(dataset, file[dataset]):
            raise ValueError(f"{dataset} lies in another file, which is not read")
    except BaseException:
        file.close()
        raise
    return file


def _check_items(file: h5py.File) -> None:
    """Refuse a file with an item that lies elsewhere, or with more items than any of ours has.

    HDF5's own way of visiting all items takes hours for a thousand groups inside each other.
    """
    waiting: list[tuple[str, h5py.Group, int]] = [("", file, 0)]
    # A group may have several names, and may lie in itself.
    seen = {h5py.h5o.get_info(file.id).addr}
    items = 0
    while waiting:
        prefix, group, depth = waiting.pop()
        for name in group:
            items += 1
            if items > MOST_ITEMS or depth > DEEPEST:
                raise ValueError(f"it has more than {MOST_ITEMS:,} items, or they lie too deep")
            path, item = f"{prefix}{name}", None
            if not _link_outside(path, group.get(name, getlink=True)):
                item = group[name]
            if item is None or _data_outside(path, item):
                raise ValueError(f"{path} lies in another file, which is not read")
            address = h5py.h5o.get_info(item.id).addr
            if isinstance(item, h5py.Group) and address not in seen:
                seen.add(address)
                waiting.append((f"{path}/", item, depth + 1))


def _link_outside(name: str, link: Any) -> str | None:
    return None if isinstance(link, h5py.HardLink) else name


def _data_outside(name: str, item: Any) -> str | None:
    is_data = isinstance(item, h5py.Dataset)
    return name if is_data and (item.external or item.is_virtual) else None
