"""VGG16 by ncnn: Winograd convolutions on the CPU, with AVX-512 where the processor has it."""

import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extract.engines.base import Engine, Taps, Unusable
from extract.system.machine import cores
from extract.vgg16.architecture import IMAGENET_MEANS_BGR, LAYERS
from extract.vgg16.recipe import SIZE, TAPS, windows
from extract.vgg16.weights import Weights

MAGIC = 7767517
"""First line of a network in ncnn's text form."""

GLOBAL = {"avg": "0=1 4=1", "max": "0=0 4=1"}
"""Pooling of a whole map."""


def build(weights: Weights, folder: Path, *, size: int = SIZE) -> Engine:
    """Build the engine of the taps for photos of a size; ncnn has nothing for `folder` to keep.

    Raises
    ------
    Unusable
        If ncnn cannot be loaded.
    """
    return giving(TAPS, weights, size=size)


def giving(outputs: Iterable[str], weights: Weights, *, size: int = SIZE) -> Engine:
    """Build an engine that gives the named taps or maps, and computes no layer after them.

    A map, (n, height, width, channels), can be given only where no tap after it is.

    Raises
    ------
    Unusable
        If ncnn cannot be loaded.
    """
    try:
        import ncnn
    # A library built for another system fails on import in ways of its own.
    except Exception as error:
        raise Unusable(f"ncnn cannot be used: {error}") from error
    names = list(outputs)
    network = ncnn.Net()
    # A photo a core: the threads of one photo would wait for each other at every layer, and long
    # where another program has one of the cores.
    network.opt.num_threads = 1
    pool = ThreadPoolExecutor(cores())
    # All that would round to 16 bits.
    network.opt.use_fp16_packed = False
    network.opt.use_fp16_storage = False
    network.opt.use_fp16_arithmetic = False
    network.opt.use_bf16_storage = False
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(numbers(weights.arrays))
        file.flush()
        if network.load_param_mem(layers(size)) or network.load_model(file.name):
            raise Unusable("ncnn does not take the network")

    def see(photo: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        extractor = network.create_extractor()
        height, width = photo.shape[:2]
        rgb = ncnn.Mat.from_pixels(photo, ncnn.Mat.PixelType.PIXEL_RGB, width, height)
        extractor.input("rgb", rgb)
        return [_channels_last(np.array(extractor.extract(name)[1])) for name in names]

    def forward(photos: NDArray[np.uint8]) -> Taps:
        rows = list(pool.map(see, np.ascontiguousarray(photos)))
        columns = zip(*rows, strict=True)
        return {name: np.stack(values) for name, values in zip(names, columns, strict=True)}

    return Engine(f"ncnn {version('ncnn')}", forward)


def layers(size: int = SIZE) -> str:
    """Describe VGG16 with its preprocessing and taps: a line a layer, in ncnn's text form."""
    # Type, name, number of inputs and outputs, their names, parameters.
    lines = ["Input rgb 0 1 rgb", "Convolution bgr 1 1 rgb bgr 0=3 1=1 5=1 6=9"]
    x, block, channels = "bgr", "block1", 3
    for name, filters in LAYERS.items():
        if not name.startswith(block):
            lines += _end_of(block, x, size)
            x, block = f"{block}_pool", name.split("_")[0]
        kernel = f"0={filters} 1=3 4=1 5=1 6={9 * channels * filters} 9=1"
        lines.append(f"Convolution {name} 1 1 {x} {name} {kernel}")
        x, channels = name, filters
    lines += _end_of(block, x, size)
    blobs = sum(int(line.split()[3]) for line in lines)
    return "\n".join([str(MAGIC), f"{len(lines)} {blobs}", *lines, ""])


def numbers(arrays: Sequence[NDArray[np.float32]]) -> bytes:
    """Write the weights in the order of `layers`: of each convolution a flag, kernel and bias."""
    flip = np.eye(3, dtype=np.float32)[::-1].reshape(1, 1, 3, 3)
    arrays = [flip, -np.array(IMAGENET_MEANS_BGR, np.float32), *arrays]
    plain_float32 = bytes(4)
    parts = []
    for kernel, bias in zip(arrays[::2], arrays[1::2], strict=True):
        ordered = kernel.transpose(3, 2, 0, 1).astype("<f4")
        parts += [plain_float32, ordered.tobytes(), bias.astype("<f4").tobytes()]
    return b"".join(parts)


def _channels_last(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values.transpose(1, 2, 0) if values.ndim == 3 else values


def _end_of(block: str, x: str, size: int) -> list[str]:
    """Return what follows a block's last convolution `x`: its max-pool and its taps."""
    whole = [tap for tap in TAPS if tap in (f"{block}_avg", f"{block}_max")]
    # An output has one reader in ncnn; Split gives each its own.
    copies = [f"{x}_for_{reader}" for reader in [*whole, "pool"]]
    lines = [f"Split {x}_split 1 {len(copies)} {x} {' '.join(copies)}"]
    for tap, copy in zip(whole, copies, strict=False):
        lines.append(f"Pooling {tap} 1 1 {copy} {tap} {GLOBAL[tap.split('_')[1]]}")
    lines.append(f"Pooling {block}_pool 1 1 {copies[-1]} {block}_pool 0=0 1=2 2=2")
    tap = f"{block}_avg3x3"
    if tap in TAPS:
        # Flattened with the channels last, as Keras does.
        window, stride = windows(size)
        parts = f"0=1 1={window} 2={stride} 5=1"
        lines.append(f"Pooling {tap}_first 1 1 {block}_pool {tap}_first {parts}")
        lines.append(f"Permute {tap}_last 1 1 {tap}_first {tap}_last 0=3")
        lines.append(f"Flatten {tap} 1 1 {tap}_last {tap}")
    return lines
