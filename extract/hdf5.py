"""HDF5 files that anybody may have made: opened only where all that they hold is inside them.

HDF5 can name data in other files, in links, external storage and virtual datasets, and reads them
without a word: whoever sends a file could have any file of the reader's shown as its content.
"""

from pathlib import Path
from typing import Any

import h5py


def open_whole(path: Path) -> h5py.File:
    """Open a file for reading.

    Raises
    ------
    OSError
        If it is not there or not HDF5.
    ValueError
        If some of it lies in another file.
    """
    file = h5py.File(path, "r")
    try:
        outside = file.visititems_links(_link_outside) or file.visititems(_data_outside)
        if outside:
            raise ValueError(f"{outside} lies in another file, which is not read")
    except BaseException:
        file.close()
        raise
    return file


def _link_outside(name: str, link: Any) -> str | None:
    return None if isinstance(link, h5py.HardLink) else name


def _data_outside(name: str, item: Any) -> str | None:
    is_data = isinstance(item, h5py.Dataset)
    return name if is_data and (item.external or item.is_virtual) else None
