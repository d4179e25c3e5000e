"""The formats of exported files: their names, the record inside, and the type of a loaded file."""

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.results import Result
from extract.system.console import one_line

FORMATS = {"keras": ".keras", "onnx": ".onnx", "litert": ".tflite"}
"""The formats, each with the suffix of its files."""

RECORD = "onepass.json"
"""Name in a file's archive of the record, which lists the classes in their order."""

Probabilities = NDArray[np.float32]
ExportedFunction = Callable[[NDArray[np.uint8]], Probabilities]
"""A loaded file, as a function from photos, (n, height, width, 3) uint8 RGB, to probabilities."""


def record(result: Result) -> dict[str, Any]:
    """Describe an exported model: where it comes from, its input, its output, its classes."""
    return {
        "class_names": result.class_names,
        "model": result.model,
        "data": result.data,
        "data_digest": result.data_digest,
        "recipe_digest": result.recipe_digest,
        "input": "photos, (n, height, width, 3) uint8 RGB, upright",
        "output": "probabilities, (n, classes) float32",
    }


def append_record(content: bytes, result: Result) -> bytes:
    """Add the record to Keras's archive, or as an archive at the end of any other file.

    The record has the class names as they are. In ``labels.txt`` each has one line, whatever is in
    it, because other tools read the file line by line.
    """
    image = io.BytesIO(content)
    with zipfile.ZipFile(image, "a") as file:
        text = json.dumps(record(result), indent=1, ensure_ascii=False)
        file.writestr(RECORD, text + "\n")
        file.writestr("labels.txt", "".join(f"{one_line(name)}\n" for name in result.class_names))
    return image.getvalue()
