"""Choose the fastest engine that is installed and agrees with the reference.

Keras is the reference. MNN and ncnn compute the same numbers by Winograd convolutions, which take
fewer multiplications than direct ones. Which of the two is faster depends on the processor.
"""

import json
import os
import signal
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from joblib.externals import loky
from numpy.typing import NDArray

from extract.engines import mnn_engine, ncnn_engine
from extract.engines.base import (
    PHOTOS_COMPARED,
    TOLERANCE,
    Engine,
    Taps,
    Unusable,
    relative_difference,
)
from extract.engines.tuning import Setting
from extract.system import atomic, machine, processes
from extract.system.console import InputError, say
from extract.vgg16.recipe import SIZE
from extract.vgg16.weights import Weights

PACKAGES = {"mnn": "MNN", "ncnn": "ncnn"}
"""The engines that are not the reference; they run on a CPU. The values are their packages."""

ENGINES = ("auto", "keras", *PACKAGES)
"""The values of ``--engine``."""

RECORD = "engines.json"
"""The file in a recipe's folder that keeps what was measured."""


class Check(NamedTuple):
    """The result of trying an engine on this machine.

    Attributes
    ----------
    difference : float
        The difference from the reference, see `relative_difference`.
    speed : float
        Photos per second.
    """

    difference: float
    speed: float


def choose(wanted: str, weights: Weights, photos: NDArray[np.uint8], *, folder: Path) -> Engine:
    """Build the requested engine, or the fastest one, and say which it is and why.

    MNN and ncnn are compared with the reference and timed on the given photos, once for each
    machine and version. An engine that differs too much is not used. If none is left, the
    reference is built.

    Parameters
    ----------
    wanted : str
        One of `ENGINES`.
    weights : Weights
    photos : ndarray of shape (n, size, size, 3), uint8
        The first photos to be computed. The engine is built for their size.
    folder : Path
        Folder of the recipe. It keeps converted networks and the results of the checks.

    Raises
    ------
    InputError
        If the engine asked for is not installed.
    """
    size = photos.shape[1]
    if wanted == "keras":
        return _choose_keras("as asked", weights, photos, folder)
    if wanted == "auto" and machine.has_gpu():
        return _choose_keras("there is a GPU", weights, photos, folder)
    checks, reasons = _check_all(_installed(wanted), weights, photos, folder)
    for name in sorted(checks, key=lambda name: -checks[name].speed):
        try:
            engine = build(name, weights, folder, size=size)
        except Unusable as reason:
            reasons.append(str(reason))
            continue
        described = f"{engine.name}, within {checks[name].difference:.0e} of keras"
        _announce(described, checks, reasons)
        return engine._replace(name=described)
    why = "; ".join(reasons) or "neither MNN nor ncnn is installed"
    return _choose_keras(why, weights, photos, folder)


def build(name: str, weights: Weights, folder: Path, *, size: int = SIZE) -> Engine:
    """Build one of the engines in `PACKAGES` for photos of a size.

    Raises
    ------
    Unusable
        If it cannot be used here.
    """
    if name == "mnn":
        return mnn_engine.build(weights, folder, size=size)
    return ncnn_engine.build(weights, size=size)


def _choose_keras(reason: str, weights: Weights, photos: NDArray[np.uint8], folder: Path) -> Engine:
    # Importing Keras takes seconds, and the other engines do without it.
    from extract.engines import keras_engine
    from extract.vgg16 import keras_backend

    size = photos.shape[1]
    if not keras_backend.gpus():
        if machine.has_gpu():
            reason += ", and this backend does not use it"
        engine = keras_engine.build(weights, size=size)
        say(f"engine: {engine.name} ({reason})")
        return engine
    path = folder / RECORD
    recorded = _recorded(path)
    key = f"{keras_engine.name()} on {machine.gpu()}"
    if key not in recorded:
        setting, refused = keras_engine.tune(weights, photos)
        recorded[key] = setting._asdict()
        atomic.write_text(path, json.dumps(recorded, indent=1) + "\n")
        for words in refused:
            say(f"not used: {words}")
    setting = Setting(**recorded[key])
    engine = keras_engine.build_for_gpu(weights, setting, size=size)
    say(f"engine: {engine.name} ({reason}; {setting.speed:,.0f} photos/s)")
    return engine


def _recorded(path: Path) -> dict[str, Any]:
    """Return what was found out about engines on this machine and others."""
    recorded: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return recorded


def _announce(engine: str, checks: dict[str, Check], reasons: Sequence[str]) -> None:
    speeds = [f"{PACKAGES[name]} {check.speed:.1f}" for name, check in checks.items()]
    say(f"engine: {engine} (photos/s: {', '.join(speeds)})")
    for reason in reasons:
        say(f"not used: {reason}")


def _installed(wanted: str) -> list[str]:
    """Return the requested engines that are installed; for ``auto`` the list may be empty."""
    names = [name for name in PACKAGES if wanted in ("auto", name) and find_spec(PACKAGES[name])]
    if not names and wanted != "auto":
        package = PACKAGES[wanted]
        raise InputError(
            f"--engine {wanted}: {package} is not installed; run pip install {package}, or use "
            "--engine keras"
        )
    return names


def _check_all(
    names: Sequence[str], weights: Weights, photos: NDArray[np.uint8], folder: Path
) -> tuple[dict[str, Check], list[str]]:
    """Check the engines that were not yet checked on this machine, and record the results.

    Returns
    -------
    checks : dict of str to Check
        The engines that agree with the reference.
    reasons : list of str
        Why the other engines may not be used.
    """
    path = folder / RECORD
    recorded = _recorded(path)
    checks: dict[str, Check] = {}
    reasons = []
    reference: Taps = {}
    for name in names:
        package = f"{PACKAGES[name]} {version(PACKAGES[name])}"
        key = f"{package} on {machine.processor()}"
        try:
            if key not in recorded:
                engine = build(name, weights, folder, size=photos.shape[1])
                reference = reference or _compute_reference(weights, photos[:PHOTOS_COMPARED])
                recorded[key] = _check(engine, photos, reference)._asdict()
                atomic.write_text(path, json.dumps(recorded, indent=1) + "\n")
        except Unusable as reason:
            reasons.append(str(reason))
            continue
        check = Check(**recorded[key])
        if check.difference <= TOLERANCE:
            checks[name] = check
        else:
            reasons.append(f"{package} differs from keras by {check.difference:.1g}")
    return checks, reasons


def _check(engine: Engine, photos: NDArray[np.uint8], reference: Taps) -> Check:
    # The first batch includes work that is done once, so the second one is timed.
    taps = {tap: values[:PHOTOS_COMPARED] for tap, values in engine.forward(photos).items()}
    started = time.perf_counter()
    engine.forward(photos)
    seconds = time.perf_counter() - started
    return Check(relative_difference(taps, reference), len(photos) / seconds)


def _compute_reference(weights: Weights, photos: NDArray[np.uint8]) -> Taps:
    """Compute Keras's taps in another process, whose end frees the gigabyte that Keras takes."""
    prepare = partial(_prepare_process, os.getpid())
    # Unlike multiprocessing's processes, joblib's do not run the user's script again.
    with loky.ProcessPoolExecutor(1, initializer=prepare) as process:
        taps: Taps = process.submit(_run_keras, weights, photos).result()
        return taps


def _prepare_process(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.end_with(parent)


def _run_keras(weights: Weights, photos: NDArray[np.uint8]) -> Taps:
    from extract.engines import keras_engine

    return keras_engine.build(weights, size=photos.shape[1]).forward(photos)
