"""VGG16 by ONNX Runtime: the reference where Keras is not installed."""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from extract.engines.base import Engine, Taps
from extract.vgg16 import onnx_graph
from extract.vgg16.recipe import ALL_TAPS, SIZE, TAPS
from extract.vgg16.weights import Weights


def build(weights: Weights, *, outputs: Sequence[str] = tuple(TAPS), size: int = SIZE) -> Engine:
    """Build the engine that computes some taps for photos of a size, in float32.

    It has direct convolutions, as Keras has, so it can judge those of Winograd.

    Parameters
    ----------
    weights : Weights
    outputs : sequence of str
        Keys of `extract.vgg16.recipe.ALL_TAPS`.
    size : int
        One of `extract.vgg16.recipe.SIZES`.
    """
    # Importing it takes a while, and most runs do without it.
    import onnxruntime

    taps = [tap for tap in ALL_TAPS if tap in outputs]
    model = onnx_graph.vgg16(weights.arrays, size=size, taps=taps)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def forward(photos: NDArray[np.uint8]) -> Taps:
        return dict(zip(taps, session.run(taps, {"rgb": photos}), strict=True))

    return Engine(f"onnxruntime {version('onnxruntime')}", forward)
