"""Read the columns of a features file that a stranger may have made.

A few bytes of HDF5 can stand for terabytes. So nothing is read that would take more memory than the
file has bytes; what `features_writer` writes never does.
"""

import json
import math
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

TEXTS_AT_ONCE = 64
"""Many texts of a file may be the same bytes, so only a few are read before they are counted."""

LARGEST_CHUNK = 64 * 2**20
"""HDF5 holds a whole chunk in memory, whatever part of it is asked for."""


class Columns:
    """The columns and attributes of an open file.

    Every method raises ValueError, or what HDF5 raises, if the content is not what it should be.
    """

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self.bytes_left = int(file.id.get_filesize())

    def attributes(self) -> dict[str, Any]:
        """Return every root attribute; each must be one text or number."""
        return {name: self.attribute(name) for name in self.file.attrs}

    def attribute(self, name: str) -> Any:
        """Return a root attribute, which must be one text or number; None if there is none."""
        if name not in self.file.attrs:
            return None
        attribute = self.file.attrs.get_id(name)
        if attribute.shape != () or attribute.dtype.kind not in "OSUiufb":
            raise ValueError(f"its attribute {name} is not one text or number")
        self._take(name, attribute.dtype.itemsize)
        value = self.file.attrs[name]
        if not isinstance(value, str | np.number | np.bool_):
            raise ValueError(f"its attribute {name} is not one text or number")
        self._take(name, len(value) if isinstance(value, str) else 0)
        return value

    def texts(self, name: str) -> list[str]:
        """Read a column of texts."""
        dataset = self._dataset(name, ndim=1)
        if h5py.check_string_dtype(dataset.dtype) is None:
            raise ValueError(f"{name} is not text")
        self._take(name, dataset.nbytes)
        texts: list[str] = []
        for start in range(0, len(dataset), TEXTS_AT_ONCE):
            block = dataset.asstr()[start : start + TEXTS_AT_ONCE].tolist()
            self._take(name, sum(map(len, block)))
            texts += block
        return texts

    def numbers(self, name: str, dtype: type, *shape: int) -> NDArray[Any]:
        """Read a column of numbers of a type, with `shape` values in each row."""
        dataset = self._dataset(name, ndim=1 + len(shape))
        if not np.issubdtype(dataset.dtype, dtype) or dataset.shape[1:] != shape:
            raise ValueError(f"{name} has values of type {dataset.dtype}, shape {dataset.shape}")
        self._take(name, dataset.nbytes)
        values: NDArray[Any] = dataset[:]
        return values

    def check_tap(self, name: str, rows: int, width: int, dtype: str) -> None:
        """Check the shape and type of a tap, and that all of it is in the file, unpacked."""
        dataset = self._dataset(name, ndim=2)
        if dataset.dtype != np.dtype(dtype) or dataset.shape != (rows, width):
            raise ValueError(
                f"{name} has values of type {dataset.dtype}, shape {dataset.shape}, "
                f"not {dtype}, ({rows}, {width})"
            )
        self._take(name, dataset.nbytes)
        if dataset.id.get_storage_size() < dataset.nbytes:
            raise ValueError(f"{name} is packed, or a part of it is missing")

    def _dataset(self, name: str, *, ndim: int) -> h5py.Dataset:
        dataset = self.file.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise ValueError(f"it has no column {name}")
        if dataset.shape is None or dataset.ndim != ndim:
            raise ValueError(f"{name} has the shape {dataset.shape}")
        chunk = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
        if chunk > LARGEST_CHUNK:
            raise ValueError(f"{name} has chunks of {chunk / 1e6:,.0f} MB")
        return dataset

    def _take(self, name: str, size: int) -> None:
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise ValueError(f"{name} takes more bytes than the file has")


def text(attributes: dict[str, Any], name: str) -> str:
    """Return an attribute that must be a text."""
    value = attributes.get(name)
    if not isinstance(value, str):
        raise ValueError(f"its attribute {name} is {'missing' if value is None else 'not text'}")
    return value


def number(attributes: dict[str, Any], name: str) -> float:
    """Return an attribute that must be a finite number of at least 0."""
    value = attributes.get(name)
    if not isinstance(value, np.integer | np.floating) or not 0 <= value < math.inf:
        raise ValueError(f"its attribute {name} is {'missing' if value is None else 'no number'}")
    return float(value)


def record(attributes: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an attribute that must be a JSON object."""
    value = json.loads(text(attributes, name))
    if not isinstance(value, dict):
        raise ValueError(f"its attribute {name} is not a JSON object")
    return value
