"""Measure a cluster's overhead, and a million photos: ``.venv/bin/python -m benchmarks.scale``.

``overhead DATA`` extracts a data set alternately without and with ``--on ray``, each time into an
empty folder, in a process of its own, on this machine.

``rows N ...`` puts N tiny photos through the real code on Ray, with a stand-in for VGG16 and narrow
taps. For each step it prints the seconds and this process's memory. It needs about 10 KB of disk
per photo.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.store import STAND_IN, alone, random_taps, write_photos
from extract import build, plan
from extract.compute import ray_cluster, ray_coordinator
from extract.compute.ray_worker import Worker
from extract.engines.base import Engine
from extract.photos import duplicates, hashes, scan
from extract.store import features_writer, shard_index, shards
from extract.vgg16.recipe import TAPS

ROWS = (10_000, 100_000)
NARROW = {tap: 512 if tap == "block5_avg" else 8 for tap in TAPS}


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    overhead = commands.add_parser("overhead")
    overhead.add_argument("data", help="a data set whose features are below the checkout")
    overhead.add_argument("--runs", type=int, default=3)
    overhead.add_argument("--engine", default="auto")
    rows = commands.add_parser("rows")
    rows.add_argument("rows", type=int, nargs="*", default=ROWS)
    options = parser.parse_args()
    # Start a cluster of its own, even if this machine belongs to one.
    os.environ["RAY_ADDRESS"] = "local"
    if options.command == "overhead":
        _overhead(options.data, options.runs, options.engine)
    else:
        for n in options.rows:
            _rows(n)


def _overhead(data: str, runs: int, engine: str) -> None:
    seconds: dict[str, list[float]] = {"here": [], "on ray": []}
    for run in range(runs):
        for name in ("here", "on ray") if run % 2 == 0 else ("on ray", "here"):
            with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
                _copy_weights_and_engines(Path(temporary))
                started = time.perf_counter()
                output = subprocess.run(
                    [sys.executable, "-m", "extract", data, "--out", temporary, "--engine", engine]
                    + (["--on", "ray"] if name == "on ray" else []),
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
                seconds[name].append(time.perf_counter() - started)
                print(f"{name}: {seconds[name][-1]:.1f} s; {_line(output, 'computed')}", flush=True)
    local, on_ray = (statistics.median(values) for values in seconds.values())
    print(f"median: here {local:.1f} s, on ray {on_ray:.1f} s, {on_ray / local - 1:+.1%}")


def _copy_weights_and_engines(out: Path) -> None:
    """Give a store the weights and the engines of the checkout's store, but no shards."""
    cache = shards.cache_of(Path())
    for path in cache.rglob("*"):
        if path.suffix in (".json", ".mnn", ".param", ".bin") or path.name == "vgg16.h5":
            target = out / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def _line(output: str, word: str) -> str:
    return next(line for line in output.splitlines() if word in line)


class StandIn(Worker):
    """A worker that does everything except run the network."""

    def _engine(self, photos: NDArray[np.uint8]) -> Engine:
        TAPS.update(NARROW)
        # Each piece has another seed, or its photos would be near-duplicates of all others.
        random = np.random.default_rng()
        return Engine("stand-in", lambda photos: random_taps(len(photos), random))


def _rows(n: int) -> None:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        folder = Path(temporary)
        write_photos(folder / "photos", n)
        print(
            f"{n:,} photos of 16 x 16 pixels, stand-in network, {sum(NARROW.values())} values each"
        )
        for name in ("first run", "unchanged run", "published anew"):
            if name == "published anew":
                (folder / "features/photos.h5").unlink()
            seconds, peak = alone(_make, folder)
            print(f"  {name}: {seconds:.1f} s, peak {peak} MB")
        shards_there = list((folder / "features/cache").glob("*/*.h5"))
        size = (folder / "features/photos.h5").stat().st_size / n
        print(f"  {len(shards_there):,} shards; published {size:,.0f} bytes a photo", flush=True)


def _make(folder: Path) -> None:
    """Run the real code, and print what each step takes."""
    TAPS.update(NARROW)
    build.weights.load = lambda source, *, cache: STAND_IN  # type: ignore[attr-defined]
    build.say = build.warn = ray_coordinator.say = lambda message: None  # type: ignore[assignment]
    # Other processes know this module by its name, not as the one that was started.
    ray_coordinator.Worker = import_module("benchmarks.scale").StandIn
    ray_cluster.PACKAGES += ("benchmarks",)
    for module, name in (
        (scan, "labelled_photos"),
        (hashes.Files, "__init__"),
        (hashes.Files, "read"),
        (shard_index, "read"),
        (ray_coordinator, "compute"),
        (plan, "plan_rows"),
        (features_writer.Draft, "write_taps"),
        (duplicates, "near"),
    ):
        setattr(module, name, _timed(module.__name__, getattr(module, name)))
    build.build(str(folder / "photos"), build.Options(out=folder, on="ray"))


def _timed(owner: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function print how long it took and the memory of the process after it."""

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        value = function(*arguments, **options)
        seconds = time.perf_counter() - started
        resident = int(re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[0])
        print(
            f"    {owner}.{function.__name__}: {seconds:.1f} s, {resident // 1024} MB", flush=True
        )
        return value

    return timed


if __name__ == "__main__":
    main()
