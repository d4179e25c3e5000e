"""How fast photos get to the network, and from it into shards: ``-m benchmarks.pipeline [DATA]``.

An engine that costs nothing takes VGG16's place. What all cores decode in processes of their own,
doing nothing else, counts as 100%. Measured against it are threads that decode, by their number,
and the whole pipeline from files into shards. All take turns, in several rounds.

How many cores threads could keep busy follows from the time for which a photo holds Python's lock,
the GIL. Without DATA, JPEGs of 500 x 375 pixels are made.
"""

import argparse
import hashlib
import io
import itertools
import json
import multiprocessing
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extract.compute import pipeline, reading
from extract.engines.base import Engine, Taps
from extract.photos import datasets, decode, scan
from extract.store import shards
from extract.system import console, machine, threads
from extract.vgg16.recipe import SIZE, TAPS, recipe

MADE = 256
"""Different pictures that are made if no data set is given. Each file has a number of its own."""

Figures = dict[str, list[float]]


def main() -> None:
    """Measure, print the figures, and write them as JSON if ``--json`` is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("data", nargs="?", help="a data set with photos")
    parser.add_argument("--photos", type=int, default=2000, help="number of photos of a run")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured")
    parser.add_argument(
        "--engine-ms",
        type=float,
        default=0.0,
        help="let the engine also wait so long for each batch, as it would for a GPU",
    )
    parser.add_argument("--batch", type=int, default=64, help="photos that the engine wants")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        root, paths = _photos(options.data, Path(temporary), options.photos)
        waits = sorted({0.0, options.engine_ms})
        measured = measure(root, paths, Path(temporary), waits, options.batch, options.rounds)
    figures = {
        "data": options.data or "JPEGs made here, 500 x 375",
        "machine": machine.processor(),
        "python": platform.python_version(),
        "cores": machine.cores(),
        "photos": len(paths),
        "batch": options.batch,
        **measured,
    }
    _print(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(
    root: Path, paths: list[str], folder: Path, waits: Sequence[float], batch: int, rounds: int
) -> dict[str, Any]:
    """Measure everything in turn, several times.

    Parameters
    ----------
    root : Path
    paths : list of str
    folder : Path
        An empty folder for shards.
    waits : sequence of float
        The milliseconds that the engine takes for a batch; each is measured.
    batch : int
        The photos that the engine wants at once.
    rounds : int
    """
    cores = machine.cores()
    speeds: Figures = {}
    cpu_ms: Figures = {}
    held_ms: list[float] = []
    limits: dict[str, str] = {}
    peaks: list[float] = []
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        pool.map(_decode, [(root, paths[:2])] * cores, chunksize=1)
        for number in range(rounds):
            runs: dict[str, Callable[[], object]] = {
                f"decoding alone, processes: {cores}": partial(_processes, pool, root, paths),
                **{
                    f"decoding alone, threads: {n}": partial(_threads, n, root, paths)
                    for n in _numbers(cores)
                },
            }
            for wait in waits:
                name = f"files into shards, engine {wait:g} ms a batch"
                out = folder / f"{number} {wait}"
                runs[name] = partial(_pipeline, root, paths, out, wait / 1000, batch)
            for name, run in runs.items():
                began, cpu = time.perf_counter(), time.process_time()
                result = run()
                seconds = time.perf_counter() - began
                speeds.setdefault(name, []).append(len(paths) / seconds)
                used = time.process_time() - cpu
                cpu_ms.setdefault(name, []).append(1000 * used / len(paths))
                if isinstance(result, pipeline.Computed):
                    limits[name] = result.limit()
                    peaks.append(_peak_mb())
            held_ms.append(gil_ms(root, paths[:: max(1, len(paths) // 300)]))
    return {
        "photos_a_second": speeds,
        "cpu_ms_a_photo": cpu_ms,
        "gil_ms_a_photo": held_ms,
        "limit": limits,
        "peak_mb": max(peaks),
    }


def gil_ms(root: Path, paths: Sequence[str]) -> float:
    """Return for how many milliseconds a photo holds the GIL, as the median.

    That is the processor time of reading a JPEG, less that of its decoding, resizing and SHA-256,
    which release the lock. They are computed once more, so a part of a difference may be chance.
    """
    held = []
    for path in paths:
        began = time.thread_time()
        reading.read(root, path)
        whole = time.thread_time() - began
        data = (root / path).read_bytes()
        image = Image.open(io.BytesIO(data))
        image.draft(None, (decode.DRAFT * SIZE, decode.DRAFT * SIZE))
        began = time.thread_time()
        hashlib.sha256(data)
        image.load()
        image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        held.append(whole - (time.thread_time() - began))
    return 1000 * statistics.median(held)


def _decode(given: tuple[Path, Iterable[str]]) -> int:
    root, paths = given
    return sum(reading.read(root, path).photo is not None for path in paths)


def _processes(pool: Any, root: Path, paths: list[str]) -> None:
    parts = [(root, paths[start : start + 25]) for start in range(0, len(paths), 25)]
    for _ in pool.imap_unordered(_decode, parts):
        pass


def _threads(n: int, root: Path, paths: list[str]) -> None:
    for _ in threads.ahead(partial(reading.read, root), paths, workers=n, limit=64 + 2 * n):
        pass


def _numbers(cores: int) -> list[int]:
    """Return the numbers of threads: powers of 2 up to the cores, and twice the cores."""
    powers = itertools.takewhile(lambda n: n < cores, (2**i for i in itertools.count()))
    return [*powers, cores, 2 * cores]


def _pipeline(
    root: Path, paths: list[str], folder: Path, wait: float, batch: int
) -> pipeline.Computed:
    random = np.random.default_rng(0)
    taps = {tap: random.random((batch, width), np.float32) for tap, width in TAPS.items()}

    def forward(photos: NDArray[np.uint8]) -> Taps:
        time.sleep(wait)
        return {tap: values[: len(photos)] for tap, values in taps.items()}

    engine = Engine("none", forward, batch)
    folder.mkdir()
    # The highest memory is counted from here.
    Path("/proc/self/clear_refs").write_text("5")
    with shards.Writer(folder, recipe("0" * 64)) as writer:
        return pipeline.compute(
            root,
            paths,
            build_engine=lambda photos: engine,
            writer=writer,
            advance=lambda n: None,
        )


def _peak_mb() -> float:
    (peak,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(peak) / 1024


def _photos(data: str | None, temporary: Path, n: int) -> tuple[Path, list[str]]:
    """Return photos of a data set, at most n, or n that are made."""
    if data:
        found = scan.labelled_photos(datasets.locate(data), exclude=(datasets.BACKGROUND,))
        paths = [photo.path for photo in found.photos]
        return Path(str(found.root)), [
            paths[i] for i in np.linspace(0, len(paths) - 1, min(n, len(paths))).astype(int)
        ]
    root = temporary / "photos"
    root.mkdir()
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(MADE):
        coarse = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        noise = random.normal(0, 6, (375, 500, 3))
        pixels = (np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=85)
        pictures.append(file.getvalue())
    return root, write_numbered(root, pictures, n)


def write_numbered(root: Path, pictures: Sequence[bytes], n: int) -> list[str]:
    """Write n JPEGs and return their names; a comment in each makes its digest its own."""
    names = [f"{number:06d}.jpg" for number in range(n)]
    for number, name in enumerate(names):
        start, rest = pictures[number % len(pictures)][:2], pictures[number % len(pictures)][2:]
        (root / name).write_bytes(start + b"\xff\xfe\x00\x0a%08d" % number + rest)
    return names


def _print(figures: dict[str, Any]) -> None:
    medians = {name: statistics.median(v) for name, v in figures["photos_a_second"].items()}
    cpu = {name: statistics.median(v) for name, v in figures["cpu_ms_a_photo"].items()}
    cores: int = figures["cores"]
    whole = medians[f"decoding alone, processes: {cores}"]
    console.say(
        f"{figures['data']}, {figures['machine']}, {figures['photos']:,} photos, batches of "
        f"{figures['batch']}"
    )
    print(f"{'':42}photos/s     %  CPU ms a photo")
    for name, median in medians.items():
        used = f"{cpu[name]:16.2f}" if "processes" not in name else ""
        limit = f"  {figures['limit'][name]} was the limit" if name in figures["limit"] else ""
        print(f"{name:42}{median:8.0f}{median / whole:6.0%}{used}{limit}")
    held = statistics.median(figures["gil_ms_a_photo"])
    decoding = 1000 * cores / whole
    print(
        f"A photo takes {decoding:.2f} ms of a core and holds the GIL for about {held:.2f} ms "
        f"({held / decoding:.1%}), which bounds threads to {1000 / held:,.0f} photos/s.\n"
        f"The process took at most {figures['peak_mb']:.0f} MB."
    )


if __name__ == "__main__":
    console.run(main)
