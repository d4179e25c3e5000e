"""The one place that imports Keras. It sets the environment before TensorFlow reads it."""

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

__all__ = ["inference_function", "is_out_of_memory", "keras", "load"]

CODE_CLASSES = ("Lambda", "TorchModuleWrapper", "TFSMLayer", "function")
"""Classes in a saved network that stand for code from outside Keras."""

OUT_OF_MEMORY = ("ResourceExhaustedError", "OutOfMemoryError")
"""Exceptions of TensorFlow and PyTorch, by name because neither may be installed."""


def inference_function(network: keras.Model) -> Callable[[NDArray[np.uint8]], Any]:
    """Return a function that runs `network` on batches of any size.

    With TensorFlow the network is traced once for every batch size, whereas Keras's own prediction
    function would trace it again for a smaller last batch.
    """
    if keras.backend.backend() != "tensorflow":
        predict: Callable[[NDArray[np.uint8]], Any] = network.predict_on_batch
        return predict
    import tensorflow as tf

    batch = tf.TensorSpec(network.input_shape, tf.uint8)
    traced: Callable[[NDArray[np.uint8]], Any] = tf.function(
        lambda photos: network(photos, training=False), input_signature=[batch], autograph=False
    )
    return traced


def load(path: Path) -> keras.Model:
    """Read a network from a ``.keras`` file without running any code that the file contains.

    Raises
    ------
    InputError
        If the file is missing or damaged, or if loading it would run code.
    """
    if not path.exists():
        raise InputError(f"{path}: not there; train the model again")
    try:
        code = _find_code(path)
        if code:
            raise ValueError(f"it names {code}, which could run code")
        with warnings.catch_warnings():
            # Keras warns that the optimizer's state is not restored; inference does not need it.
            warnings.simplefilter("ignore")
            return keras.models.load_model(path, compile=False, safe_mode=True)
    # On a damaged or foreign file Keras raises exceptions of many types.
    except Exception as error:
        reason = textwrap.shorten(str(error), 200) or type(error).__name__
        raise InputError(f"{path}: not a network that can be used ({reason})") from error


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an error of any backend, or of NumPy, means that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ in OUT_OF_MEMORY:
        return True
    # JAX has no exception type for it; only the message says so.
    return "RESOURCE_EXHAUSTED" in str(error)


def _find_code(path: Path) -> str:
    """Return the first class or function in a saved network that might run code, or ''."""
    with zipfile.ZipFile(path) as file:
        waiting = [json.loads(file.read("config.json"))]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            # A reference to another tensor names no module, and nothing is imported for it.
            module, name = item.get("module") or "keras", item.get("class_name")
            if str(module).split(".")[0] != "keras" or name in CODE_CLASSES:
                return f"{module}.{name}"
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return ""
