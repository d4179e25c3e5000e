"""VGG16 with its preprocessing and taps as an ONNX graph, for engines that are not Keras."""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from extract.recipe import SIZE, TAPS, windows
from extract.weights import IMAGENET_MEANS_BGR, LAYERS

OPSET = 17
IR_VERSION = 9
POOLINGS = {"avg": "GlobalAveragePool", "max": "GlobalMaxPool"}


def vgg16(arrays: Sequence[NDArray[np.float32]], *, size: int = SIZE) -> onnx.ModelProto:
    """Write the network with its weights.

    Parameters
    ----------
    arrays : sequence of 26 ndarrays
        As in `extract.weights.Weights`.
    size : int
        One of `extract.recipe.SIZES`.

    Returns
    -------
    onnx.ModelProto
        Input ``rgb``, (n, size, size, 3) uint8 RGB; one output a tap, (n, values) float32.
    """
    constants = [
        _constant("flip", np.eye(3)[::-1].reshape(3, 3, 1, 1)),
        _constant("minus_means", -np.array(IMAGENET_MEANS_BGR)),
    ]
    nodes = [
        helper.make_node("Cast", ["rgb"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["numbers"], ["channels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["channels_first", "flip", "minus_means"], ["bgr"]),
    ]
    x, block = "bgr", "block1"
    last: dict[str, str] = {}
    for index, name in enumerate(LAYERS):
        if not name.startswith(block):
            nodes.append(_max_pool(x, block))
            x, block = f"{block}_pool", name.split("_")[0]
        kernel, bias = arrays[2 * index : 2 * index + 2]
        constants.append(_constant(f"{name}_kernel", kernel.transpose(3, 2, 0, 1)))
        constants.append(_constant(f"{name}_bias", bias))
        inputs = [x, f"{name}_kernel", f"{name}_bias"]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}_sum"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"{name}_sum"], [name]))
        x = last[block] = name
    nodes.append(_max_pool(x, block))
    for tap in TAPS:
        nodes += _tap(tap, last, size)
    photos = helper.make_tensor_value_info("rgb", TensorProto.UINT8, ["n", size, size, 3])
    outputs = [
        helper.make_tensor_value_info(tap, TensorProto.FLOAT, ["n", width])
        for tap, width in TAPS.items()
    ]
    graph = helper.make_graph(nodes, "vgg16", [photos], outputs, constants)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _constant(name: str, values: NDArray[np.float64] | NDArray[np.float32]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float32), name)


def _max_pool(x: str, block: str) -> onnx.NodeProto:
    name = f"{block}_pool"
    return helper.make_node("MaxPool", [x], [name], kernel_shape=[2, 2], strides=[2, 2])


def _tap(tap: str, last: dict[str, str], size: int) -> list[onnx.NodeProto]:
    block, pooling = tap.split("_")
    if pooling != "avg3x3":
        return [
            helper.make_node(POOLINGS[pooling], [last[block]], [f"{tap}_square"]),
            helper.make_node("Flatten", [f"{tap}_square"], [tap]),
        ]
    # Flattened with the channels last, as Keras does.
    window, stride = windows(size)
    parts = helper.make_node(
        "AveragePool",
        [f"{block}_pool"],
        [f"{tap}_first"],
        kernel_shape=[window, window],
        strides=[stride, stride],
    )
    return [
        parts,
        helper.make_node("Transpose", [f"{tap}_first"], [f"{tap}_last"], perm=[0, 2, 3, 1]),
        helper.make_node("Flatten", [f"{tap}_last"], [tap]),
    ]
