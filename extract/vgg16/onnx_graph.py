"""VGG16 with its preprocessing and taps as an ONNX graph, for what is not Keras."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from extract.vgg16.architecture import IMAGENET_MEANS_BGR, LAYERS
from extract.vgg16.recipe import SIZE, TAPS, windows

OPSET = 17
IR_VERSION = 9
FIXED_POINT = 2.0**22
"""Pillow's weights are multiples of one part of this."""

LEAST_NORM = 1e-12
"""What a tap is divided by at least: of a tap that is all 0, nothing is made."""

POOLINGS = {"avg": "GlobalAveragePool", "max": "GlobalMaxPool"}


def vgg16(arrays: Sequence[NDArray[np.float32]], *, size: int = SIZE) -> onnx.ModelProto:
    """Write the network with its weights.

    Parameters
    ----------
    arrays : sequence of 26 ndarrays
        As in `extract.vgg16.weights.Weights`.
    size : int
        One of `extract.vgg16.recipe.SIZES`.

    Returns
    -------
    onnx.ModelProto
        Input ``rgb``, (n, size, size, 3) uint8 RGB; one output a tap, (n, values) float32.
    """
    nodes, constants = _vgg16(arrays, TAPS, size)
    return _model([*_channels_first("pixels"), *nodes], constants, (size, size), TAPS)


def classifier(
    arrays: Sequence[NDArray[np.float32]],
    taps: Sequence[str],
    layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    *,
    root: bool,
) -> onnx.ModelProto:
    """Write a network from photos of any size to probabilities, VGG16 and a head in one.

    Photos are squashed as by `extract.photos.decode.square`.

    Parameters
    ----------
    arrays : sequence of 26 ndarrays
    taps : sequence of str
    layers : sequence of (kernel, bias)
    root : bool
        These three as in `classify.dense.Folded`.

    Returns
    -------
    onnx.ModelProto
        Input ``rgb``, (n, height, width, 3) uint8 RGB; output ``probabilities``, (n, classes).
    """
    nodes, constants = _vgg16(arrays, taps, SIZE)
    squares, numbers = _squash()
    nodes = [*_channels_first("as_they_are"), *squares, *nodes]
    constants += numbers
    constants.append(_constant("least_norm", np.array(LEAST_NORM)))
    for tap in taps:
        given = f"{tap}_root" if root else tap
        if root:
            nodes.append(helper.make_node("Sqrt", [tap], [given]))
        nodes += [
            helper.make_node("ReduceL2", [given], [f"{tap}_norm"], axes=[1]),
            helper.make_node("Max", [f"{tap}_norm", "least_norm"], [f"{tap}_divisor"]),
            helper.make_node("Div", [given, f"{tap}_divisor"], [f"{tap}_normed"]),
        ]
    nodes.append(helper.make_node("Concat", [f"{tap}_normed" for tap in taps], ["x0"], axis=1))
    for number, (kernel, bias) in enumerate(layers, start=1):
        constants += [_constant(f"kernel{number}", kernel), _constant(f"bias{number}", bias)]
        inputs = [f"x{number - 1}", f"kernel{number}", f"bias{number}"]
        last = number == len(layers)
        activation, name = ("Softmax", "probabilities") if last else ("Relu", f"x{number}")
        nodes.append(helper.make_node("Gemm", inputs, [f"sum{number}"]))
        nodes.append(helper.make_node(activation, [f"sum{number}"], [name]))
    outputs = {"probabilities": len(layers[-1][1])}
    return _model(nodes, constants, ("height", "width"), outputs)


def _model(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    sides: tuple[int | str, int | str],
    outputs: Mapping[str, int],
) -> onnx.ModelProto:
    photos = helper.make_tensor_value_info("rgb", TensorProto.UINT8, ["n", *sides, 3])
    found = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
        for name, width in outputs.items()
    ]
    graph = helper.make_graph(nodes, "vgg16", [photos], found, constants)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _channels_first(name: str) -> list[onnx.NodeProto]:
    return [
        _to("rgb", TensorProto.FLOAT, "numbers"),
        helper.make_node("Transpose", ["numbers"], [name], perm=[0, 3, 1, 2]),
    ]


