"""Exports to Keras: a ``.keras`` archive, which also holds the record."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from classify.results import Result
from extract.vgg16 import keras_model
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import named, plain, size_of
from extract.vgg16.weights import Arrays
from finetune.export.dense import DenseHead
from finetune.export.file_formats import ExportedFunction, append_record
from finetune.export.head import activation, final_scores, head_input
from finetune.export.resize import squares

Classify = Callable[[Mapping[int, keras.KerasTensor]], keras.KerasTensor]
"""A function from squares of each size, (n, size, size, 3) float32 RGB, to probabilities."""


def build(classify: Classify, sizes: Sequence[int], *, dtype: str) -> keras.Model:
    """Build a network that takes photos of any size and returns probabilities.

    Parameters
    ----------
    classify : callable
    sizes : sequence of int
        Sides of the squares that it takes.
    dtype : str
        The dtype of the resize, see `squares`.
    """
    photos = keras.Input((None, None, 3), dtype="uint8", name="rgb")
    resized = {}
    for size in sizes:
        channels_first = squares(photos, size, keras.ops, dtype=dtype)
        channels_last = keras.ops.transpose(channels_first, (0, 2, 3, 1))
        resized[size] = keras.ops.cast(channels_last, "float32")
    found = classify(resized)
    return keras.Model(photos, keras.layers.Identity(name="probabilities")(found), name="photos")


def vgg16_and_head(
    squares: Mapping[int, keras.KerasTensor], head: DenseHead, arrays: Arrays
) -> keras.KerasTensor:
    """Return the probabilities that VGG16 and a head give, for `build`."""
    base = keras_model.convolutions(arrays, size=None)
    outputs = [base.get_layer(name).output for name in keras_model.SOURCES]
    # It sees every size, so the file holds its weights once.
    vgg16 = keras.Model(base.input, outputs, name="vgg16")
    taps: dict[str, keras.KerasTensor] = {}
    for size, photos in squares.items():
        sources = dict(zip(keras_model.SOURCES, vgg16(photos), strict=True))
        wanted = {plain(tap) for tap in head.taps if size_of(tap) == size}
        found = keras_model.pooled(sources, wanted, size=size)
        taps |= {named(tap, size): values for tap, values in found.items()}
    used = {tap: taps[tap] for tap in head.taps}
    x = head_input(used, keras.ops, root=head.root, by_block=head.by_block)
    for number, (kernel, bias) in enumerate(head.layers, start=1):
        layer = keras.layers.Dense(len(bias), name=f"dense{number}")
        hidden = layer(x)
        layer.set_weights([kernel, bias])
        is_last = number == len(head.layers)
        x = hidden if is_last else activation(hidden, x, keras.ops, gamma=head.gamma)
    return keras.ops.softmax(final_scores(x, keras.ops, floor=head.floor, slope=head.slope))


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
        # This program made the content, so it may have layers that no saved network has.
        network = keras.models.load_model(path, compile=False, safe_mode=True)
    return lambda photos: np.asarray(network(photos, training=False))
