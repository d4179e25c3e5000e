"""VGG16 in PyTorch alone, for GPUs, where Keras's layers would spend half of the time on memory.

Keras adds the bias and applies the ReLU in steps of their own, each of which reads and writes the
whole map. Here the convolution does both, and all maps keep the layout that GPUs compute in.
"""

import threading
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from extract.vgg16 import pairs
from extract.vgg16.architecture import (
    FILTERS_FIRST,
    IMAGENET_MEANS_BGR,
    LAYERS,
    TAP_LAYERS,
    MaxPool,
    Tap,
    windows,
)


class Network:
    """VGG16 on PyTorch's GPU, or on the processor if there is none.

    Several threads may call it. On a GPU each of them has a stream of its own, so that one copies
    its photos while another computes.

    Parameters
    ----------
    arrays : sequence of 26 ndarrays
        As in `extract.vgg16.weights.Weights`.
    outputs : collection of str
        Taps, or layers whose whole maps are wanted.
    dtype : str
        Number format of the maps: ``float32``, ``float16`` or ``bfloat16``.
    """

    def __init__(
        self,
        arrays: Sequence[NDArray[np.float32]],
        outputs: Collection[str],
        *,
        dtype: str = "float32",
    ) -> None:
        self.outputs = outputs
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = getattr(torch, dtype)
        self.kernels = [
            self._on_device(kernel.transpose(FILTERS_FIRST)).contiguous(
                memory_format=torch.channels_last
            )
            for kernel in arrays[::2]
        ]
        self.biases = [self._on_device(bias) for bias in arrays[1::2]]
        self.pairs = tuple(torch.from_numpy(part).to(self.device) for part in pairs.table())
        self.means = torch.tensor(IMAGENET_MEANS_BGR, device=self.device)
        self.last = max(self._position(name) for name in outputs)
        self.own = threading.local()
        if self.device.type == "cuda":
            # Other streams do not wait until the weights are there.
            torch.cuda.synchronize()

    def __call__(self, photos: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs for photos, (n, size, size, 3) uint8 RGB, in float32."""
        with torch.inference_mode(), self._stream():
            given = torch.from_numpy(np.ascontiguousarray(photos))
            if self.device.type == "cuda":
                given = given.pin_memory().to(self.device, non_blocking=True)
            computed = _on_host(self._run(given))
            return {name: values.numpy() for name, values in computed.items()}

    def _run(self, photos: Any) -> dict[str, Any]:
        window, stride = windows(photos.shape[1])
        x = (photos.flip(3) - self.means).to(self.dtype).permute(0, 3, 1, 2)
        parameters = iter(zip(self.kernels, self.biases, strict=True))
        found = {}
        for layer in LAYERS[: self.last + 1]:
            if isinstance(layer, MaxPool):
                x = functional.max_pool2d(x, 2)
            else:
                x = _convolved(x, *next(parameters))
            if layer.name in self.outputs:
                found[layer.name] = x.permute(0, 2, 3, 1).float().contiguous()
            for tap in TAP_LAYERS:
                if tap.source == layer.name and tap.name in self.outputs:
                    if tap.pooling == "pairs":
                        found[tap.name] = _in_bins(x, *self.pairs)
                    else:
                        found[tap.name] = _pooled(x, tap, window, stride)
        return found

    def _on_device(self, array: NDArray[np.float32]) -> Any:
        return torch.from_numpy(array.copy()).to(self.device, self.dtype)

    def _position(self, output: str) -> int:
        """Return the number of the layer that an output needs."""
        sources = {tap.name: tap.source for tap in TAP_LAYERS}
        return [layer.name for layer in LAYERS].index(sources.get(output, output))

    def _stream(self) -> AbstractContextManager[Any]:
        if self.device.type != "cuda":
            return nullcontext()
        if not hasattr(self.own, "stream"):
            self.own.stream = torch.cuda.Stream()
        context: AbstractContextManager[Any] = torch.cuda.stream(self.own.stream)
        return context


def _convolved(x: Any, kernel: Any, bias: Any) -> Any:
    """Return a map convolved with zeros around it, plus the bias, after ReLU."""
    if x.is_cuda:
        return torch.cudnn_convolution_relu(x, kernel, bias, (1, 1), (1, 1), (1, 1), 1)
    return functional.relu_(functional.conv2d(x, kernel, bias, padding=1))


def _on_host(computed: dict[str, Any]) -> dict[str, Any]:
    """Copy outputs from the GPU. `Tensor.cpu` would keep a core busy until they are computed."""
    copies = {name: values.to("cpu", non_blocking=True) for name, values in computed.items()}
    if any(values.is_cuda for values in computed.values()):
        copied = torch.cuda.Event(blocking=True)
        copied.record()
        copied.synchronize()
    return copies


def _pooled(x: Any, tap: Tap, window: int, stride: int) -> Any:
    """Return a tap in float32, whatever the format of the map."""
    if tap.pooling == "avg":
        return x.mean((2, 3), dtype=torch.float32)
    if tap.pooling == "max":
        return x.amax((2, 3)).float()
    averages = functional.avg_pool2d(x.float(), window, stride=stride)
    return averages.permute(0, 2, 3, 1).flatten(1)


def _in_bins(x: Any, positions: Any, signs: Any) -> Any:
    """Return the tap of pairs of a map in float32, see `pairs.in_bins`.

    The products are summed in float32. Factors of 16 bits are exact in TensorFloat-32, too.
    """
    values = x.flatten(2).float()
    products = values @ values.transpose(1, 2) / values.shape[2]
    roots = products.flatten(1).index_select(1, positions).sqrt_()
    return (roots * signs).view(-1, pairs.DEPTH, pairs.BINS).sum(1)
