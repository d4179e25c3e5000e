"""The extract command with a stand-in for VGG16 that is quick and writes down what it computes.

Every run is a process of its own, to be killed and limited at will. Starting one takes no second,
because a server that has imported everything forks for it: ``python -m tests.stand_in``.
"""

import atexit
import gc
import hashlib
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from extract import __main__ as command
from extract import build
from extract.compute import pipeline, reading
from extract.engines import selection
from extract.engines.base import Engine
from extract.store import shards
from extract.system import console
from extract.vgg16.recipe import PAIRS, TAPS, pixels_note
from extract.vgg16.weights import Weights
from tests.conftest import write_photos

CHECKOUT = Path(__file__).resolve().parent.parent
WAITING = "waiting"


class Done(NamedTuple):
    """How a run ended; a negative code is the signal that killed it."""

    code: int
    out: str
    err: str


class Run:
    """A run that has been started.

    Attributes
    ----------
    pid : int
    log : Path
        The MD5 of the pixels of every image it has begun to compute, a line each.
    """

    def __init__(self, arguments: list[str], log: Path, **settings: Any) -> None:
        self.log = log
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        self.streams = [log.with_suffix(".out"), log.with_suffix(".err")]
        for stream in self.streams:
            stream.write_bytes(b"")
        self.done: Done | None = None
        self.server = _idle.pop() if _idle else _new_server()
        job = {"arguments": arguments, "log": str(log), "streams": [*map(str, self.streams)]}
        print(json.dumps(job | settings), file=self.server.stdin, flush=True)
        assert self.server.stdout
        self.pid = int(self.server.stdout.readline())

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def ended(self) -> Done:
        """Wait for the end of the run."""
        if self.done is None:
            assert self.server.stdout
            code = int(self.server.stdout.readline())
            print(file=self.server.stdin, flush=True)
            _idle.append(self.server)
            out, err = (stream.read_text() for stream in self.streams)
            self.done = Done(code, out, err)
        return self.done

    def until(self, words: str, stream: int = 1) -> None:
        """Wait until it has written `words` to standard error (or, 0, output)."""
        for _ in range(2000):
            if words in self.streams[stream].read_text():
                return
            time.sleep(0.01)
        raise AssertionError(f"{words!r} not in {[s.read_text() for s in self.streams]}")

    def computed(self) -> list[str]:
        """Return what was computed so far, in order."""
        return self.log.read_text().split() if self.log.exists() else []


def start(
    data: Path | str, out: Path, *options: object, log_folder: Path | None = None, **settings: Any
) -> Run:
    """Start ``python -m extract DATA --out OUT``.

    Settings
    --------
    shard_images, batch_size : int
        Images in a shard, at least, and in a batch.
    seconds : float
        That a batch takes.
    wait_after : int
        Batches after which it says "waiting" on standard error and waits for a signal.
    limit : int
        Of the size of any file it writes.
    before : str
        Python to run just before the command.
    log_folder : Path
        Where the run's log, output and errors go, beside `out` by default.
    """
    _numbers.append(len(_numbers))
    log = (log_folder or out.with_name(f"{out.name}.log")) / f"{len(_numbers)}.log"
    return Run([str(data), "--out", str(out), *map(str, options)], log, **settings)


def run(data: Path | str, out: Path, *options: object, **settings: Any) -> tuple[Done, int]:
    """Run it to its end; return how many images it computed, too."""
    started = start(data, out, *options, **settings)
    return started.ended(), len(started.computed())


def upkeep(name: str, out: Path, **settings: Any) -> Done:
    """Run ``python -m extract verify`` or ``gc``."""
    return Run(
        [name, "--out", str(out)], out.with_name(f"{out.name}.log") / name, **settings
    ).ended()


def values(photos: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Return all taps; they tell photos apart, and by their cosine alike ones from others."""
    seen = photos.reshape(len(photos), -1)[:, :4608].astype(np.float32)
    seen -= seen.mean(axis=1, keepdims=True)
    seen = seen.clip(0)
    taps = {tap: seen[:, :width] * (i + 1) for i, (tap, width) in enumerate(TAPS.items())}
    return taps | pairs(photos)


def pairs(photos: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Return taps of pairs of channels that tell photos apart."""
    seen = photos.reshape(len(photos), -1).astype(np.float32) - 100
    return {tap: seen[:, :width] / (i + 1) for i, (tap, width) in enumerate(PAIRS.items())}


def build_features(out: Path, classes: Mapping[str, int], weights: Path) -> Path:
    """Build features of ``out/pets`` in this process, for tests that do not read the taps."""
    root = write_photos(out / "pets", classes)
    engine = Engine("stand-in", values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "choose", lambda *wanted, **how: engine)
        build.build(str(root), build.Options(out=out, weights=weights))
    return out / "features/pets.h5"


_numbers: list[int] = []
_idle: list[subprocess.Popen[str]] = []


def _new_server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.stand_in"],
        cwd=CHECKOUT,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.kill)
    return server


def _serve() -> None:
    # What runs would import and compute before their first photo; all of it is kept.
    pixels_note()
    importlib.import_module("s3fs")
    # Python would write to all its objects, and each run would copy the memory that they are in.
    gc.collect()
    gc.freeze()
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            _child(json.loads(line))
        print(pid, flush=True)
        # Until the next job the process stays known, so that its number is no other's.
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert end
        print(end.si_status if end.si_code == os.CLD_EXITED else -end.si_status, flush=True)
        sys.stdin.readline()
        os.waitpid(pid, 0)


def _child(job: dict[str, Any]) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for descriptor, path in enumerate(job["streams"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), descriptor)
    sys.argv[1:] = job["arguments"]
    batches = 0
    # The network has a thread of its own, which no signal would wake.
    signalled, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)

    def forward(photos: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        nonlocal batches
        if batches == job.get("wait_after", -1):
            # In the meantime the batch before is written.
            time.sleep(0.3)
            print(WAITING, file=sys.stderr, flush=True)
            select.select([signalled], [], [], 60)
        batches += 1
        with open(job["log"], "a") as log:
            log.writelines(f"{hashlib.md5(photo.tobytes()).hexdigest()}\n" for photo in photos)
        time.sleep(job.get("seconds", 0))
        return values(photos)

    shards.SHARD_IMAGES = job.get("shard_images", shards.SHARD_IMAGES)
    defaults: Any = pipeline.compute.__kwdefaults__
    defaults["batch_size"] = job.get("batch_size", reading.BATCH_SIZE)
    weights = Weights([], "f" * 64, "stand-in")
    build.weights.load = lambda *a, **k: weights  # type: ignore[attr-defined]
    engine = Engine("stand-in", forward)
    selection.choose = lambda *wanted, **how: engine
    if "limit" in job:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
    exec(job.get("before", ""), {})
    assert "keras" not in sys.modules
    try:
        console.run(command.main)
    except SystemExit as end:
        code = end.code
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        os._exit(1)


if __name__ == "__main__":
    _serve()
