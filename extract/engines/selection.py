"""Choose the fastest engine that is installed and agrees with the reference.

Keras is the reference, or NumPy where Keras is not installed. MNN and ncnn compute the same
numbers by Winograd convolutions, which take fewer multiplications than direct ones. Which of the
two is faster depends on the processor.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from joblib.externals import loky
from numpy.typing import NDArray

from extract.engines.base import (
    PACKAGES,
    PHOTOS_COMPARED,
    TOLERANCE,
    Engine,
    Taps,
    Unusable,
    relative_difference,
)
from extract.engines.tuning import UNTUNED, Setting
from extract.system import atomic, machine, processes
from extract.system.console import InputError, say
from extract.vgg16.recipe import MAPS, PAIRS, SIZE, TAPS
from extract.vgg16.weights import Weights

RECORD = "engines.json"
"""The file in a recipe's folder that keeps what was measured."""


WORTH_TUNING = 20_000
"""So many photos pay for measuring on a GPU: it took 24 s on an H200, and float32 gave 1,000 photos
per second without."""

PHOTOS_TIMED = 8
"""At least; on a machine with more cores each of them gets a photo."""


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


def choose(
    wanted: str,
    weights: Weights,
    photos: NDArray[np.uint8],
    *,
    folder: Path,
    outputs: Sequence[str] = tuple(TAPS),
    expected: int = 0,
) -> Engine:
    """Build the requested engine, or the fastest one, and say which it is and why.

    MNN and ncnn are timed on the given photos, and what they give is compared with the reference,
    once for each machine and version. An engine that differs too much is not used. If none is left,
    the reference is built.

    Parameters
    ----------
    wanted : str
        One of `extract.engines.base.ENGINES`.
    weights : Weights
    photos : ndarray of shape (n, size, size, 3), uint8
        The first photos to be computed. The engine is built for their size.
    folder : Path
        Folder of the taps' recipe. It keeps converted networks and the results of the checks.
    outputs : sequence of str
        What the engine shall give, see `extract.engines.keras_engine.build`.
    expected : int
        How many photos will come. For fewer than `WORTH_TUNING`, a GPU that was not measured yet
        computes in float32.

    Raises
    ------
    InputError
        If the engine asked for is not installed.
    """
    by_keras = partial(
        _choose_keras,
        weights=weights,
        photos=photos,
        folder=folder,
        outputs=outputs,
        expected=expected,
    )
    if wanted == "keras":
        return by_keras("as asked")
    if wanted == "auto" and machine.has_gpu() and has_keras():
        return by_keras("there is a GPU")
    trial = Trial(weights, photos, folder, outputs)
    names = _installed(wanted)
    trial.check([name for name in names if not trial.speed(name)])
    for name in sorted(filter(trial.speed, names), key=lambda name: -trial.speed(name)):
        trial.check([name])
        if engine := trial.engine(name):
            described = f"{engine.name}, within {trial.difference(name):.0e} of {reference_name()}"
            _announce(described, {name: trial.speed(name) for name in names}, trial.reasons)
            return engine._replace(name=described)
    reason = "; ".join(trial.reasons.values()) or "neither MNN nor ncnn is installed"
    return by_keras(reason) if has_keras() else _choose_numpy(reason, weights, outputs)


def is_checked(wanted: str, layer: str, folder: Path) -> bool:
    """Say whether `choose` has chosen MNN or ncnn for a layer before, on this machine.

    Choosing again then takes no time and writes nothing.

    Parameters
    ----------
    wanted, folder
        As for `choose`.
    layer : str
        A key of `extract.vgg16.recipe.MAPS`.
    """
    recorded = _recorded(folder / RECORD)
    names = [name for name in _installed("auto") if wanted in ("auto", name)]
    return not machine.has_gpu() and any(_key(name, layer) in recorded for name in names)


def build(
    name: str,
    weights: Weights,
    folder: Path,
    *,
    outputs: Sequence[str] = tuple(TAPS),
    size: int = SIZE,
) -> Engine:
    """Build one of the engines in `extract.engines.base.PACKAGES` for photos of a size.

    Raises
    ------
    Unusable
        If it cannot be used here.
    """
    # A process that only names the engines does without these.
    if name == "mnn":
        from extract.engines import mnn_engine

        return mnn_engine.build(weights, folder, outputs=outputs, size=size)
    from extract.engines import ncnn_engine

    return ncnn_engine.build(weights, outputs=outputs, size=size)


