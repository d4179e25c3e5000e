"""Processes read photos as this process would, and none of their troubles goes unnoticed."""

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from extract.compute import reader_processes, reading
from extract.compute.reader_processes import ReaderProcesses
from extract.compute.reading import LoadedPhoto
from extract.system.console import InputError
from extract.system.machine import cores
from extract.system.memory import OutOfMemory

SIZE = 32

DYING = """
import os, sys
os.write(1, b"\\n")
sys.stdin.readline()
sys.stdin.readline()
os._exit(9)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(20):
        pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.jpg")
    (folder / "20 \udcff.jpg").write_bytes((folder / "03.jpg").read_bytes())
    (folder / "21.jpg").write_bytes((folder / "03.jpg").read_bytes()[:300])
    (folder / "22.jpg").write_text("no photo")
    return folder


@pytest.fixture
def processes(root: Path) -> Iterator[ReaderProcesses]:
    with closing(ReaderProcesses(root, SIZE)) as found:
        yield found


def ready(processes: ReaderProcesses) -> None:
    """Start the processes and wait until all of them can read."""
    processes.read(["00.jpg"])
    deadline = time.monotonic() + 20
    while processes.ready < cores():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def same(one: LoadedPhoto, other: LoadedPhoto) -> bool:
    return (one.path, one.digest, one.reason) == (other.path, other.digest, other.reason) and (
        np.array_equal(one.photo, other.photo)
        if one.photo is not None and other.photo is not None
        else one.photo is other.photo
    )


def test_processes_give_what_threads_give_in_the_same_order(root: Path) -> None:
    paths = [*sorted(path.name for path in root.iterdir()), "missing.jpg"]
    wants_many = iter([False] * 4)
    found = list(
        reader_processes.read_ahead(
            root,
            paths,
            size=SIZE,
            batch_size=lambda: 16,
            many=lambda: next(wants_many, True),
        )
    )
    assert len(found) == 24
    assert all(map(same, found, (reading.read(root, path, size=SIZE) for path in paths)))
    assert sum(item.photo is None for item in found) == 3


def test_a_photo_that_a_process_refuses_is_read_by_the_one_that_asked(
    root: Path, processes: ReaderProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        reader_processes,
        "START",
        "from extract.compute import reader_processes as started; started.LEAST_SHARE = 1000;"
        "started.cores = lambda: 10**9; started.serve()",
    )
    ready(processes)
    here: list[str] = []
    read = reading.read

    def noting(root: Path, path: str, *, size: int) -> LoadedPhoto:
        here.append(path)
        return read(root, path, size=size)

    monkeypatch.setattr(reading, "read", noting)
    (found,) = processes.read(["05.jpg"])
    assert here == ["05.jpg"]
    assert same(found, read(root, "05.jpg", size=SIZE))


def test_a_process_that_dies_is_named_by_its_photos(
    processes: ReaderProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_processes, "START", DYING)
    ready(processes)
    with pytest.raises(InputError, match=r"05.jpg or one of the 1 photos after it: .* code 9"):
        processes.read(["05.jpg", "06.jpg"])


def test_no_thread_waits_for_processes_that_have_died(
    root: Path, processes: ReaderProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_processes, "START", DYING)
    ready(processes)
    with ThreadPoolExecutor(cores() + 3) as pool:
        asked = [pool.submit(processes.read, ["05.jpg"]) for _ in range(cores() + 3)]
        errors = [reads.exception(timeout=10) for reads in asked]
    assert sum(isinstance(error, OutOfMemory) for error in errors) == cores()
    expected = reading.read(root, "05.jpg", size=SIZE)
    others = [reads for reads, error in zip(asked, errors, strict=True) if error is None]
    assert len(others) == 3
    assert all(same(reads.result()[0], expected) for reads in others)


def test_processes_end_with_the_reading(root: Path) -> None:
    with closing(ReaderProcesses(root, SIZE)) as processes:
        ready(processes)
        processes.read(["01.jpg", "02.jpg"])
    deadline = time.monotonic() + 5
    while any(process.poll() is None for process in processes.started):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_more_threads_than_processes_wait_for_one_until_the_reading_ends(
    root: Path, processes: ReaderProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = "import os, time; os.write(1, b'\\n'); time.sleep(100)"
    monkeypatch.setattr(reader_processes, "START", start)
    ready(processes)
    monkeypatch.delattr(reading, "read")
    with ThreadPoolExecutor(cores() + 2) as pool:
        asked = [pool.submit(processes.read, ["05.jpg"]) for _ in range(cores() + 2)]
        time.sleep(0.2)
        assert not any(reads.done() for reads in asked)
        processes.close()
        assert all("stopped" in str(reads.exception(timeout=5)) for reads in asked)


def test_files_are_read_without_processes_that_cannot_start(
    root: Path, processes: ReaderProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise BlockingIOError("there are too many processes")

    monkeypatch.setattr(subprocess, "Popen", full)
    (found,) = processes.read(["05.jpg"])
    assert same(found, reading.read(root, "05.jpg", size=SIZE))


def test_processes_that_are_still_starting_end_with_the_reading(root: Path) -> None:
    with closing(ReaderProcesses(root, SIZE)) as processes:
        processes.read(["01.jpg"])
    deadline = time.monotonic() + 5
    while any(process.poll() is None for process in processes.started):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not processes.ready
