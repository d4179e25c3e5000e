"""HDF5 files that anybody may have made: opened only where all that they hold is inside them.

HDF5 can name data in other files, in links, external storage and virtual datasets, and reads them
without a word: whoever sends a file could have any file of the reader's shown as its content.
"""

import io
from pathlib import Path
from typing import Any

import h5py

from extract.system import locations
from extract.system.locations import Location


def open_whole(path: Location) -> h5py.File:
    """Open a file for reading; one in a store is read into memory.

    Raises
    ------
    OSError
        If it is not there or not HDF5.
    ValueError
        If some of it lies in another file.
    InputError
        If its store cannot be reached.
    """
    file = h5py.File(
        path if isinstance(path, Path) else io.BytesIO(locations.read_bytes(path)), "r"
    )
    try:
        outside = file.visititems_links(_link_outside) or file.visititems(_data_outside)
        if outside:
            raise ValueError(f"{outside} lies in another file, which is not read")
    except BaseException:
        file.close()
        raise
    return file


def open_head(head: bytes, size: int, dataset: str) -> h5py.File:
    """Open the first bytes of a file of `size` bytes, to read its attributes and one dataset.

    What lies beyond the first bytes is read as zeros, where no checksum tells.

    Raises
    ------
    OSError, KeyError
        If more of the file is needed, or it is not HDF5.
    ValueError
        If the dataset lies in another file.
    """
    file = h5py.File(io.BytesIO(head.ljust(size, b"\0")), "r")
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
