"""Engines: a batch of photos in, every tap of the recipe out; which one runs, and whether it may.

Keras is the reference. MNN and ncnn compute the same numbers by Winograd convolutions, which take
fewer multiplications than direct ones; which of the two is faster depends on the processor.
"""

import json
import signal
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

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
from extract.system import atomic
from extract.system.console import InputError, say
from extract.system.machine import has_gpu, processor
from extract.vgg16.recipe import SIZE
from extract.vgg16.weights import Weights

PACKAGES = {"mnn": "MNN", "ncnn": "ncnn"}
"""The engines for a CPU beside the reference, and the package that each needs."""

ENGINES = ("auto", "keras", *PACKAGES)


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


def _keras(weights: Weights, size: int, reason: str) -> Engine:
    # Importing Keras takes seconds, and another engine does without.
    from extract.engines import keras_engine

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
    if name == "mnn":
        return mnn_engine.build(weights, folder, size=size)
    return ncnn_engine.build(weights, folder, size=size)


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
    from extract.engines import keras_engine

    return keras_engine.build(weights, size=photos.shape[1]).forward(photos)


def _check(engine: Engine, photos: NDArray[np.uint8], reference: Taps) -> Check:
    # Whatever an engine does only on its first batch is not its speed.
    taps = {tap: values[:PHOTOS_COMPARED] for tap, values in engine.forward(photos).items()}
    started = time.perf_counter()
    engine.forward(photos)
    seconds = time.perf_counter() - started
    return Check(relative_difference(taps, reference), len(photos) / seconds)
