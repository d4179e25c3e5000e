"""The one place where Keras is imported, with its environment set before TensorFlow reads it."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from extract.console import InputError

# TensorFlow leaves oneDNN off on some processors.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from numpy.typing import NDArray

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
        with warnings.catch_warnings():
            # Of an optimizer's state, which is not wanted.
            warnings.simplefilter("ignore")
            return keras.models.load_model(path, compile=False, safe_mode=True)
    # Keras raises many things on a damaged or foreign file.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path}: not a network that can be used ({reason[0]})") from error


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an error of any backend, or of NumPy, means that memory does not suffice."""
    # TensorFlow, PyTorch; JAX has only words for it.
    named = type(error).__name__ in ("ResourceExhaustedError", "OutOfMemoryError")
    return named or isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
