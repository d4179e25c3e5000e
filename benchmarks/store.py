"""Measure the feature store: ``.venv/bin/python -m benchmarks.store``.

Random taps replace VGG16; all other code is the real one. Each figure is measured in a process of
its own. The benchmark needs about 5 GB in the folder for temporary files.
"""

import argparse
import io
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from extract import build
from extract.engines import selection
from extract.engines.base import Engine
from extract.store import features_file, features_writer, shard_index, shards
from extract.store.features_file import Row
from extract.store.shards import Shard
from extract.vgg16 import weights
from extract.vgg16.recipe import SIZE, TAPS, recipe, recipe_digest
from extract.vgg16.weights import Weights

PHOTOS = 10_000
CLASSES = 10
ROWS = (1_000, 100_000)
STAND_IN = Weights([], "0" * 64, "stand-in")


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=__doc__)
    parser.add_argument("--photos", type=int, default=PHOTOS, help="photos of the unchanged run")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=ROWS, help="rows for the memory figures"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        folder = Path(temporary)
        write_photos(folder / "photos", options.photos)
        print(f"{options.photos:,} photos of 16 x 16 pixels, stand-in network")
        for name in ("first run", "unchanged run", "unchanged run, again"):
            seconds, _ = alone(_make, folder)
            print(f"  {name}: {seconds:.2f} s")
        (folder / "photos/class 0/new.png").write_bytes(_png(-1))
        seconds, _ = alone(_make, folder)
        print(f"  one photo more: {seconds:.2f} s")
    for rows in options.rows:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
            folder = Path(temporary)
            print(f"{rows:,} rows of random taps")
            for name, step in STEPS.items():
                seconds, peak = alone(step, folder, rows)
                print(f"  {name}: {seconds:.1f} s, {rows / seconds:,.0f} rows/s, peak {peak} MB")
            size, taps = (folder / "random.h5").stat().st_size / rows, 4 * sum(TAPS.values())
            print(f"  published: {size:,.0f} bytes a photo, of which taps {taps:,}")


def alone(function: Callable[..., None], *arguments: object) -> tuple[float, int]:
    """Run a function in a new process; return its seconds after start-up and peak memory in MB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (function, arguments))


def _measured(function: Callable[..., None], arguments: tuple[object, ...]) -> tuple[float, int]:
    started = time.perf_counter()
    function(*arguments)
    seconds = time.perf_counter() - started
    # ru_maxrss would start at the peak of the parent process.
    (peak,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return seconds, int(peak) // 1024


def _png(seed: int) -> bytes:
    random = np.random.default_rng(seed + 1)
    pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = io.BytesIO()
    Image.fromarray(pixels).save(image, "PNG")
    return image.getvalue()


def write_photos(root: Path, photos: int) -> None:
    """Write tiny photos of noise, no two alike."""
    for label in range(CLASSES):
        (root / f"class {label}").mkdir(parents=True)
    for number in range(photos):
        (root / f"class {number % CLASSES}/{number:06d}.png").write_bytes(_png(number))
    # The index does not remember a file until its time stamp is a few seconds old.
    time.sleep(3)


def random_taps(n: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return random taps for n photos."""
    return {tap: random.gamma(0.5, 1.0, (n, width)).astype("f4") for tap, width in TAPS.items()}


def _make(folder: Path) -> None:
    random = np.random.default_rng(0)
    stand_in = Engine("stand-in", lambda photos: random_taps(len(photos), random))
    weights.load = lambda source, *, cache: STAND_IN  # type: ignore[assignment]
    selection.choose = lambda *wanted, folder, outputs: stand_in
    build.say = build.warn = lambda message: None  # type: ignore[assignment]
    build.build(str(folder / "photos"), build.Options(out=folder))


def _rows(n: int) -> list[Row]:
    splits = ("train", "train", "train", "val", "test")
    return [Row(f"{i:07d}.jpg", f"{i:064x}", i % CLASSES, splits[i % 5]) for i in range(n)]


def _write_shards(folder: Path, n: int) -> None:
    random = np.random.default_rng(0)
    digests = [row.digest for row in _rows(n)]
    for start in range(0, n, shards.SHARD_IMAGES):
        batch = digests[start : start + shards.SHARD_IMAGES]
        shard = Shard(batch, random_taps(len(batch), random), "stand-in", 1.0)
        shards.write(folder / "cache", shard, recipe("0" * 64))


def _publish(folder: Path, n: int) -> None:
    features_writer.publish(
        folder / "random.h5",
        _rows(n),
        {SIZE: shard_index.read(folder / "cache", recipe("0" * 64))},
        class_names=[f"class {label}" for label in range(CLASSES)],
        skipped=[],
        attributes={
            "data": "random",
            "data_digest": "",
            "recipe": json.dumps(recipe("0" * 64)),
            "recipe_digest": recipe_digest(recipe("0" * 64)),
        },
    )


def _read(folder: Path, n: int) -> None:
    with features_file.open(folder / "random.h5") as opened:
        done = sum(len(rows) for rows, _ in opened.batches(TAPS, *features_file.SPLITS))
        assert done == n


def _verify(folder: Path, n: int) -> None:
    done = sum(len(shards.read(path).digests) for path in shards.files(folder / "cache"))
    assert done == n


STEPS = {
    "write shards": _write_shards,
    "publish": _publish,
    "read in batches": _read,
    "verify shards": _verify,
}

if __name__ == "__main__":
    main()