def alike(
    engine: Engine,
    weights: Weights,
    folder: Path,
    *,
    outputs: Sequence[str],
    size: int = SIZE,
) -> Engine:
    """Build an engine for other outputs with the program that a chosen engine uses.

    On a GPU it computes as the reference does, whatever was fastest for the taps.
    """
    for name, package in PACKAGES.items():
        if engine.name.startswith(f"{package} "):
            return build(name, weights, folder, outputs=outputs, size=size)
    from extract.engines import keras_engine

    return keras_engine.build(weights, outputs=outputs, size=size)


def _choose_numpy(reason: str, weights: Weights, outputs: Sequence[str]) -> Engine:
    from extract.engines import numpy_engine

    engine = numpy_engine.build(weights, outputs=outputs)
    say(f"engine: {engine.name} ({reason})")
    return engine


def has_keras() -> bool:
    """Say whether Keras and the backend that it is told to use are installed."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    return find_spec("keras") is not None and find_spec(backend) is not None


def reference_name() -> str:
    """Return the name of what engines are compared with."""
    return "keras" if has_keras() else "numpy"


def _choose_keras(
    reason: str,
    *,
    weights: Weights,
    photos: NDArray[np.uint8],
    folder: Path,
    outputs: Sequence[str],
    expected: int,
) -> Engine:
    # Importing Keras takes seconds, and the other engines do without it.
    from extract.engines import keras_engine
    from extract.vgg16 import keras_backend

    size = photos.shape[1]
    if not keras_backend.gpus():
        if machine.has_gpu():
            reason += ", and this backend does not use it"
        engine = keras_engine.build(weights, outputs=outputs, size=size)
        say(f"engine: {engine.name} ({reason})")
        return engine
    path = folder / RECORD
    recorded = _recorded(path)
    maps = [output for output in outputs if output in MAPS]
    key = ", ".join([f"{keras_engine.name()} on {machine.gpu()}", *maps])
    if key not in recorded and expected < WORTH_TUNING:
        engine = keras_engine.build_for_gpu(weights, UNTUNED, outputs=outputs, size=size)
        say(f"engine: {engine.name} ({reason}; too few photos to measure what is fastest)")
        return engine
    if key not in recorded:
        setting, refused = keras_engine.tune(weights, photos, tuple(outputs))
        recorded[key] = setting._asdict()
        atomic.write_text(path, json.dumps(recorded, indent=1) + "\n")
        for words in refused:
            say(f"not used: {words}")
    setting = Setting(**recorded[key])
    if expected >= WORTH_TUNING:
        keras_backend.find_fastest()
    engine = keras_engine.build_for_gpu(weights, setting, outputs=outputs, size=size)
    say(f"engine: {engine.name} ({reason}; {setting.speed:,.0f} photos/s)")
    return engine


def _recorded(path: Path) -> dict[str, Any]:
    """Return what was found out about engines on this machine and others."""
    recorded: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return recorded


def _announce(engine: str, speeds: dict[str, float], reasons: dict[str, str]) -> None:
    told = [f"{PACKAGES[name]} {speed:.1f}" for name, speed in speeds.items() if speed]
    say(f"engine: {engine} (photos/s: {', '.join(told)})")
    for reason in reasons.values():
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


class Trial:
    """The engines of this machine, tried on some photos; each is built once.

    ``engines.json`` records a `Check` of the taps, one of the taps of pairs and one of each map, by
    engine, version and processor. What is recorded is not measured again.

    Attributes
    ----------
    reasons : dict of str to str
        Why an engine may not be used, by its name.
    """

    def __init__(
        self, weights: Weights, photos: NDArray[np.uint8], folder: Path, outputs: Sequence[str]
    ) -> None:
        self.weights = weights
        self.photos = photos
        self.folder = folder
        self.outputs = outputs
        self.reasons: dict[str, str] = {}
        self.built: dict[str, Engine] = {}
        self.path = folder / RECORD
        self.recorded = _recorded(self.path)
        maps = {layer: [layer] for layer in outputs if layer in MAPS}
        pairs = [output for output in outputs if output in PAIRS]
        taps = [output for output in outputs if output not in MAPS and output not in PAIRS]
        by_part = {"": taps, "pairs": pairs} | maps
        self.parts = {part: outputs for part, outputs in by_part.items() if outputs}

    def speed(self, name: str) -> float:
        """Return an engine's photos per second, with the taps if it was timed with them, or 0."""
        keys = [_key(name, part) for part in {"": [], **self.parts}]
        return next((self.recorded[key]["speed"] for key in keys if key in self.recorded), 0.0)

    def difference(self, name: str) -> float:
        """Return an engine's largest difference from the reference in any output."""
        checks = [Check(**self.recorded[_key(name, part)]) for part in self.parts]
        return float(np.max([check.difference for check in checks]))

    def engine(self, name: str) -> Engine | None:
        """Build an engine, unless it was built; return None if it is unusable, and note why."""
        if name in self.reasons:
            return None
        if name not in self.built:
            try:
                self.built[name] = build(
                    *(name, self.weights, self.folder),
                    outputs=self.outputs,
                    size=self.photos.shape[1],
                )
            except Unusable as reason:
                self.reasons[name] = str(reason)
        return self.built.get(name)

    def check(self, names: Sequence[str]) -> None:
        """Compare engines with the reference, unless they were compared, and note failures."""
        new = [
            name
            for name in names
            if any(_key(name, part) not in self.recorded for part in self.parts)
        ]
        if new:
            compared = self.photos[:PHOTOS_COMPARED]
            with _reference(self.weights, compared, self.outputs) as reference:
                built = {name: engine for name in new if (engine := self.engine(name))}
                expected = reference()
            for name, engine in built.items():
                self._measure(name, engine, expected)
        for name in names:
            if name not in self.reasons and not self.difference(name) <= TOLERANCE:
                difference = f"differs from {reference_name()} by {self.difference(name):.1g}"
                self.reasons[name] = f"{_package(name)} {difference}"

    def _measure(self, name: str, engine: Engine, expected: Taps) -> None:
        # The first batch includes work that is done once, so the second one is timed.
        found = engine.forward(self.photos[:PHOTOS_COMPARED])
        timed = self.photos[: max(PHOTOS_TIMED, machine.cores())]
        speed = self.speed(name) or _photos_per_second(engine, timed)
        for part, outputs in self.parts.items():
            reference = {output: expected[output] for output in outputs}
            check = Check(relative_difference(found, reference), speed)
            self.recorded[_key(name, part)] = check._asdict()
        atomic.write_text(self.path, json.dumps(self.recorded, indent=1) + "\n")


