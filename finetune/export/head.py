"""Parts of a head as tensor operations, written once for every exported format."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from classify.heads import block_norms, rooted

LEAST_NORM = 1e-12
"""No tap is divided by less than this, so a tap that is all 0 stays all 0."""


def head_input(taps: Mapping[str, Any], ops: Any, *, root: bool, by_block: bool = False) -> Any:
    """Scale every tap to its L2 norm and put the taps side by side.

    Parameters
    ----------
    taps : mapping of tap to tensor of shape (n, values)
    ops : module or OnnxOperations
        `keras.ops` for tensors of Keras, `OnnxOperations` for tensors of an ONNX graph.
    root : bool
        Whether the square root of every value is taken first, but not of pairs.
    by_block : bool
        Whether each tap gets the norm that `classify.heads.block_norms` gives it, and not 1.

    Returns
    -------
    tensor of shape (n, values of all taps)
    """
    norms = block_norms(taps)
    scaled = []
    for tap, tensor in taps.items():
        values = ops.sqrt(tensor) if rooted(tap, root) else tensor
        norm = ops.norm(values, axis=1, keepdims=True)
        unit = values / ops.maximum(norm, LEAST_NORM)
        scaled.append(unit * norms[tap] if by_block else unit)
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


def final_scores(scores: Any, ops: Any, *, floor: float, slope: float) -> Any:
    """Return what goes into the softmax, see `finetune.export.dense.DenseHead`.

    Parameters
    ----------
    scores : tensor of shape (n, classes)
        What the last layer gives.
    ops : module or OnnxOperations
        See `head_input`.
    floor, slope : float
    """
    if not np.isfinite(floor):
        return scores
    return ops.log(ops.maximum(scores, -1.0) * (1 / (1 + floor)) + 1.0) * slope
