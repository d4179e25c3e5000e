"""Engines: a batch of photos in, every tap of the recipe out; which one runs, and whether it may.

Keras is the reference. MNN computes the same numbers by Winograd convolutions, which take fewer
multiplications than direct ones.
"""

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from extract import atomic
from extract.console import InputError, say
from extract.recipe import TAPS
from extract.weights import Weights

ENGINES = ("auto", "keras", "mnn")
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
        (n, 224, 224, 3) uint8 RGB to a dict of tap name to (n, values) float32.
    """

    name: str
    forward: Callable[[NDArray[np.uint8]], Taps]


class Unusable(Exception):
    """An engine cannot be used here; the message is the reason."""


def choose(wanted: str, weights: Weights, photos: NDArray[np.uint8], *, folder: Path) -> Engine:
    """Build the engine that is asked for, or the best there is, and say which and why.

    An engine that is not the reference is compared with it on the first photos, once on each
    machine and version; one that differs too much is refused with its figure.

    Parameters
    ----------
    wanted : str
        One of `ENGINES`.
    weights : Weights
    photos : ndarray of shape (n, 224, 224, 3), uint8
        The first that are to be computed.
    folder : Path
        Of the recipe; keeps what was converted and compared.

    Raises
    ------
    InputError
        If ``mnn`` is asked for and not installed.
    """
    if wanted == "mnn" and find_spec("MNN") is None:
        raise InputError("--engine mnn: MNN is not installed; pip install MNN, or --engine keras")
    if wanted == "keras":
        return _keras(weights, "as asked")
    if wanted == "auto" and has_gpu():
        return _keras(weights, "there is a GPU")
    if find_spec("MNN") is None:
        return _keras(weights, "MNN is not installed")
    from extract import mnn_engine

    try:
        engine = mnn_engine.build(weights, folder)
        difference = _difference(engine, weights, photos[:PHOTOS_COMPARED], folder)
    except Unusable as reason:
        return _keras(weights, str(reason))
    if not difference <= TOLERANCE:
        return _keras(weights, f"{engine.name} differs from it by {difference:.1g}")
    name = f"{engine.name}, within {difference:.0e} of keras"
    say(f"engine: {name}")
    return Engine(name, engine.forward)


def has_gpu() -> bool:
    """Say whether an NVIDIA GPU answers, without importing anything that would use it."""
    command = shutil.which("nvidia-smi")
    return (
        command is not None and not subprocess.run([command, "-L"], capture_output=True).returncode
    )


def relative_difference(taps: Taps, reference: Taps) -> float:
    """Return the largest relative L2 difference of any tap: norm of a - b over norm of b."""
    return max(
        float(np.linalg.norm(taps[tap] - reference[tap]) / np.linalg.norm(reference[tap]))
        for tap in TAPS
    )


def _keras(weights: Weights, reason: str) -> Engine:
    # Importing Keras takes seconds, and another engine does without.
    from extract import keras_engine

    engine = keras_engine.build(weights)
    say(f"engine: {engine.name} ({reason})")
    return engine


def _difference(engine: Engine, weights: Weights, photos: NDArray[np.uint8], folder: Path) -> float:
    """Return what is known of an engine on this machine, or compare it now."""
    path = folder / "engines.json"
    known: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    key = f"{engine.name} on {_processor()}"
    if key not in known:
        from extract import keras_engine

        reference = keras_engine.build(weights).forward(photos)
        known[key] = relative_difference(engine.forward(photos), reference)
        atomic.write_text(path, json.dumps(known, indent=1) + "\n")
    return known[key]


def _processor() -> str:
    """Return the processor's name; Linux tells it in a file only."""
    try:
        told = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        told = None
    return told.group(1) if told else platform.processor() or platform.machine()
