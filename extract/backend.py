"""The one place where Keras is imported, with its environment set before TensorFlow reads it."""

import os
from collections.abc import Callable, Mapping
from typing import Any

# TensorFlow leaves oneDNN off on some processors.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from numpy.typing import NDArray

__all__ = ["compiled", "is_out_of_memory", "keras"]

Run = Callable[[NDArray[np.uint8]], Mapping[str, Any]]


def compiled(network: keras.Model) -> Run:
    """Return a function that runs `network` on batches of any size.

    TensorFlow would trace Keras's own once more for the smaller last batch.
    """
    if keras.backend.backend() != "tensorflow":
        run: Run = network.predict_on_batch
        return run
    import tensorflow as tf

    batch = tf.TensorSpec(network.input.shape, tf.uint8)
    traced: Run = tf.function(
        lambda photos: network(photos, training=False), input_signature=[batch], autograph=False
    )
    return traced


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an error of any backend, or of NumPy, means that memory does not suffice."""
    # TensorFlow, PyTorch; JAX has only words for it.
    named = type(error).__name__ in ("ResourceExhaustedError", "OutOfMemoryError")
    return named or isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
