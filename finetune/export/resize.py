"""Pillow's resize as tensor operations, written once for every exported format."""

from typing import Any

import numpy as np

FIXED_POINT = 2.0**22
"""Pillow rounds its weights to multiples of one part of this."""


def squares(photos: Any, size: int, ops: Any, *, dtype: str = "float64") -> Any:
    """Resize photos of any size to squares as Pillow 13 does with its bilinear filter.

    Pillow resizes one axis and then the other, and rounds to whole numbers after each. The rows
    come first if more than twice as many rows as columns have to go.

    Parameters
    ----------
    photos : tensor of shape (n, height, width, 3), uint8
    size : int
    ops : module or OnnxOperations
        `keras.ops` for tensors of Keras, `OnnxOperations` for tensors of an ONNX graph.
    dtype : str
        With float64 the result equals Pillow's to the last bit. With float32 about 3 pixels in
        1,000 differ by 1 of 255: those halfway between two values.

    Returns
    -------
    tensor of shape (n, 3, size, size), `dtype`
        Whole numbers, 0..255.
    """
    x = ops.transpose(ops.cast(photos, dtype), (0, 3, 1, 2))
    # The length of a side is unknown until there is a photo, so it is counted along a row and a
    # column of maxima.
    width, across = _side(ops.max(x, axis=(0, 1, 2)), size, ops, dtype)
    height, down = _side(ops.max(x, axis=(0, 1, 3)), size, ops, dtype)
    across = ops.transpose(across, (1, 0))
    columns_first = _rounded(ops.matmul(down, _rounded(ops.matmul(x, across), ops)), ops)
    rows_first = _rounded(ops.matmul(_rounded(ops.matmul(down, x), ops), across), ops)
    is_tall = height > ops.maximum(2 * width - size, float(size))
    return ops.where(is_tall, rows_first, columns_first)


def _side(line: Any, size: int, ops: Any, dtype: str) -> tuple[Any, Any]:
    """Return the length of a line of pixels, and the weight of each pixel in each of `size`.

    Returns
    -------
    length : tensor of shape ()
    weights : tensor of shape (size, length)
        Triangles around the centres of the new pixels.
    """
    ones = ops.ones_like(line)
    length = ops.sum(ones)
    scale = length / size
    centres = scale * (np.arange(size)[:, None] + 0.5).astype(dtype)
    distances = ops.abs(ops.cumsum(ones) - 0.5 - centres)
    triangles = ops.maximum(1 - distances / ops.maximum(scale, 1.0), 0.0)
    shares = triangles / ops.sum(triangles, axis=1, keepdims=True)
    return length, _rounded(shares * FIXED_POINT, ops) / FIXED_POINT


def _rounded(values: Any, ops: Any) -> Any:
    return ops.floor(values + 0.5)
