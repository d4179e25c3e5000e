"""VGG16 by ncnn: Winograd convolutions on the CPU, with AVX-512 where the processor has it."""

import tempfile
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.engines.base import Engine, Taps, Unusable
from extract.system.machine import cores
from extract.vgg16 import ncnn_graph, pairs
from extract.vgg16.architecture import LAYERS
from extract.vgg16.recipe import ALL_TAPS, PAIRS, SIZE, TAPS
from extract.vgg16.weights import Weights


def build(weights: Weights, *, outputs: Collection[str] = tuple(TAPS), size: int = SIZE) -> Engine:
    """Build the engine that computes some outputs for photos of a size.

    Parameters
    ----------
    weights : Weights
    outputs : collection of str
        As in `extract.engines.keras_engine.build`.
    size : int

    Raises
    ------
    Unusable
        If ncnn cannot be loaded.
    """
    try:
        import ncnn
    # A library built for another system can fail on import with any exception.
    except Exception as error:
        raise Unusable(f"ncnn cannot be used: {error}") from error
    # ncnn drops what the next layer has read, so what the network ends with is extracted last.
    names = [name for name in (*(layer.name for layer in LAYERS), *ALL_TAPS) if name in outputs]
    network = _load(ncnn, weights, ncnn_graph.text(size, outputs))
    # Each core computes a photo of its own. If several threads shared a photo, they would wait for
    # each other at every layer, and wait long if another program occupied one of the cores.
    pool = ThreadPoolExecutor(cores())

    def forward_one(photo: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        extractor = network.create_extractor()
        height, width = photo.shape[:2]
        rgb = ncnn.Mat.from_pixels(photo, ncnn.Mat.PixelType.PIXEL_RGB, width, height)
        extractor.input("rgb", rgb)
        return [_read(name, np.array(extractor.extract(name)[1])) for name in names]

    def forward(photos: NDArray[np.uint8]) -> Taps:
        rows = list(pool.map(forward_one, np.ascontiguousarray(photos)))
        columns = zip(*rows, strict=True)
        return {name: np.stack(values) for name, values in zip(names, columns, strict=True)}

    return Engine(f"ncnn {version('ncnn')}", forward)


def _load(ncnn: Any, weights: Weights, text: str) -> Any:
    """Return the network, set to one thread and to float32 throughout."""
    network = ncnn.Net()
    network.opt.num_threads = 1
    network.opt.use_fp16_packed = False
    network.opt.use_fp16_storage = False
    network.opt.use_fp16_arithmetic = False
    network.opt.use_bf16_storage = False
    # Windows opens no file twice that is deleted when it is closed.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "vgg16.bin")
        file.write_bytes(ncnn_graph.weights(weights.arrays))
        if network.load_param_mem(text) or network.load_model(str(file)):
            raise Unusable("ncnn cannot be used: it rejects the network")
    return network


def _read(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an output of the network as engines give it, with the channels last."""
    if name in PAIRS:
        tap: NDArray[np.float32] = pairs.in_bins(values.reshape(1, -1))[0]
        return tap
    return values.transpose(1, 2, 0) if values.ndim == 3 else values
