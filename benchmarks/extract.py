"""How fast photos become features: ``.venv/bin/python -m benchmarks.extract chess``.

Measures, alternating in one run, VGG16's forward pass by each engine and by what a user would call
instead, and the whole of ``make features`` into an empty store. ONNX Runtime takes part where it is
installed.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extract import datasets, graph, images, keras_engine, mnn_engine, pipeline, shards, weights
from extract.weights import Weights

GFLOP_A_PHOTO = 30.7
BATCH = 32

Forward = Callable[[NDArray[np.uint8]], object]


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extract", description=__doc__)
    parser.add_argument("data", help="a data set with photos")
    parser.add_argument("--photos", type=int, default=256, help="of the whole run")
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    root = datasets.locate(options.data)
    every = [photo.path for photo in images.scan(root, exclude=(datasets.BACKGROUND,)).photos]
    some = [every[i] for i in np.linspace(0, len(every) - 1, options.photos).astype(int)]
    vgg16 = weights.load(None, cache=shards.cache_of(Path()))
    read = [item.photo for item in pipeline.read_ahead(root, some[: 2 * BATCH])]
    photos = np.stack([photo for photo in read if photo is not None][:BATCH])
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        folder = Path(temporary)
        runs = _forwards(vgg16, folder)
        for forward in runs.values():
            forward(photos)
        speeds: dict[str, list[float]] = {name: [] for name in [*runs, "make features"]}
        for _ in range(options.rounds):
            for name, forward in runs.items():
                started = time.perf_counter()
                forward(photos)
                speeds[name].append(len(photos) / (time.perf_counter() - started))
            speeds["make features"].append(_whole(root, some, vgg16, folder))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    slowest = min(medians.values())
    print(f"{options.data}: batches of {len(photos)}, whole runs of {len(some)} photos")
    for name, median in sorted(medians.items(), key=lambda item: item[1]):
        spread = f"{min(speeds[name]):.1f} to {max(speeds[name]):.1f}"
        print(
            f"  {name}: {median:.1f} photos/s ({spread}), {median * GFLOP_A_PHOTO:.0f} GFLOP/s, "
            f"{median / slowest:.2f} times the slowest"
        )
    if options.json:
        options.json.write_text(json.dumps(speeds, indent=1) + "\n")


def _forwards(vgg16: Weights, folder: Path) -> dict[str, Forward]:
    """Return every way of running the network that is installed here."""
    from extract.backend import keras
    from extract.vgg16 import convolutions, taps

    network = convolutions(vgg16.arrays)
    network = keras.Model(network.input, taps(network))
    runs: dict[str, Forward] = {
        "keras.Model.predict": lambda photos: network.predict(photos, verbose=0),
        "engine keras": keras_engine.build(vgg16).forward,
    }
    if find_spec("MNN"):
        runs["engine mnn"] = mnn_engine.build(vgg16, folder).forward
    if find_spec("onnxruntime"):
        import onnxruntime

        model = graph.vgg16(vgg16.arrays).SerializeToString()
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        runs["ONNX Runtime"] = lambda photos: session.run(None, {"rgb": photos})
    return runs


def _whole(root: Path, paths: list[str], vgg16: Weights, folder: Path) -> float:
    """Run the command on these photos into an empty store; return photos/s without start-up.

    What is done once on a machine, converting and comparing the engine, is done before.
    """
    photos, out = folder / "photos", folder / "out"
    if not photos.exists():
        for number, path in enumerate(paths):
            place = photos / f"class {number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / path, place / f"{number:06d}{Path(path).suffix}")
        cache = shards.cache_of(out)
        cache.mkdir(parents=True)
        shutil.copy(shards.cache_of(Path()) / "vgg16.h5", cache)
        _command(photos, out)
    for path in out.glob("features/**/*.h5"):
        if path.name != "vgg16.h5":
            path.unlink()
    started = time.perf_counter()
    _command(photos, out)
    working = time.perf_counter() - started
    started = time.perf_counter()
    _command(photos, out)
    return len(paths) / (working - (time.perf_counter() - started))


def _command(photos: Path, out: Path) -> None:
    command = [sys.executable, "-m", "extract", str(photos), "--out", str(out), "--allow-conflicts"]
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
