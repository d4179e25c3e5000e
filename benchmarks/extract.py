"""How fast photos become features: ``make bench DATA=cats_vs_dogs``.

This measures VGG16's forward pass in each engine and in the libraries that a user might choose
instead, and a whole ``make features`` into an empty store. It measures them one after the other, in
several rounds. ONNX Runtime, OpenVINO and PyTorch are measured if they are installed.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.compute import reading
from extract.compute.reading import BATCH_SIZE
from extract.engines import keras_engine, selection
from extract.engines.base import Taps
from extract.photos import datasets, scan
from extract.store import shards
from extract.system import console, machine
from extract.vgg16 import keras_model, onnx_graph, weights
from extract.vgg16.architecture import (
    CONVOLUTIONS,
    FILTERS_FIRST,
    IMAGENET_MEANS_BGR,
    LAYERS,
    TAP_LAYERS,
    MaxPool,
    Tap,
    output_shapes,
    windows,
)
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import SIZE, TAPS
from extract.vgg16.weights import Weights

WHOLE_RUN = "make features, end to end"
MATRIX = 4096
"""Side of the matrices whose product is timed."""

TAP = "block5_avg"
"""The tap whose values are compared."""

Forward = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""A function from photos to the values of `TAP`, (n, 512)."""


def main() -> None:
    """Measure, print the figures, and write them as JSON if ``--json`` is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extract", description=__doc__)
    parser.add_argument("data", help="a data set with photos")
    parser.add_argument("--photos", type=int, default=512, help="number of photos of a whole run")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    found = scan.labelled_photos(datasets.locate(options.data), exclude=(datasets.BACKGROUND,))
    root, paths = found.root, [photo.path for photo in found.photos]
    sample = [paths[i] for i in np.linspace(0, len(paths) - 1, options.photos).astype(int)]
    read = [item.photo for item in reading.read_ahead(root, sample[: 2 * BATCH_SIZE])]
    photos = np.stack([photo for photo in read if photo is not None][:BATCH_SIZE])
    figures = {
        "data": options.data,
        "machine": machine.processor(),
        "python": platform.python_version(),
        "batch": len(photos),
        "photos": len(sample),
        "gflop_a_photo": gflop_a_photo(),
        **measure(root, sample, photos, rounds=options.rounds),
    }
    _print(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(
    root: Path, paths: list[str], photos: NDArray[np.uint8], *, rounds: int
) -> dict[str, Any]:
    """Measure everything in turn, several times.

    Parameters
    ----------
    root : Path
    paths : list of str
        The photos of a whole run.
    photos : ndarray of shape (n, 224, 224, 3), uint8
        The batch of a forward pass.
    rounds : int
    """
    vgg16 = weights.load(None, cache=shards.cache_of(Path()))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        folder = Path(temporary)
        out = _empty_store(root, paths, folder)
        forwards = competitors(vgg16) | engines(vgg16, folder)
        reference = forwards["engine keras"](photos)
        differences = {
            name: float(np.linalg.norm(forward(photos) - reference) / np.linalg.norm(reference))
            for name, forward in forwards.items()
        }
        speeds: dict[str, list[float]] = {name: [] for name in [*forwards, WHOLE_RUN]}
        products = []
        for _ in range(rounds):
            for name, forward in forwards.items():
                speeds[name].append(len(photos) / _seconds(partial(forward, photos)))
            speeds[WHOLE_RUN].append(_whole_run(folder / "photos", out, len(paths)))
            products.append(2 * MATRIX**3 / 1e9 / _matrix_product())
    return {
        "sgemm_gflops": statistics.median(products),
        "photos_a_second": speeds,
        "difference": differences,
    }


def gflop_a_photo() -> float:
    """Count the operations of VGG16 in 10^9: multiplications and additions, without Winograd."""
    shapes = output_shapes(SIZE)
    operations = 0
    for layer in CONVOLUTIONS.values():
        height, width, _ = shapes[layer.name]
        operations += 2 * 9 * layer.inputs * layer.filters * height * width
    return operations / 1e9


def engines(vgg16: Weights, folder: Path) -> dict[str, Forward]:
    """Return the forward pass of each engine that is installed."""
    installed = [name for name, package in selection.PACKAGES.items() if find_spec(package)]
    built = {"keras": keras_engine.build(vgg16)}
    built |= {name: selection.build(name, vgg16, folder) for name in installed}
    return {f"engine {name}": partial(_one_tap, engine.forward) for name, engine in built.items()}


def _one_tap(forward: Callable[[NDArray[np.uint8]], Taps], photos: NDArray[np.uint8]) -> Any:
    return forward(photos)[TAP]


def competitors(vgg16: Weights) -> dict[str, Forward]:
    """Return the forward pass, with the same taps, of the other libraries that are installed."""
    network = keras_model.convolutions(vgg16.arrays)
    network = keras.Model(network.input, keras_model.taps(network))
    runs: dict[str, Forward] = {
        "keras.Model.predict": lambda photos: network.predict(photos, verbose=0)[TAP]
    }
    model, tap = onnx_graph.vgg16(vgg16.arrays).SerializeToString(), list(TAPS).index(TAP)
    if find_spec("onnxruntime"):
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime

        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        runs["ONNX Runtime"] = lambda photos: session.run(None, {"rgb": photos})[tap]
    if find_spec("openvino"):
        import openvino

        core = openvino.Core()
        # By default OpenVINO computes in bfloat16 if the processor can.
        exactly = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(core.read_model(model), "CPU", exactly)
        runs["OpenVINO"] = lambda photos: compiled([photos])[tap]
    if find_spec("torch"):
        runs["PyTorch, channels last"] = _torch(vgg16)
    return runs


def _torch(vgg16: Weights) -> Forward:
    import torch
    from torch.nn import functional

    kernels = [
        torch.from_numpy(kernel.transpose(FILTERS_FIRST).copy()).to(
            memory_format=torch.channels_last
        )
        for kernel in vgg16.arrays[::2]
    ]
    biases = [torch.from_numpy(bias) for bias in vgg16.arrays[1::2]]
    means = torch.tensor(IMAGENET_MEANS_BGR)

    @torch.inference_mode()
    def forward(photos: NDArray[np.uint8]) -> NDArray[np.float32]:
        bgr = torch.from_numpy(photos).flip(3).float() - means
        x, parameters, taps = bgr.permute(0, 3, 1, 2), iter(zip(kernels, biases, strict=True)), {}
        for layer in LAYERS:
            if isinstance(layer, MaxPool):
                x = functional.max_pool2d(x, 2)
            else:
                x = functional.relu_(functional.conv2d(x, *next(parameters), padding=1))
            for tap in TAP_LAYERS:
                if tap.source == layer.name:
                    taps[tap.name] = _torch_tap(x, tap)
        return taps[TAP].numpy()

    return forward


def _torch_tap(x: Any, tap: Tap) -> Any:
    from torch.nn import functional

    if tap.pooling == "avg3x3":
        window, stride = windows(SIZE)
        return functional.avg_pool2d(x, window, stride=stride)
    return x.mean((2, 3)) if tap.pooling == "avg" else x.amax((2, 3))


def _empty_store(root: Path, paths: list[str], folder: Path) -> Path:
    """Copy the photos, do the work that each machine does only once, and return the store."""
    for number, path in enumerate(paths):
        target = folder / "photos" / f"class {number % 2}"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, target / f"{number:06d}{Path(path).suffix}")
    out = folder / "out"
    shards.cache_of(out).mkdir(parents=True)
    shutil.copy(shards.cache_of(Path()) / "vgg16.h5", shards.cache_of(out))
    _command(folder / "photos", out)
    return out


def _whole_run(photos: Path, out: Path, n: int) -> float:
    """Return photos/s, from the seconds on an empty store minus those on a full one."""
    for path in out.glob("features/**/*.h5"):
        if path.name != "vgg16.h5":
            path.unlink()
    empty = _seconds(lambda: _command(photos, out))
    full = _seconds(lambda: _command(photos, out))
    return n / (empty - full)


def _command(photos: Path, out: Path) -> None:
    command = [sys.executable, "-m", "extract", str(photos), "--out", str(out), "--allow-conflicts"]
    subprocess.run(command, check=True, capture_output=True)


def _matrix_product() -> float:
    # On a processor with AVX-512, NumPy's own product was half as fast as this one.
    square = keras.ops.ones((MATRIX, MATRIX))
    return _seconds(lambda: np.asarray(keras.ops.matmul(square, square)))


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _print(figures: dict[str, Any]) -> None:
    speeds: dict[str, list[float]] = figures["photos_a_second"]
    differences: dict[str, float] = figures["difference"]
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    columns = [name for name in ("keras.Model.predict", "ONNX Runtime") if name in medians]
    gflop = gflop_a_photo()
    console.say(f"{figures['data']}, {figures['machine']}, batches of {figures['batch']}")
    headings = "".join(f"  against {name}" for name in columns)
    print(f"{'':25}  photos/s   min   max  GFLOP/s  difference{headings}")
    for name, median in sorted(medians.items(), key=lambda item: item[1]):
        ratios = "".join(f"{median / medians[c]:{len(c) + 10}.2f}" for c in columns)
        low, high = min(speeds[name]), max(speeds[name])
        difference = f"{differences[name]:.0e}" if name in differences else ""
        spread = f"{low:6.1f}{high:6.1f}"
        print(f"{name:25}{median:10.1f}{spread}{median * gflop:9.0f}{difference:>12}{ratios}")
    sgemm: float = figures["sgemm_gflops"]
    print(
        f"A matrix product of {MATRIX} x {MATRIX} runs at {sgemm:.0f} GFLOP/s, which bounds direct "
        f"convolution to {sgemm / gflop:.1f} photos/s."
    )


if __name__ == "__main__":
    console.run(main)
