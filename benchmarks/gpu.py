"""How fast a GPU is used: ``KERAS_BACKEND=torch python -m benchmarks.gpu --json gpu.json``.

The weights are drawn at random and the JPEGs are made on the spot, so nothing is fetched. It takes
at most 5 minutes. Each part has its share of the time. A part that fails says why, and the others
go on. Without a GPU it measures less, on the processor.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import gpu_parts
from benchmarks.extract import gflop_a_photo
from benchmarks.gpu_parts import ON_CPU, Bench, Row, Scale
from extract.system import console, machine
from extract.vgg16 import keras_backend
from extract.vgg16.keras_backend import keras

PARTS = {
    "matrix": (gpu_parts.matrix, 0.04),
    "choice": (gpu_parts.choice, 0.26),
    "decoding": (gpu_parts.decoding, 0.08),
    "end to end": (gpu_parts.end_to_end, 0.1),
    "forward": (gpu_parts.forward, 0.2),
    "activations": (gpu_parts.cached_activations, 0.12),
    "training": (gpu_parts.training, 0.12),
}
"""The parts in order, each with its share of the time. The comparison with the CPU has the rest."""

COMPARISON = "against CPU"
SECONDS = 280.0


def main() -> None:
    """Measure, print the figures as they come, and write them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for everything")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, COMPARISON], help="only these")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--values", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    scale = Scale() if keras_backend.gpus() else ON_CPU
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        if options.values:
            scale = ON_CPU
            bench = Bench(Path(temporary), scale, gpu_parts.he_weights())
            np.savez(options.values, **gpu_parts.values(bench))  # type: ignore[arg-type]
            return
        bench = Bench(Path(temporary), scale, gpu_parts.he_weights())
        figures = about()
        console.say(f"{figures['machine']}, {figures['backend']}, Python {figures['python']}")
        measure(bench, figures, options.parts, seconds=options.seconds, path=options.json)


def about() -> dict[str, Any]:
    """Say what was measured on."""
    return {
        "machine": f"{machine.gpu() or 'no NVIDIA GPU'}, {machine.processor()}",
        "gpus": keras_backend.gpus(),
        "backend": f"keras {keras.__version__} on {keras.backend.backend()} {_version()}",
        "python": platform.python_version(),
        "gflop_a_photo": gflop_a_photo(),
        "parts": {},
    }


def measure(
    bench: Bench,
    figures: dict[str, Any],
    wanted: Sequence[str] | None,
    *,
    seconds: float,
    path: Path | None,
) -> None:
    """Run the parts one after the other, and write the figures after each of them."""
    started = time.perf_counter()
    share = 0.0
    for name, (part, of_all) in [*PARTS.items(), (COMPARISON, (compare, 0.08))]:
        share += of_all
        if wanted and name not in wanted:
            continue
        rows, ended = run_part(name, part(bench), until=started + share * seconds)
        figures["parts"][name] = {"rows": [row._asdict() for row in rows], "ended": ended}
        figures["seconds"] = time.perf_counter() - started
        if path:
            path.write_text(json.dumps(figures, indent=1) + "\n")


def run_part(name: str, rows: Iterator[Row], *, until: float) -> tuple[list[Row], str]:
    """Print and return the figures of a part, and why it ended early, if it did.

    What is being measured when the time is over is finished; a later part has less time then.
    """
    found: list[Row] = []
    started = time.perf_counter()
    ended = ""
    try:
        while not ended:
            if time.perf_counter() > until:
                ended = "stopped, its time is over" if found else "left out, no time was left"
                break
            row = next(rows, None)
            if row is None:
                break
            found.append(row)
            print(f"{name:12}{row.what:42}{row.value:12,.4g} {row.unit:9}{row.note}", flush=True)
    # Any part may fail on a machine that nobody has tried, and the others are wanted all the more.
    except Exception as error:
        ended = f"failed: {gpu_parts.first_line(error)}"
    print(f"{name:12}{ended or 'done'} ({time.perf_counter() - started:.0f} s)", flush=True)
    return found, ended


def compare(bench: Bench) -> Iterator[Row]:
    """Compare this device's taps and steps with those that another process computes on the CPU."""
    path = bench.folder / "values.npz"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--values", str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        raise RuntimeError(f"the process on the CPU: {done.stderr.strip().splitlines()[-1:]}")
    reference = dict(np.load(path))
    small = Bench(bench.folder, ON_CPU, bench.weights)
    yield from gpu_parts.differences(small, reference, "float32")
    if keras_backend.gpus():
        yield from gpu_parts.differences(small, reference, "mixed_float16")


def _version() -> str:
    module = sys.modules.get(keras.backend.backend())
    return str(getattr(module, "__version__", ""))


if __name__ == "__main__":
    console.run(main)
