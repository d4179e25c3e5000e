"""Processes that read photos for a fast network, because threads wait for Python's lock."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from io import BufferedReader
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO, cast

import numpy as np

from extract.compute import reading
from extract.compute.reading import LoadedPhoto
from extract.photos import files
from extract.system import memory, processes, threads
from extract.system.console import InputError
from extract.system.locations import readable_name, readers
from extract.system.machine import cores
from extract.system.memory import OutOfMemory

CHUNK = 8
"""Photos that a process is asked for at once."""

PIPE = 1 << 18
"""Bytes that wait in a pipe, where the system lets a program say so: more than a photo has."""

LEAST_SHARE = 64_000_000
"""The memory that a process may take for a photo on a machine with very many cores."""

START = "from extract.compute import reader_processes; reader_processes.serve()"


class ReaderProcesses:
    """Processes that read, hash and decode photos, one for each core.

    A process is given little memory, and refuses what takes more or what cannot be read. The thread
    that asked reads such a photo itself, with the memory that all threads share.

    Parameters
    ----------
    root : Path
    size : int
        Side of the squares in pixels.
    """

    def __init__(self, root: Path, size: int) -> None:
        self.root = root
        self.size = size
        self.started: list[subprocess.Popen[bytes]] = []
        self.idle: SimpleQueue[subprocess.Popen[bytes] | None] = SimpleQueue()
        self.ready = 0
        self.lock = threading.Lock()
        self.starting = self.closed = False

    def close(self) -> None:
        """End all processes; threads that wait for one get an error."""
        with self.lock:
            self.closed = True
        self.idle.put(None)
        for process in self.started:
            process.kill()
        for process in self.started:
            process.communicate()

    def read(self, paths: Sequence[str]) -> list[LoadedPhoto]:
        """Return what `extract.compute.reading.read` returns for each of some files.

        Threads may call it. Each has a process for itself meanwhile. While some processes have not
        started yet, a thread that finds none reads the files itself.

        Raises
        ------
        InputError
            As `extract.compute.reading.read` does it, or if the process died.
        """
        self._start_all()
        try:
            process = self.idle.get(block=self.ready == cores())
        except Empty:
            # It has not started yet, or it cannot be started.
            return self._read_here(paths)
        if process is None:
            # The next thread that waits is told as well.
            self.idle.put(None)
            if self.closed:
                raise InputError("stopped")
            return self._read_here(paths)
        try:
            found = self._answers(process, paths)
        except (OSError, EOFError, ValueError) as error:
            if self.closed:
                raise InputError("stopped") from error
            # No thread may wait for a process that has ended.
            self.idle.put(None)
            names = f"{readable_name(paths[0])} or one of the {len(paths) - 1} photos after it"
            raise OutOfMemory(
                f"{names}: the process that read them ended with code {process.wait()}; if memory "
                "ran out, close other programs; then run the same command again; what was "
                "computed is kept"
            ) from error
        self.idle.put(process)
        return [
            item or reading.read(self.root, path, size=self.size)
            for path, item in zip(paths, found, strict=True)
        ]

    def _read_here(self, paths: Sequence[str]) -> list[LoadedPhoto]:
        return [reading.read(self.root, path, size=self.size) for path in paths]

    def _answers(
        self, process: subprocess.Popen[bytes], paths: Sequence[str]
    ) -> list[LoadedPhoto | None]:
        requests, output = cast(BinaryIO, process.stdin), cast(BufferedReader, process.stdout)
        requests.write(_line(paths))
        requests.flush()
        answers = json.loads(output.readline())
        decoded = sum(answer is not None and answer["decoded"] for answer in answers)
        pixels = iter(np.empty((decoded, self.size, self.size, 3), np.uint8))
        found: list[LoadedPhoto | None] = []
        for path, answer in zip(paths, answers, strict=True):
            photo = next(pixels) if answer and answer["decoded"] else None
            if photo is not None and output.readinto(photo.data) < photo.nbytes:
                raise EOFError
            found.append(
                answer
                and LoadedPhoto(
                    path, answer["digest"], photo, answer["reason"], tuple(answer["seconds"])
                )
            )
        return found

    def _start_all(self) -> None:
        """Start all processes at once, because photos are wanted in order and wait for each."""
        with self.lock:
            if self.starting:
                return
            self.starting = True
        for _ in range(cores()):
            threading.Thread(target=self._start, daemon=True).start()

    def _start(self) -> None:
        """Start a process, which takes half a second, and say when it is ready."""
        try:
            with self.lock:
                if self.closed:
                    return
                process = subprocess.Popen(
                    [sys.executable, "-c", START],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    # It finds the packages that this process finds.
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    pipesize=PIPE,
                )
                self.started.append(process)
            requests, output = cast(BinaryIO, process.stdin), cast(BufferedReader, process.stdout)
            requests.write(_line([os.getpid(), os.fspath(self.root), self.size]))
            requests.flush()
            if output.readline():
                self.idle.put(process)
                with self.lock:
                    self.ready += 1
        except (OSError, ValueError):
            # There are too many processes, or this one was ended while it started.
            return


def read_ahead(
    root: Path,
    paths: Sequence[str],
    *,
    size: int,
    batch_size: Callable[[], int],
    many: Callable[[], bool],
) -> Generator[LoadedPhoto, None, None]:
    """Yield every file in order; threads read the next ones, and processes as soon as it pays.

    Parameters
    ----------
    root : Path
    paths : sequence of str
    size : int
        Side of the squares in pixels.
    batch_size : callable
        Returns how many photos will be wanted together. It may change.
    many : callable
        Says whether the photos are wanted so fast that processes should read them.
    """
    most, processors = readers(root), cores()

    def read(chunk: list[str]) -> list[LoadedPhoto]:
        if len(chunk) > 1:
            return others.read(chunk)
        return [reading.read(root, path, size=size) for path in chunk]

    def limit() -> int:
        photos = reading.photos_ahead(batch_size(), size, most)
        return max(photos // CHUNK, 1) if many() else photos

    def workers() -> int:
        return processors if many() else most

    chunks = _chunks(paths, lambda: CHUNK if many() else 1)
    with (
        closing(ReaderProcesses(root, size)) as others,
        closing(threads.ahead(read, chunks, workers=workers, limit=limit)) as read_chunks,
    ):
        for chunk in read_chunks:
            yield from chunk


def serve() -> None:
    """Answer requests for photos from the standard input until it ends."""
    # Whoever started this process ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not get between the pixels.
    os.dup2(2, 1)
    parent, root, size = json.loads(requests.readline())
    processes.end_with(parent)
    memory.allow(max(memory.MOST // cores(), LEAST_SHARE))
    answers.write(b"\n")
    answers.flush()
    while request := requests.readline():
        _answer(answers, [_read(Path(root), path, size) for path in json.loads(request)])


def _answer(answers: BinaryIO, items: list[LoadedPhoto | None]) -> None:
    described: list[dict[str, Any] | None] = [
        item
        and {
            "digest": item.digest,
            "decoded": item.photo is not None,
            "reason": item.reason,
            "seconds": item.seconds,
        }
        for item in items
    ]
    answers.write(_line(described))
    for item in items:
        if item and item.photo is not None:
            answers.write(np.ascontiguousarray(item.photo).data)
    answers.flush()


def _read(root: Path, path: str, size: int) -> LoadedPhoto | None:
    """Read a file; None if the process that asked has to see for itself."""
    try:
        if (root / path).stat().st_size > files.BLOCK:
            return None
        return reading.read(root, path, size=size)
    except (InputError, OSError):
        return None


def _chunks(paths: Sequence[str], length: Callable[[], int]) -> Iterator[list[str]]:
    remaining = iter(paths)
    while chunk := list(islice(remaining, length())):
        yield chunk


def _line(content: Any) -> bytes:
    return json.dumps(content).encode() + b"\n"