def _package(name: str) -> str:
    return f"{PACKAGES[name]} {version(PACKAGES[name])}"


def _key(name: str, part: str) -> str:
    """Return the name in ``engines.json`` of an engine's taps, its pairs, or the map `part`."""
    return f"{_package(name)} on {machine.processor()}" + (part and f", {part}")


def _photos_per_second(engine: Engine, photos: NDArray[np.uint8]) -> float:
    started = time.perf_counter()
    engine.forward(photos)
    return len(photos) / (time.perf_counter() - started)


@contextmanager
def _reference(
    weights: Weights, photos: NDArray[np.uint8], outputs: Sequence[str]
) -> Iterator[Callable[[], Taps]]:
    """Let the reference compute while the block runs; what is yielded waits for the outputs.

    Keras runs in another process, whose end frees the gigabyte that it takes, unless this process
    has imported it already.
    """
    if "keras" in sys.modules:
        yield partial(_run_reference, weights, photos, outputs)
        return
    prepare = partial(_prepare_process, os.getpid())
    # Unlike multiprocessing's processes, joblib's do not run the user's script again.
    with loky.ProcessPoolExecutor(1, initializer=prepare) as process:
        yield process.submit(_run_reference, weights, photos, outputs).result


def _prepare_process(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.end_with(parent)


def _run_reference(weights: Weights, photos: NDArray[np.uint8], outputs: Sequence[str]) -> Taps:
    if not has_keras():
        from extract.engines import numpy_engine

        return numpy_engine.build(weights, outputs=outputs).forward(photos)
    from extract.engines import keras_engine

    return keras_engine.build(weights, outputs=outputs, size=photos.shape[1]).forward(photos)
