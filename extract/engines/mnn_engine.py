"""VGG16 by MNN: Winograd convolutions on the CPU, converted once from an ONNX graph."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from extract.engines.base import Engine, Taps, Unusable
from extract.system import atomic, console
from extract.system.machine import cores
from extract.vgg16 import onnx_graph, pairs
from extract.vgg16.recipe import PAIRS, SIZE, TAPS
from extract.vgg16.weights import Weights

# MNN's command line would install packages and report usage over the network. This calls the
# function behind it instead.
CONVERT = "import sys, _tools; _tools.mnnconvert(sys.argv)"
CONVERT_SECONDS = 300

PRODUCTS = {tap: onnx_graph.products_of(tap) for tap in PAIRS}
"""What is read of the network for each tap of pairs. NumPy puts the products into bins. MNN took
8 ms a photo for that, because it looks each product up by itself."""


def build(
    weights: Weights, folder: Path, *, outputs: Sequence[str] = tuple(TAPS), size: int = SIZE
) -> Engine:
    """Build the engine that computes some outputs for photos of a size.

    Parameters
    ----------
    weights : Weights
    folder : Path
        Folder of the recipe. It keeps the converted network, so the conversion runs only once.
    outputs : sequence of str
        As in `extract.engines.keras_engine.build`.
    size : int
        One of `extract.vgg16.recipe.SIZES`.

    Raises
    ------
    Unusable
        If the network cannot be converted or loaded.
    """
    taps = [*TAPS, *(PAIRS if PAIRS.keys() & outputs else ())]
    kind = "-pairs" if len(taps) > len(TAPS) else ""
    path = folder / f"vgg16-mnn-{version('MNN')}{kind}.mnn"
    if not path.exists():
        atomic.write_bytes(path, _convert(onnx_graph.vgg16(weights.arrays, size=size, taps=taps)))
    try:
        with console.silence():
            from MNN import expr

            network = _load(path, [PRODUCTS.get(name, name) for name in outputs])
    # A library built for another system can fail on import with any exception.
    except Exception as error:
        path.unlink()
        raise Unusable(f"MNN cannot be used: {error}") from error

    def forward(photos: NDArray[np.uint8]) -> Taps:
        # Here NCHW means "leave the order as it is"; the graph itself transposes.
        rgb = expr.placeholder(list(photos.shape), expr.NCHW, expr.uint8)
        rgb.write(np.ascontiguousarray(photos))
        found = zip(outputs, network.forward([rgb]), strict=True)
        return {name: _read(name, expr, values) for name, values in found}

    return Engine(f"MNN {version('MNN')}", forward)


def _read(name: str, expr: Any, values: Any) -> NDArray[np.float32]:
    """Return an output as engines give it, with the channels last."""
    # A map lies in memory in blocks of channels.
    ordered = np.array(expr.convert(values, expr.NCHW).read(), dtype=np.float32)
    if name in PRODUCTS:
        tap: NDArray[np.float32] = pairs.in_bins(ordered.reshape(len(ordered), -1))
        return tap
    return ordered.transpose(0, 2, 3, 1) if ordered.ndim == 4 else ordered


def _load(path: Path, outputs: Sequence[str]) -> Any:
    import MNN

    settings = {"backend": "CPU", "precision": "high", "memory": "low", "numThread": cores()}
    runtime = MNN.nn.create_runtime_manager((settings,))
    return MNN.nn.load_module_from_file(str(path), ["rgb"], list(outputs), runtime_manager=runtime)


def _convert(network: onnx.ModelProto) -> bytes:
    """Return a network in MNN's format."""
    with tempfile.TemporaryDirectory() as temporary:
        source, target = Path(temporary, "vgg16.onnx"), Path(temporary, "vgg16.mnn")
        source.write_bytes(network.SerializeToString())
        arguments = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(target)]
        try:
            done = subprocess.run(
                [sys.executable, "-c", CONVERT, *arguments, "--bizCode", "onepass"],
                # The converter writes a temporary file into the current folder.
                cwd=temporary,
                capture_output=True,
                timeout=CONVERT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unusable(f"MNN's converter took over {CONVERT_SECONDS} s") from error
        if done.returncode or not target.exists():
            raise Unusable(f"MNN's converter failed with exit code {done.returncode}")
        return target.read_bytes()
