"""Engines: a batch of photos in, every tap of the recipe out; which one runs, and whether it may.

Keras is the reference. MNN and ncnn compute the same numbers by Winograd convolutions, which take
fewer multiplications than direct ones; which of the two is faster depends on the processor.
"""

import json
import platform
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
from joblib.externals import loky
from numpy.typing import NDArray

from extract import atomic
from extract.console import InputError, say
from extract.recipe import SIZE
from extract.weights import Weights

PACKAGES = {"mnn": "MNN", "ncnn": "ncnn"}
"""The engines for a CPU beside the reference, and the package that each needs."""

ENGINES = ("auto", "keras", *PACKAGES)
TOLERANCE = 1e-3
"""Relative L2 difference from the reference that an engine may have in any tap."""

PHOTOS_COMPARED = 8

Taps = dict[str, NDArray[np.float32]]


class Engine(NamedTuple):
    """What runs VGG16.

    Attributes
    ----------
    name : str
        For the record in each shard.
    forward : callable
        (n, size, size, 3) uint8 RGB to a dict of tap name to (n, values) float32.
    """

    name: str
    forward: Callable[[NDArray[np.uint8]], Taps]


class Unusable(Exception):
    """An engine cannot be used here; the message is the reason."""


class Check(NamedTuple):
    """What was found of an engine on this machine.

    Attributes
    ----------
    difference : float
        From the reference, see `relative_difference`.
    speed : float
        Photos a second.
    """

    difference: float
    speed: float


def choose(wanted: str, weights: Weights, photos: NDArray[np.uint8], *, folder: Path) -> Engine:
    """Build the engine that is asked for, or the fastest, and say which and why.

    An engine that is not the reference is compared with it and timed on the first photos, once on
    each machine and version; one that differs too much is refused with its figure.

    Parameters
    ----------
    wanted : str
        One of `ENGINES`.
    weights : Weights
    photos : ndarray of shape (n, size, size, 3), uint8
        The first that are to be computed; the engine is for photos of their size.
    folder : Path
        Of the recipe; keeps what was converted and found.

    Raises
    ------
    InputError
        If an engine is asked for and not installed.
    """
    size = photos.shape[1]
    if wanted == "keras":
        return _keras(weights, size, "as asked")
    if wanted == "auto" and has_gpu():
        return _keras(weights, size, "there is a GPU")
    names = [name for name in PACKAGES if wanted in ("auto", name) and find_spec(PACKAGES[name])]
    if not names and wanted != "auto":
        package = PACKAGES[wanted]
        raise InputError(
            f"--engine {wanted}: {package} is not installed; pip install {package}, or "
            "--engine keras"
        )
    found, reasons = _checks(names, weights, photos, folder)
    for name in sorted(found, key=lambda name: -found[name].speed):
        try:
            engine = build(name, weights, folder, size=size)
        except Unusable as reason:
            reasons.append(str(reason))
            continue
        described = f"{engine.name}, within {found[name].difference:.0e} of keras"
        speeds = [f"{PACKAGES[name]} {check.speed:.1f}" for name, check in found.items()]
        say(f"engine: {described} (photos/s: {', '.join(speeds)})")
        for reason_not in reasons:
            say(f"not used: {reason_not}")
        return Engine(described, engine.forward)
    return _keras(weights, size, "; ".join(reasons) or "neither MNN nor ncnn is installed")


def has_gpu() -> bool:
    """Say whether an NVIDIA GPU answers, without importing anything that would use it."""
    command = shutil.which("nvidia-smi")
    return (
        command is not None and not subprocess.run([command, "-L"], capture_output=True).returncode
    )


def cores() -> int:
    """Return how many cores this process may use, which a container may have limited."""
    cores: int = joblib.cpu_count()
    return cores


def machine() -> str:
    """Return what seconds depend on: the processor, and whether there is a GPU."""
    return f"{processor()}, NVIDIA GPU" if has_gpu() else processor()


def relative_difference(taps: Taps, reference: Taps) -> float:
    """Return the largest relative L2 difference of any tap: norm of a - b over norm of b.

    It is NaN where any tap is.
    """
    differences = [
        np.linalg.norm(taps[tap] - values) / np.linalg.norm(values)
        for tap, values in reference.items()
    ]
    return float(np.max(differences))


def _keras(weights: Weights, size: int, reason: str) -> Engine:
    # Importing Keras takes seconds, and another engine does without.
    from extract import keras_engine

    engine = keras_engine.build(weights, size=size)
    say(f"engine: {engine.name} ({reason})")
    return engine


def build(name: str, weights: Weights, folder: Path, *, size: int = SIZE) -> Engine:
    """Build one of the engines in `PACKAGES` for photos of a size.

    Raises
    ------
    Unusable
        If it cannot be used here.
    """
    # Importing an engine's library takes seconds, and another engine does without.
    module = import_module(f"extract.{name}_engine")
    engine: Engine = module.build(weights, folder, size=size)
    return engine


def _checks(
    names: Sequence[str], weights: Weights, photos: NDArray[np.uint8], folder: Path
) -> tuple[dict[str, Check], list[str]]:
    """Return what is known of engines on this machine, finding it out now where it is not.

    Returns
    -------
    found : dict of name to Check
        Of those that agree with the reference.
    reasons : list of str
        Why the others may not be used.
    """
    path = folder / "engines.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    found: dict[str, Check] = {}
    reasons = []
    reference: Taps = {}
    for name in names:
        described = f"{PACKAGES[name]} {version(PACKAGES[name])}"
        key = f"{described} on {processor()}"
        try:
            if key not in known:
                engine = build(name, weights, folder, size=photos.shape[1])
                reference = reference or _reference(weights, photos[:PHOTOS_COMPARED])
                known[key] = _check(engine, photos, reference)._asdict()
                atomic.write_text(path, json.dumps(known, indent=1) + "\n")
        except Unusable as reason:
            reasons.append(str(reason))
            continue
        check = Check(**known[key])
        if check.difference <= TOLERANCE:
            found[name] = check
        else:
            reasons.append(f"{described} differs from keras by {check.difference:.1g}")
    return found, reasons


def _reference(weights: Weights, photos: NDArray[np.uint8]) -> Taps:
    """Return what Keras makes of photos, in a process that takes its gigabyte away with it."""
    ignore = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    # Unlike multiprocessing's, joblib's processes do not run the user's script once more.
    with loky.ProcessPoolExecutor(1, initializer=ignore) as process:
        taps: Taps = process.submit(_computed_by_keras, weights, photos).result()
        return taps


def _computed_by_keras(weights: Weights, photos: NDArray[np.uint8]) -> Taps:
    from extract import keras_engine

    return keras_engine.build(weights, size=photos.shape[1]).forward(photos)


def _check(engine: Engine, photos: NDArray[np.uint8], reference: Taps) -> Check:
    # Whatever an engine does only on its first batch is not its speed.
    taps = {tap: values[:PHOTOS_COMPARED] for tap, values in engine.forward(photos).items()}
    started = time.perf_counter()
    engine.forward(photos)
    seconds = time.perf_counter() - started
    return Check(relative_difference(taps, reference), len(photos) / seconds)


def processor() -> str:
    """Return what an engine's speed depends on; Linux tells the processor's name in a file only."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        told = ""
    named = re.search(r"model name\s*: (.*)", told)
    name = named.group(1) if named else platform.processor() or platform.machine()
    # A virtual machine may hide it, and two machines with one name differ.
    avx512 = " with AVX-512" if "avx512f" in told else ""
    return f"{cores()} cores of {name}{avx512}"
