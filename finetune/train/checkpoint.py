"""A checkpoint: a file from which a killed training goes on as if it had never stopped.

Keras's own BackupAndRestore forgets the best weights so far and the epoch that they come from.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from extract.store import hdf5
from extract.system import atomic, availability
from extract.system.console import finishing, warn

Arrays = list[NDArray[Any]]

MARK = b"SHA-256 of all after this block: "
BLOCK = 512
"""The file begins with the mark, the digest and padding to this size, which HDF5 skips."""


class State(NamedTuple):
    """The state of a training after some epochs.

    Attributes
    ----------
    history : dict of str to list
        One entry per epoch.
    variables : list of ndarray
        Variables of the network, its random generators and its optimizer.
    best : list of ndarray
        Weights of the network after the best epoch.
    """

    history: dict[str, list[Any]]
    variables: Arrays
    best: Arrays


@dataclass(frozen=True)
class Checkpoint:
    """The file that holds the state of one training.

    Attributes
    ----------
    path : Path
    depends_on : dict
        Everything that the training depends on, in types that JSON has. The state is used only if
        the stored training depended on the same.
    """

    path: Path
    depends_on: dict[str, Any]

    def write(self, state: State) -> None:
        """Replace the file, so that it is whole at any moment."""
        image = io.BytesIO()
        about = json.dumps([self.depends_on, state.history], sort_keys=True)
        with finishing(), h5py.File(image, "w") as file:
            file["about"] = np.void(about.encode())
            for name, arrays in (("variables", state.variables), ("best", state.best)):
                for number, array in enumerate(arrays):
                    file[f"{name}/{number}"] = array
        content = image.getvalue()
        atomic.write_bytes(self.path, (MARK + _digest(content)).ljust(BLOCK, b"\0") + content)

    def read(self) -> State | None:
        """Return the state of this training; None, and a warning, if the file has another or none.

        A missing file needs no warning.

        Raises
        ------
        Unavailable
            If the file cannot be read at this moment.
        """
        try:
            with availability.expected(self.path):
                content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            with finishing(), hdf5.open_whole(io.BytesIO(_checked(content))) as file:
                depended_on, history = json.loads(file["about"][()].tobytes())
                state = State(history, _arrays(file["variables"]), _arrays(file["best"]))
        # HDF5 raises exceptions of many types on a damaged file, which here only costs time.
        except Exception as error:
            if availability.is_of_the_moment(error):
                raise
            warn(f"{self.path}: damaged ({error}), so the training begins anew")
            return None
        if depended_on != json.loads(json.dumps(self.depends_on)):
            warn(f"{self.path}: of a training with other data or options; this one begins anew")
            return None
        return state


def _arrays(group: h5py.Group) -> Arrays:
    return [group[str(number)][()] for number in range(len(group))]


def _checked(content: bytes) -> bytes:
    """Return the HDF5 file in a checkpoint, before HDF5, which a damaged file can hang, reads it.

    Raises
    ------
    ValueError
        If it is not what was written. Earlier versions wrote no digest.
    """
    if not content.startswith(MARK):
        return content
    whole, digest = content[BLOCK:], content[len(MARK) : len(MARK) + 64]
    if digest != _digest(whole):
        raise ValueError("its content is not what was written")
    return whole


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
