"""VGG16 with its preprocessing and taps in ncnn's format: a text of layers, and their weights."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from extract.vgg16.architecture import (
    FILTERS_FIRST,
    TAP_LAYERS,
    Convolution,
    MaxPool,
    Tap,
    layers_for,
    preprocessing,
    windows,
)
from extract.vgg16.pairs import CHANNELS
from extract.vgg16.recipe import SIZE, TAPS

MAGIC = 7767517
"""First line of a network in ncnn's text form."""

PLAIN_FLOAT32 = bytes(4)
"""Flag before a kernel whose values are neither quantised nor rounded to 16 bits."""

POOLINGS = {"avg": "0=1 4=1", "max": "0=0 4=1"}
"""ncnn's parameters for pooling over all positions."""


def text(size: int = SIZE, outputs: Collection[str] = tuple(TAPS)) -> str:
    """Describe the network for photos of a size in ncnn's text form.

    Each line holds a layer: type, name, number of inputs, number of outputs, their names, and the
    parameters by number. The input is ``rgb``.

    Parameters
    ----------
    size : int
    outputs : collection of str
        Taps, and layers that no tap reads. The network ends at the deepest of them. For a
        tap of pairs it gives the averaged products, which `extract.vgg16.pairs.in_bins` puts into
        bins.
    """
    lines = ["Input rgb 0 1 rgb", "Convolution bgr 1 1 rgb bgr 0=3 1=1 5=1 6=9"]
    x = "bgr"
    for layer in layers_for(outputs):
        lines.append(_layer(layer, x))
        x = layer.name
        taps = [tap for tap in TAP_LAYERS if tap.source == layer.name and tap.name in outputs]
        if taps:
            # In ncnn one layer can read an output. Split gives each tap and the next layer a copy.
            copies = [f"{x}_for_{reader}" for reader in [*(tap.name for tap in taps), "next"]]
            lines.append(f"Split {x}_split 1 {len(copies)} {x} {' '.join(copies)}")
            for tap, copy in zip(taps, copies, strict=False):
                lines += _tap(tap, copy, size)
            x = copies[-1]
    blobs = sum(int(line.split()[3]) for line in lines)
    return "\n".join([str(MAGIC), f"{len(lines)} {blobs}", *lines, ""])


def weights(arrays: Sequence[NDArray[np.float32]]) -> bytes:
    """Write the weights in the order of `text`: a flag, kernel and bias of each convolution.

    Parameters
    ----------
    arrays : sequence of 26 ndarrays
        Kernels and biases as in `extract.vgg16.weights.Weights`.
    """
    arrays = [*preprocessing(), *arrays]
    parts = []
    for kernel, bias in zip(arrays[::2], arrays[1::2], strict=True):
        ordered = kernel.transpose(FILTERS_FIRST).astype("<f4")
        parts += [PLAIN_FLOAT32, ordered.tobytes(), bias.astype("<f4").tobytes()]
    return b"".join(parts)


def _layer(layer: Convolution | MaxPool, x: str) -> str:
    if isinstance(layer, MaxPool):
        return f"Pooling {layer.name} 1 1 {x} {layer.name} 0=0 1=2 2=2"
    values = 9 * layer.inputs * layer.filters
    parameters = f"0={layer.filters} 1=3 4=1 5=1 6={values} 9=1"
    return f"Convolution {layer.name} 1 1 {x} {layer.name} {parameters}"


def _tap(tap: Tap, x: str, size: int) -> list[str]:
    if tap.pooling == "pairs":
        rows, one, other = f"{tap.name}_rows", f"{tap.name}_one", f"{tap.name}_other"
        positions = tap.positions(size)
        return [
            f"Reshape {rows} 1 1 {x} {rows} 0={positions} 1={CHANNELS}",
            f"Split {rows}_split 1 2 {rows} {one} {other}",
            # The second factor is transposed, and the products are averaged.
            f"Gemm {tap.name} 2 1 {one} {other} {tap.name} 0={1 / positions} 3=1",
        ]
    if tap.pooling != "avg3x3":
        return [f"Pooling {tap.name} 1 1 {x} {tap.name} {POOLINGS[tap.pooling]}"]
    window, stride = windows(size)
    first, last = f"{tap.name}_first", f"{tap.name}_last"
    return [
        f"Pooling {first} 1 1 {x} {first} 0=1 1={window} 2={stride} 5=1",
        # The values of a tap are ordered with the channels last.
        f"Permute {last} 1 1 {first} {last} 0=3",
        f"Flatten {tap.name} 1 1 {last} {tap.name}",
    ]
