"""Exported files resize photos as Pillow does."""

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from extract.photos import decode
from extract.vgg16.keras_backend import keras
from extract.vgg16.onnx_graph import Graph
from finetune.export.file_formats import ExportedFunction
from finetune.export.onnx_operations import OnnxOperations, Tensor
from finetune.export.resize import squares

SIZE = 224
SHAPES = [(30, 40), (500, 300), (552, 388), (553, 388), (224, 224), (1, 1), (2, 900), (300, 225)]


def by_keras(dtype: str) -> ExportedFunction:
    photos = keras.Input((None, None, 3), dtype="uint8")
    resized = squares(photos, SIZE, keras.ops, dtype=dtype)
    network = keras.Model(photos, keras.ops.cast(resized, "float32"))
    return lambda pixels: np.asarray(network(pixels))


def by_onnx(dtype: str) -> ExportedFunction:
    graph = Graph()
    ops = OnnxOperations(graph)
    resized = ops.cast(squares(Tensor(ops, "rgb", "uint8"), SIZE, ops, dtype=dtype), "float32")
    graph.add("Flatten", [resized.name], "squares")
    model = graph.model(("height", "width"), {"squares": 3 * SIZE * SIZE})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return lambda pixels: session.run(None, {"rgb": pixels})[0].reshape(-1, 3, SIZE, SIZE)


@pytest.mark.parametrize("build", [by_keras, by_onnx])
def test_photos_are_resized_as_by_pillow_to_the_last_bit(
    build: Callable[[str], ExportedFunction],
) -> None:
    exact, single = build("float64"), build("float32")
    for height, width in SHAPES:
        pixels = np.random.default_rng(height).integers(0, 256, (2, height, width, 3), np.uint8)
        wanted = np.stack(
            [
                decode.square(Image.fromarray(photo), size=SIZE).transpose(2, 0, 1)
                for photo in pixels
            ]
        )
        np.testing.assert_array_equal(exact(pixels), wanted)
        difference = abs(single(pixels) - wanted)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.02
