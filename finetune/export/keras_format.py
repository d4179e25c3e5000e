"""Exports to Keras: a ``.keras`` archive, which also holds the record."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from classify.dense import DenseHead
from classify.results import Result
from extract.vgg16 import keras_backend, keras_model
from extract.vgg16.keras_backend import keras
from extract.vgg16.weights import Arrays
from finetune.export.file_formats import ExportedFunction, append_record
from finetune.export.head import head_input
from finetune.export.resize import squares

Classify = Callable[[keras.KerasTensor], keras.KerasTensor]
"""A function from squares, (n, size, size, 3) float32 RGB 0..255, to probabilities."""


def build(classify: Classify, size: int, *, dtype: str) -> keras.Model:
    """Build a network that takes photos of any size and returns probabilities.

    Parameters
    ----------
    classify : callable
        A network, or a function that calls one.
    size : int
        Side of the squares that it takes.
    dtype : str
        The dtype of the resize, see `squares`.
    """
    photos = keras.Input((None, None, 3), dtype="uint8", name="rgb")
    resized = squares(photos, size, keras.ops, dtype=dtype)
    channels_last = keras.ops.transpose(resized, (0, 2, 3, 1))
    found = classify(keras.ops.cast(channels_last, "float32"))
    return keras.Model(photos, keras.layers.Identity(name="probabilities")(found), name="photos")


def vgg16_and_head(photos: keras.KerasTensor, head: DenseHead, arrays: Arrays) -> keras.KerasTensor:
    """Return the probabilities that VGG16 and a head give, for `build`."""
    base = keras_model.convolutions(arrays)
    taps = keras_model.taps(base)
    outputs = keras.Model(base.input, [taps[tap] for tap in head.taps], name="vgg16")(photos)
    x = head_input(outputs if isinstance(outputs, list) else [outputs], keras.ops, root=head.root)
    for number, (kernel, bias) in enumerate(head.layers, start=1):
        activation = "softmax" if number == len(head.layers) else "relu"
        layer = keras.layers.Dense(len(bias), activation=activation, name=f"dense{number}")
        x = layer(x)
        layer.set_weights([kernel, bias])
    return x


def encode(network: keras.Model, result: Result) -> bytes:
    """Return the content of the file."""
    with tempfile.TemporaryDirectory() as temporary:
        # Keras requires a file name that ends in .keras.
        path = Path(temporary, "exported.keras")
        network.save(path)
        return append_record(path.read_bytes(), result)


def load(content: bytes) -> ExportedFunction:
    """Return the function that an exported file computes."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "exported.keras")
        path.write_bytes(content)
        network = keras_backend.load(path)
    return lambda photos: np.asarray(network(photos, training=False))
