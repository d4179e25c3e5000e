"""Parts of a head as tensor operations, written once for every exported format."""

from collections.abc import Mapping
from typing import Any

from classify.heads import rooted

LEAST_NORM = 1e-12
"""No tap is divided by less than this, so a tap that is all 0 stays all 0."""


def head_input(taps: Mapping[str, Any], ops: Any, *, root: bool) -> Any:
    """Scale every tap to an L2 norm of 1 and put the taps side by side.

    Parameters
    ----------
    taps : mapping of tap to tensor of shape (n, values)
    ops : module or OnnxOperations
        `keras.ops` for tensors of Keras, `OnnxOperations` for tensors of an ONNX graph.
    root : bool
        Whether the square root of every value is taken first, but not of pairs.

    Returns
    -------
    tensor of shape (n, values of all taps)
    """
    scaled = []
    for tap, tensor in taps.items():
        values = ops.sqrt(tensor) if rooted(tap, root) else tensor
        norm = ops.norm(values, axis=1, keepdims=True)
        scaled.append(values / ops.maximum(norm, LEAST_NORM))
    return ops.concatenate(scaled, axis=1)


def activation(hidden: Any, x: Any, ops: Any, *, gamma: float) -> Any:
    """Apply what lies between the layers of a head, see `finetune.export.dense.DenseHead`.

    Parameters
    ----------
    hidden : tensor of shape (n, outputs)
        What a layer gives.
    x : tensor of shape (n, inputs)
        What the layer was given.
    ops : module or OnnxOperations
        See `head_input`.
    gamma : float
    """
    if not gamma:
        return ops.relu(hidden)
    return ops.exp(hidden - gamma * ops.sum(x * x, axis=1, keepdims=True))
