"""Functions of `keras.ops` that add nodes to an ONNX graph, so that one source serves both."""
# ruff: noqa: D102 (a method does what the function of keras.ops with the same name does)

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper

from extract.vgg16.onnx_graph import Graph


@dataclass(frozen=True, eq=False)
class Tensor:
    """An output of a node in an ONNX graph. Arithmetic with it adds nodes to the graph."""

    ops: "OnnxOperations"
    name: str
    dtype: str

    def __add__(self, other: "Operand") -> "Tensor":
        return self.ops.add("Add", self, other)

    def __sub__(self, other: "Operand") -> "Tensor":
        return self.ops.add("Sub", self, other)

    def __rsub__(self, other: "Operand") -> "Tensor":
        return self.ops.add("Sub", other, self)

    def __mul__(self, other: "Operand") -> "Tensor":
        return self.ops.add("Mul", self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: "Operand") -> "Tensor":
        return self.ops.add("Div", self, other)

    def __gt__(self, other: "Operand") -> "Tensor":
        return self.ops.add("Greater", self, other, dtype="bool")


Operand = Tensor | ArrayLike
"""A tensor, or numbers that become a constant of the graph."""


class OnnxOperations:
    """The functions of `keras.ops` that exports need; each adds a node to a graph.

    Parameters
    ----------
    graph : Graph
        The graph under construction.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def add(self, operator: str, *inputs: Operand, dtype: str = "", **attributes: Any) -> Tensor:
        """Add a node of any ONNX operator.

        Parameters
        ----------
        operator : str
        *inputs : Tensor or array_like
            Numbers take the dtype of the first tensor.
        dtype : str
            The dtype of the output, if it differs from that of the first tensor.
        **attributes
            The operator's attributes.
        """
        kind = next(given.dtype for given in inputs if isinstance(given, Tensor))
        tensors = [
            given if isinstance(given, Tensor) else self.constant(given, kind) for given in inputs
        ]
        output = f"{operator.lower()}_{len(self.graph.nodes)}"
        self.graph.add(operator, [tensor.name for tensor in tensors], output, **attributes)
        return Tensor(self, output, dtype or kind)

    def constant(self, values: ArrayLike, dtype: str) -> Tensor:
        """Add numbers to the graph."""
        name = f"constant_{len(self.graph.constants)}"
        return Tensor(self, self.graph.constant(name, np.asarray(values, dtype)), dtype)

    def abs(self, x: Tensor) -> Tensor:
        return self.add("Abs", x)

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.add("Cast", x, dtype=dtype, to=kind)

    def concatenate(self, xs: Sequence[Tensor], axis: int) -> Tensor:
        return self.add("Concat", *xs, axis=axis)

    def cumsum(self, x: Tensor) -> Tensor:
        return self.add("CumSum", x, self.constant(0, "int64"))

    def exp(self, x: Tensor) -> Tensor:
        return self.add("Exp", x)

    def floor(self, x: Tensor) -> Tensor:
        return self.add("Floor", x)

    def log(self, x: Tensor) -> Tensor:
        return self.add("Log", x)

    def matmul(self, x1: Operand, x2: Operand) -> Tensor:
        return self.add("MatMul", x1, x2)

    def max(self, x: Tensor, axis: tuple[int, ...]) -> Tensor:
        return self.add("ReduceMax", x, axes=list(axis), keepdims=0)

    def maximum(self, x1: Operand, x2: Operand) -> Tensor:
        return self.add("Max", x1, x2)

    def norm(self, x: Tensor, *, axis: int, keepdims: bool) -> Tensor:
        return self.add("ReduceL2", x, axes=[axis], keepdims=int(keepdims))

    def ones_like(self, x: Tensor) -> Tensor:
        shape = self.add("Shape", x, dtype="int64")
        one = numpy_helper.from_array(np.ones(1, x.dtype))
        return self.add("ConstantOfShape", shape, dtype=x.dtype, value=one)

    def relu(self, x: Tensor) -> Tensor:
        return self.add("Relu", x)

    def sqrt(self, x: Tensor) -> Tensor:
        return self.add("Sqrt", x)

    def sum(self, x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
        axes = [] if axis is None else [self.constant([axis], "int64")]
        return self.add("ReduceSum", x, *axes, keepdims=int(keepdims))

    def transpose(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        return self.add("Transpose", x, perm=list(axes))

    def where(self, condition: Tensor, x1: Tensor, x2: Tensor) -> Tensor:
        return self.add("Where", condition, x1, x2, dtype=x1.dtype)
