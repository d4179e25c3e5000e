"""Open HDF5 files that a stranger may have made; refuse those that refer to other files.

HDF5 can refer to data in other files through links, external storage and virtual datasets, and
follows them silently. Someone who sends such a file could make a private file of the reader appear
as its content.
"""

import io
from pathlib import Path
from typing import Any

import h5py

from extract.system import locations
from extract.system.locations import Location


def open_whole(path: Location | io.BytesIO) -> h5py.File:
    """Open a file, or one in memory, for reading; a file in a store is read into memory.

    Raises
    ------
    OSError
        If it is missing or not HDF5.
    ValueError
        If it refers to another file.
    InputError
        If its store cannot be reached.
    """
    file = h5py.File(
        path if isinstance(path, Path | io.BytesIO) else io.BytesIO(locations.read_bytes(path)), "r"
    )
    try:
        outside = file.visititems_links(_link_outside) or file.visititems(_data_outside)
        if outside:
            raise ValueError(f"{outside} lies in another file, which is not read")
    except BaseException:
        file.close()
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


def _link_outside(name: str, link: Any) -> str | None:
    return None if isinstance(link, h5py.HardLink) else name


def _data_outside(name: str, item: Any) -> str | None:
    is_data = isinstance(item, h5py.Dataset)
    return name if is_data and (item.external or item.is_virtual) else None
