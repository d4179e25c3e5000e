"""Exports to ONNX: VGG16 and a head in one graph, with the record in its metadata."""

import json
import os
from importlib.util import find_spec

import numpy as np
import onnx
from numpy.typing import NDArray

from classify.results import Result
from extract.vgg16.onnx_graph import Graph, add_vgg16
from extract.vgg16.recipe import named, plain, size_of
from extract.vgg16.weights import Arrays
from finetune.export.dense import DenseHead
from finetune.export.file_formats import ExportedFunction, Probabilities, record
from finetune.export.head import activation, final_scores, head_input
from finetune.export.onnx_operations import OnnxOperations, Tensor
from finetune.export.resize import squares

OUTPUT = "probabilities"


def build(head: DenseHead, arrays: Arrays) -> onnx.ModelProto:
    """Build a model from photos of any size to probabilities.

    Returns
    -------
    onnx.ModelProto
        Input ``rgb``, (n, height, width, 3) uint8 RGB; output ``probabilities``, (n, classes).
    """
    graph = Graph()
    ops = OnnxOperations(graph)
    for size in sorted({size_of(tap) for tap in head.taps}):
        pixels = ops.cast(squares(Tensor(ops, "rgb", "uint8"), size, ops), "float32")
        taps = [plain(tap) for tap in head.taps if size_of(tap) == size]
        add_vgg16(graph, pixels.name, arrays, taps=taps, size=size, suffix=named("", size))
    tensors = {tap: Tensor(ops, tap, "float32") for tap in head.taps}
    x = head_input(tensors, ops, root=head.root, by_block=head.by_block)
    for kernel, bias in head.layers[:-1]:
        x = activation(ops.add("Gemm", x, kernel, bias), x, ops, gamma=head.gamma)
    x = ops.add("Gemm", x, *head.layers[-1])
    x = final_scores(x, ops, floor=head.floor, slope=head.slope)
    graph.add("Softmax", [x.name], OUTPUT)
    return graph.model(("height", "width"), {OUTPUT: len(head.layers[-1][1])})


def encode(model: onnx.ModelProto, result: Result) -> bytes:
    """Return the content of the file."""
    for key, value in record(result).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        model.metadata_props.add(key=key, value=text)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def has_runtime() -> bool:
    """Say whether ONNX Runtime is installed."""
    return find_spec("onnxruntime") is not None


def load(content: bytes) -> ExportedFunction:
    """Return the function that an exported file computes.

    Without ONNX Runtime the reference of the onnx package computes it, which takes seconds a photo.
    """
    if not has_runtime():
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(onnx.load_from_string(content))

        def evaluate(photos: NDArray[np.uint8]) -> Probabilities:
            (found,) = evaluator.run([OUTPUT], {"rgb": photos})
            return np.asarray(found)

        return evaluate
    # From version 1.29 on, ONNX Runtime reports what it runs to its maker from the import on.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(photos: NDArray[np.uint8]) -> Probabilities:
        found: Probabilities = session.run([OUTPUT], {"rgb": photos})[0]
        return found

    return run
