"""A checkpoint: a file from which a killed training goes on as if it had never stopped.

Keras's own BackupAndRestore forgets the best weights so far and the epoch that they come from.
"""

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
from extract.system.console import finishing

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
            for name, arrays in (("variables", state.variables), ("best", state.best)):
                for number, array in enumerate(arrays):
                    file[f"{name}/{number}"] = array
        atomic.write_bytes(self.path, image.getvalue())

    def read(self) -> State | None:
        """Return the state of this training, or None if the file has no usable state.

        Raises
        ------
        Unavailable
            If the file cannot be read at this moment.
        """
        try:
            with (
                finishing(),
                hdf5.open_whole(self.path) as file,
                availability.expected(self.path),
            ):
                depended_on, history = json.loads(file["about"][()].tobytes())
                if depended_on != json.loads(json.dumps(self.depends_on)):
                    return None
                return State(history, _arrays(file["variables"]), _arrays(file["best"]))
        # HDF5 raises exceptions of many types on a damaged file, which here only costs time.
        except Exception as error:
            if availability.is_of_the_moment(error):
                raise
            return None


def _arrays(group: h5py.Group) -> Arrays:
    return [group[str(number)][()] for number in range(len(group))]
