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
from extract.system import atomic
from extract.system.console import finishing, warn

Arrays = list[NDArray[Any]]


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
            file["digest"] = _digest(state)
            for name, arrays in (("variables", state.variables), ("best", state.best)):
                for number, array in enumerate(arrays):
                    file[f"{name}/{number}"] = array
        atomic.write_bytes(self.path, image.getvalue())

    def read(self) -> State | None:
        """Return the state of this training; None, and a warning, if the file has another or none.

        A missing file needs no warning.
        """
        try:
            # An error of the moment, such as a missing permission, is no damage.
            open(self.path, "rb").close()
        except FileNotFoundError:
            return None
        try:
            with finishing(), hdf5.open_whole(self.path) as file:
                depended_on, history = json.loads(file["about"][()].tobytes())
                state = State(history, _arrays(file["variables"]), _arrays(file["best"]))
                # Earlier versions wrote no digest.
                if "digest" in file and file["digest"].asstr()[()] != _digest(state):
                    raise ValueError("its content is not what was written")
        except MemoryError:
            raise
        # HDF5 raises exceptions of many types on a damaged file, which here only costs time.
        except Exception as error:
            warn(f"{self.path}: damaged ({error}), so the training begins anew")
            return None
        if depended_on != json.loads(json.dumps(self.depends_on)):
            warn(f"{self.path}: of a training with other data or options; this one begins anew")
            return None
        return state


def _arrays(group: h5py.Group) -> Arrays:
    return [group[str(number)][()] for number in range(len(group))]


def _digest(state: State) -> str:
    """Return the SHA-256 of everything in a state."""
    digest = hashlib.sha256(json.dumps(state.history, sort_keys=True).encode())
    for array in (*state.variables, *state.best):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
