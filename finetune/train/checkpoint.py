"""What training needs to go on after a kill as if nothing had been, in one file.

Keras's own BackupAndRestore forgets the best weights so far and how long ago they were.
"""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from extract.store import hdf5
from extract.system import atomic
from extract.system.console import finishing

Arrays = list[NDArray[Any]]


class State(NamedTuple):
    """Training after some epochs.

    Attributes
    ----------
    history : dict of str to list
        One entry an epoch.
    variables : list of ndarray
        Of network, random generators and optimizer.
    best : list of ndarray
        Weights of the best epoch.
    """

    history: dict[str, list[Any]]
    variables: Arrays
    best: Arrays


def write(path: Path, state: State, *, of: dict[str, Any]) -> None:
    """Keep the state of the training that `of` describes, whole or not at all."""
    image = io.BytesIO()
    with finishing(), h5py.File(image, "w") as file:
        file["about"] = np.void(json.dumps([of, state.history], sort_keys=True).encode())
        for name, arrays in (("variables", state.variables), ("best", state.best)):
            for number, array in enumerate(arrays):
                file[f"{name}/{number}"] = array
    atomic.write_bytes(path, image.getvalue())


def read(path: Path, *, of: dict[str, Any]) -> State | None:
    """Return what was kept of the training that `of` describes; None if there is none."""
    try:
        with finishing(), hdf5.open_whole(path) as file:
            kept_of, history = json.loads(file["about"][()].tobytes())
            if kept_of != json.loads(json.dumps(of)):
                return None
            return State(history, _arrays(file["variables"]), _arrays(file["best"]))
    # It is only time that is lost with what is damaged, and HDF5 raises many things on it.
    except Exception:
        return None


def _arrays(group: h5py.Group) -> Arrays:
    return [group[str(number)][()] for number in range(len(group))]
