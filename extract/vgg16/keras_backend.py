"""The one place where Keras is imported, with its environment set before TensorFlow reads it."""

import json
import os
import textwrap
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from extract.system.console import InputError

# TensorFlow leaves oneDNN off on some processors.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from numpy.typing import NDArray

RUNS_CODE = ("Lambda", "TorchModuleWrapper", "TFSMLayer", "function")
"""Names in a saved network that stand for code outside Keras."""

__all__ = ["compiled", "is_out_of_memory", "keras", "load"]

Run = Callable[[NDArray[np.uint8]], Any]


def compiled(network: keras.Model) -> Run:
    """Return a function that runs `network` on batches of any size.

    TensorFlow would trace Keras's own once more for the smaller last batch.
    """
    if keras.backend.backend() != "tensorflow":
        run: Run = network.predict_on_batch
        return run
    import tensorflow as tf

    batch = tf.TensorSpec(network.input_shape, tf.uint8)
    traced: Run = tf.function(
        lambda photos: network(photos, training=False), input_signature=[batch], autograph=False
    )
    return traced


def load(path: Path) -> keras.Model:
    """Read a network from a ``.keras`` file, running no code that it brings along.

    Raises
    ------
    InputError
        If it is not there, damaged, or would run code.
    """
    if not path.exists():
        raise InputError(f"{path}: not there; train the model again")
    try:
        foreign = _foreign(path)
        if foreign:
            raise ValueError(f"it names {foreign}, which could run code")
        with warnings.catch_warnings():
            # Of an optimizer's state, which is not wanted.
            warnings.simplefilter("ignore")
            return keras.models.load_model(path, compile=False, safe_mode=True)
    # Keras raises many things on a damaged or foreign file.
    except Exception as error:
        reason = textwrap.shorten(str(error), 200) or type(error).__name__
        raise InputError(f"{path}: not a network that can be used ({reason})") from error


def _foreign(path: Path) -> str:
    """Return the first thing that a saved network names and that might run code, if any."""
    with zipfile.ZipFile(path) as file:
        waiting = [json.loads(file.read("config.json"))]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            # Of a reference to another tensor the module is not told, and nothing is imported.
            module, name = item.get("module") or "keras", item.get("class_name")
            if str(module).split(".")[0] != "keras" or name in RUNS_CODE:
                return f"{module}.{name}"
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return ""


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an error of any backend, or of NumPy, means that memory does not suffice."""
    # TensorFlow, PyTorch; JAX has only words for it.
    named = type(error).__name__ in ("ResourceExhaustedError", "OutOfMemoryError")
    return named or isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