def _squash() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return what makes squares of photos as Pillow 13 does it, to the last bit.

    Two passes of triangles whose values are multiples of 2^-22, each rounded to whole numbers; rows
    are made fewer first where more than twice as many are to go as columns.
    """
    numbers = {"zero": 0, "half": 0.5, "one": 1, "size": SIZE, "fixed_point": FIXED_POINT}
    constants = [
        numpy_helper.from_array(np.array(value, np.float64), name)
        for name, value in numbers.items()
    ]
    constants += [
        numpy_helper.from_array(np.arange(SIZE)[:, None] + 0.5, "centres"),
        numpy_helper.from_array(np.array([1]), "along"),
    ]
    nodes = [
        _to("as_they_are", TensorProto.DOUBLE, "x"),
        helper.make_node("Shape", ["x"], ["shape"]),
    ]
    for side, axis in (("height", 2), ("width", 3)):
        constants.append(numpy_helper.from_array(np.array(axis), f"{side}_axis"))
        own = partial("{}_{}".format, side)
        nodes += [
            helper.make_node("Gather", ["shape", own("axis")], [own("pixels")]),
            _to(own("pixels"), TensorProto.DOUBLE, side),
            helper.make_node("Range", ["zero", side, "one"], [own("corners")]),
            helper.make_node("Add", [own("corners"), "half"], [own("places")]),
            helper.make_node("Div", [side, "size"], [own("scale")]),
            helper.make_node("Mul", ["centres", own("scale")], [own("wanted")]),
            helper.make_node("Sub", [own("places"), own("wanted")], [own("offsets")]),
            helper.make_node("Abs", [own("offsets")], [own("distances")]),
            helper.make_node("Max", [own("scale"), "one"], [own("reach")]),
            helper.make_node("Div", [own("distances"), own("reach")], [own("relative")]),
            helper.make_node("Sub", ["one", own("relative")], [own("slopes")]),
            helper.make_node("Max", [own("slopes"), "zero"], [own("triangles")]),
            helper.make_node("ReduceSum", [own("triangles"), "along"], [own("sums")]),
            helper.make_node("Div", [own("triangles"), own("sums")], [own("shares")]),
            helper.make_node("Mul", [own("shares"), "fixed_point"], [own("large")]),
            *_round(own("large")),
            helper.make_node("Div", [own("large_rounded"), "fixed_point"], [own("weights")]),
        ]
    nodes += [
        helper.make_node("Transpose", ["width_weights"], ["across"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "across"], ["narrow"]),
        *_round("narrow"),
        helper.make_node("MatMul", ["height_weights", "narrow_rounded"], ["columns_first"]),
        helper.make_node("MatMul", ["height_weights", "x"], ["low"]),
        *_round("low"),
        helper.make_node("MatMul", ["low_rounded", "across"], ["rows_first"]),
        helper.make_node("Add", ["width", "width"], ["twice"]),
        helper.make_node("Sub", ["twice", "size"], ["limit"]),
        helper.make_node("Max", ["limit", "size"], ["most"]),
        helper.make_node("Greater", ["height", "most"], ["is_tall"]),
        helper.make_node("Where", ["is_tall", "rows_first", "columns_first"], ["square"]),
        *_round("square"),
        _to("square_rounded", TensorProto.FLOAT, "pixels"),
    ]
    return nodes, constants


def _to(name: str, kind: int, output: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [output], to=kind)


def _round(name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Add", [name, "half"], [f"{name}_half"]),
        helper.make_node("Floor", [f"{name}_half"], [f"{name}_rounded"]),
    ]


def _vgg16(
    arrays: Sequence[NDArray[np.float32]], taps: Iterable[str], size: int
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return what leads from ``pixels``, (n, 3, size, size) RGB 0..255, to taps."""
    constants = [
        _constant("flip", np.eye(3)[::-1].reshape(3, 3, 1, 1)),
        _constant("minus_means", -np.array(IMAGENET_MEANS_BGR)),
    ]
    nodes = [helper.make_node("Conv", ["pixels", "flip", "minus_means"], ["bgr"])]
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
    for tap in taps:
        nodes += _tap(tap, last, size)
    return nodes, constants


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
