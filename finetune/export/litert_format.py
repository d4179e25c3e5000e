"""Exports to LiteRT (TensorFlow Lite): a ``.tflite`` file with the record at its end."""

import io
import warnings
from contextlib import redirect_stdout

import numpy as np
from numpy.typing import NDArray

from classify.results import Result
from extract.system import console
from extract.vgg16.keras_backend import keras
from finetune.export.file_formats import ExportedFunction, Probabilities, append_record

RESIZE_DTYPE = "float32"
"""LiteRT cannot multiply matrices of float64."""


def encode(network: keras.Model, result: Result) -> bytes:
    """Return the content of the file.

    Parameters
    ----------
    network : keras.Model
        Built by `finetune.export.keras_format.build` with `RESIZE_DTYPE`.
    result : Result
    """
    import tensorflow as tf

    # The conversion prints every weight of a Keras network, and its C++ part what it ignores.
    with console.silence(), redirect_stdout(io.StringIO()):
        content = tf.lite.TFLiteConverter.from_keras_model(network).convert()
    return append_record(content, result)


def load(content: bytes) -> ExportedFunction:
    """Return the function that an exported file computes."""
    import tensorflow as tf

    with warnings.catch_warnings():
        # TensorFlow warns that a later version moves the interpreter to another package.
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_content=content)
    input_info, output_info = (
        interpreter.get_input_details()[0],
        interpreter.get_output_details()[0],
    )

    def run(photos: NDArray[np.uint8]) -> Probabilities:
        interpreter.resize_tensor_input(input_info["index"], photos.shape)
        # At first it tells what it computes with.
        with console.silence():
            interpreter.allocate_tensors()
        interpreter.set_tensor(input_info["index"], photos)
        interpreter.invoke()
        probabilities: Probabilities = interpreter.get_tensor(output_info["index"])
        return probabilities

    return run
