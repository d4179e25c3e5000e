"""VGG16 with its preprocessing and taps as an ONNX graph, for programs other than Keras."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from extract.vgg16 import pairs
from extract.vgg16.architecture import (
    FILTERS_FIRST,
    LAYERS,
    TAP_LAYERS,
    MaxPool,
    Tap,
    preprocessing,
    windows,
)
from extract.vgg16.recipe import ALL_TAPS, SIZE, TAPS

OPSET = 17
IR_VERSION = 9

POOLINGS = {"avg": "GlobalAveragePool", "max": "GlobalMaxPool"}


class Graph:
    """An ONNX graph under construction.

    Attributes
    ----------
    nodes : list of NodeProto
    constants : list of TensorProto
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add a constant, unless there is one of this name, and return the name."""
        if all(name != constant.name for constant in self.constants):
            # A scalar stays one, as CumSum requires its axis to be.
            self.constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def model(
        self, sides: tuple[int, int] | tuple[str, str], outputs: Mapping[str, int]
    ) -> onnx.ModelProto:
        """Return the model whose input is ``rgb``, (n, height, width, 3) uint8.

        Parameters
        ----------
        sides : (height, width)
            Numbers, or names if the model takes photos of any size.
        outputs : mapping of str to int
            Name and number of columns of each output, (n, columns) float32.
        """
        photos = helper.make_tensor_value_info("rgb", TensorProto.UINT8, ["n", *sides, 3])
        output_infos = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
            for name, width in outputs.items()
        ]
        graph = helper.make_graph(self.nodes, "vgg16", [photos], output_infos, self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def vgg16(
    arrays: Sequence[NDArray[np.float32]], *, size: int = SIZE, taps: Collection[str] = tuple(TAPS)
) -> onnx.ModelProto:
    """Return a model from photos of a size to taps.

    Parameters
    ----------
    arrays : sequence of 26 ndarrays
        Kernels and biases as in `extract.vgg16.weights.Weights`.
    size : int
        One of `extract.vgg16.recipe.SIZES`.
    taps : collection of str

    Returns
    -------
    onnx.ModelProto
        The input is ``rgb``, (n, size, size, 3) uint8 RGB. Each tap is an output, (n, values)
        float32.
    """
    graph = Graph()
    numbers = graph.add("Cast", ["rgb"], "numbers", to=TensorProto.FLOAT)
    pixels = graph.add("Transpose", [numbers], "pixels", perm=[0, 3, 1, 2])
    add_vgg16(graph, pixels, arrays, taps=taps, size=size)
    return graph.model((size, size), {tap: ALL_TAPS[tap] for tap in taps})


def add_vgg16(
    graph: Graph,
    pixels: str,
    arrays: Sequence[NDArray[np.float32]],
    *,
    taps: Iterable[str],
    size: int = SIZE,
    suffix: str = "",
) -> None:
    """Add the nodes from ``pixels``, (n, 3, size, size) RGB 0..255, to taps by their names.

    A graph may have VGG16 at several sizes. The constants are shared, and `suffix` ends the names
    of the nodes and taps of this size.
    """
    flip, minus_means = preprocessing()
    graph.constant("flip", flip.transpose(FILTERS_FIRST))
    graph.constant("minus_means", minus_means)
    x = graph.add("Conv", [pixels, "flip", "minus_means"], f"bgr{suffix}")
    parameters = iter(arrays)
    for layer in LAYERS:
        name = f"{layer.name}{suffix}"
        if isinstance(layer, MaxPool):
            x = graph.add("MaxPool", [x], name, kernel_shape=[2, 2], strides=[2, 2])
            continue
        kernel = graph.constant(f"{layer.name}_kernel", next(parameters).transpose(FILTERS_FIRST))
        bias = graph.constant(f"{layer.name}_bias", next(parameters))
        sums = graph.add("Conv", [x, kernel, bias], f"{name}_sum", pads=[1, 1, 1, 1])
        x = graph.add("Relu", [sums], name)
    by_name = {tap.name: tap for tap in TAP_LAYERS}
    for name in taps:
        _add_tap(graph, by_name[name], size, suffix)


def _add_tap(graph: Graph, tap: Tap, size: int, suffix: str) -> None:
    source, name = f"{tap.source}{suffix}", f"{tap.name}{suffix}"
    if tap.pooling == "pairs":
        _add_pairs(graph, source, name, tap.positions(size))
        return
    if tap.pooling == "avg3x3":
        window, stride = windows(size)
        averages = graph.add(
            "AveragePool",
            [source],
            f"{name}_first",
            kernel_shape=[window, window],
            strides=[stride, stride],
        )
        # The values of a tap are ordered with the channels last.
        pooled = graph.add("Transpose", [averages], f"{name}_last", perm=[0, 2, 3, 1])
    else:
        pooled = graph.add(POOLINGS[tap.pooling], [source], f"{name}_square")
    graph.add("Flatten", [pooled], name)


def products_of(tap: str) -> str:
    """Return the name of the averaged products, (n, channels, channels), of a tap of pairs."""
    return f"{tap}_means"


def _add_pairs(graph: Graph, source: str, name: str, positions: int) -> None:
    """Add the nodes from a map to its tap of pairs, see `pairs.in_bins`."""
    indices, signs = pairs.table()
    mean = np.array(1 / positions, np.float32)

    def shaped(values: str, *shape: int) -> str:
        # 0 keeps the number of photos.
        constant = graph.constant("_".join(map(str, ("shape", *shape))), np.array([0, *shape]))
        return graph.add("Reshape", [values, constant], f"{values}_shaped")

    values = shaped(source, pairs.CHANNELS, positions)
    turned = graph.add("Transpose", [values], f"{name}_turned", perm=[0, 2, 1])
    sums = graph.add("MatMul", [values, turned], f"{name}_sums")
    means = graph.add("Mul", [sums, graph.constant(f"mean_{positions}", mean)], products_of(name))
    flat = shaped(means, pairs.CHANNELS**2)
    taken = graph.add("Gather", [flat, graph.constant("pairs", indices)], f"{name}_taken", axis=1)
    roots = graph.add("Sqrt", [taken], f"{name}_roots")
    signed = graph.add("Mul", [roots, graph.constant("signs", signs)], f"{name}_signed")
    terms = shaped(signed, pairs.DEPTH, pairs.BINS)
    axis = graph.constant("terms", np.array([1]))
    graph.add("ReduceSum", [terms, axis], name, keepdims=0)
