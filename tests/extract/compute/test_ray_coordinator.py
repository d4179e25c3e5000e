"""Extraction on a cluster of two Ray nodes on this machine, with a stand-in for VGG16."""

import hashlib
import os
import re
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from upath import UPath

from extract import build
from extract.compute import pipeline, ray_coordinator
from extract.compute.digest_set import DigestSet
from extract.compute.job import Job
from extract.compute.ray_coordinator import (
    MAX_LOSSES,
    Task,
    WorkerHandle,
    halve,
    make_tasks,
    plan_workers,
)
from extract.compute.ray_worker import Worker
from extract.engines import selection
from extract.engines.base import Engine
from extract.photos import decode, hashes, scan
from extract.store import features_file, shard_index, shards
from extract.system import console
from extract.system.console import InputError
from extract.vgg16.recipe import TAPS, recipe
from extract.vgg16.weights import Weights
from tests.conftest import MakePhotos, picture
from tests.stand_in import values

if TYPE_CHECKING:
    # Every process of the cluster imports this file, and the store would cost it 0.3 s.
    from tests.object_store import ObjectStore

pytestmark = pytest.mark.long

WEIGHTS = Weights([], "f" * 64, "stand-in")


class Quick(Worker):
    """A worker with a stand-in for VGG16, which obeys files beside the shard folder."""

    def find_problem(self, marker: Path | None) -> str:
        if marker:
            (marker.parent.parent / f"{os.getpid()}.here").touch()
        return super().find_problem(marker)

    def _engine(self, photos: NDArray[np.uint8]) -> Engine:
        orders = self.job.shard_folder.parent

        def forward(photos: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
            time.sleep(0.02)
            if (orders / "slowly").exists():
                time.sleep(0.3)
            if (orders / "deadly").exists():
                deadly = np.load(orders / "deadly")
                if any(np.array_equal(photo, deadly) for photo in photos):
                    os._exit(1)
            return values(photos)

        if (orders / "no engine").exists():
            raise InputError("--engine mnn: MNN is not installed")
        return Engine("stand-in", forward)


@pytest.fixture
def on(machines: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the value of --on for the cluster, whose workers have a stand-in for VGG16."""
    monkeypatch.setenv("RAY_ADDRESS", machines.address)
    monkeypatch.setattr(ray_coordinator, "Worker", Quick)
    monkeypatch.setattr(build.weights, "load", lambda *a, **k: WEIGHTS)
    monkeypatch.setattr(selection, "choose", lambda *a, **k: Engine("stand-in", values))
    monkeypatch.setattr(ray_coordinator, "POLL_SECONDS", 0.05)
    return "ray"


def content(file: Path) -> dict[str, Any]:
    """Return the content of a features file without times and durations."""
    with h5py.File(file) as opened:
        found = {name: opened[name][:] for name in ("path", "digest", "label", "split")}
        found |= {tap: opened[f"taps/{tap}"][:] for tap in TAPS}
        found |= {name: opened[name][:] for name in ("skipped/path", "skipped/reason", "near/row")}
        found |= {name: opened.attrs[name] for name in ("data_digest", "images_computed", "root")}
    return found


def assert_equal(one: Path, other: Path) -> None:
    theirs = content(other)
    for name, ours in content(one).items():
        np.testing.assert_array_equal(ours, theirs[name], err_msg=name)


def made(root: Path, out: Path, on: str | None = None) -> Path:
    build.build(str(root), build.Options(out=out, on=on))
    return features_file.file_of(str(root), out)


def computing(
    root: Path, out: Path, *, on: str = "ray", advance: Any = lambda n, name: None
) -> Any:
    """Compute all photos of a folder on the cluster, without publishing."""
    made_by = recipe(WEIGHTS.digest)
    folder = shards.folder_of(out, made_by)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [photo.path for photo in scan.labelled_photos(root).photos]
    job = Job(root, WEIGHTS, made_by, folder, folder, "auto")
    return ray_coordinator.compute(job, paths, on=on, advance=advance)


def test_a_cluster_publishes_what_one_machine_does(
    on: str,
    photos: MakePhotos,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = photos({"cats": 40, "dogs": 41})
    (root / "cats/broken.jpg").write_bytes((root / "cats/000.png").read_bytes()[:300])
    (root / "dogs/none.jpg").write_bytes(b"")
    for copy in ("a.png", "z.png"):
        shutil.copy(root / "cats/000.png", root / "cats" / copy)
    for photo in root.rglob("*.*"):
        os.utime(photo, (1_500_000_000, 1_500_000_000))
    here = made(root, tmp_path / "here")
    told = capfd.readouterr().err
    # Photos are read and hashed by the workers alone.
    monkeypatch.setattr(build, "HASHED_HERE", 0)
    monkeypatch.delattr(hashes.Files, "read")
    there = made(root, tmp_path / "there", on)
    assert_equal(here, there)
    out, err = capfd.readouterr()
    assert err == told
    assert "VGG16: 81 images computed" in out
    workers = next(line for line in out.splitlines() if line.startswith("photos/s: "))
    # The second worker may have started too late to get a task.
    assert workers.count("-0 ") in (1, 2)
    # Nothing is left to read or to compute, so no cluster is contacted.
    monkeypatch.undo()
    monkeypatch.setattr(build, "HASHED_HERE", 0)
    monkeypatch.setattr(build.weights, "load", lambda *a, **k: WEIGHTS)
    (root / "cats/broken.jpg").unlink()
    (root / "dogs/none.jpg").unlink()
    made(root, tmp_path / "there", "ray://nobody:1")
    assert "VGG16: " not in capfd.readouterr().out


def test_other_machines_compute_the_task_of_a_lost_one(
    on: str, machines: Any, photos: MakePhotos, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = photos({"cats": 150, "dogs": 150})
    node = machines.add_node(num_cpus=1)
    orders = tmp_path / "out/features/cache"
    orders.mkdir(parents=True)
    (orders / "slowly").touch()
    lost = []

    def advance(n: int, name: str) -> None:
        nonlocal node
        # No worker gets another task before the third machine has a worker, too.
        late = time.monotonic() + 60
        while len(list(orders.glob("*.here"))) < 3 and time.monotonic() < late:
            time.sleep(0.05)
        if n > 0 and node and f"-{node.node_id[:4]}-" in name:
            machines.remove_node(node, allow_graceful=False)
            lost.append(name)
            node = None

    done = computing(root, tmp_path / "out", advance=advance)
    assert len(lost) == 1
    assert len(done.digests) == 300
    assert not done.unreadable
    made_by = recipe(WEIGHTS.digest)
    kept = shard_index.read(shards.folder_of(tmp_path / "out", made_by), made_by)
    assert set(done.digests.values()) == kept.keys()
    told = capfd.readouterr().err
    assert f"lost: {lost[0]}" in told
    assert re.search(r"another worker computes its \d+ photos", told)


def test_a_photo_that_ends_every_process_is_skipped(
    on: str, photos: MakePhotos, tmp_path: Path
) -> None:
    root = photos({"cats": 20, "dogs": 20})
    orders = tmp_path / "out/features/cache"
    orders.mkdir(parents=True)
    np.save(orders / "deadly.npy", decode.square(picture(7), size=224))
    (orders / "deadly.npy").rename(orders / "deadly")
    done = computing(root, tmp_path / "out")
    assert done.unreadable == {
        "cats/007.png": f"ended the process that read it, {MAX_LOSSES} times"
    }
    assert len(done.digests) == 39


def test_a_stop_keeps_what_was_computed(on: str, photos: MakePhotos, tmp_path: Path) -> None:
    root = photos({"cats": 200, "dogs": 200})
    orders = tmp_path / "out/features/cache"
    orders.mkdir(parents=True)
    (orders / "slowly").touch()
    seen = 0

    def advance(n: int, name: str) -> None:
        nonlocal seen
        seen += n
        if seen >= 64:
            raise console.Stopped(2)

    with pytest.raises(console.Stopped):
        computing(root, tmp_path / "out", advance=advance)
    made_by = recipe(WEIGHTS.digest)
    kept = shard_index.read(shards.folder_of(tmp_path / "out", made_by), made_by)
    assert seen <= len(kept) < 400


def test_machines_may_share_nothing_but_a_store(
    on: str, photos: MakePhotos, tmp_path: Path, s3: "ObjectStore"
) -> None:
    known = s3.environment
    options = {
        "key": known["AWS_ACCESS_KEY_ID"],
        "secret": known["AWS_SECRET_ACCESS_KEY"],
        "endpoint_url": known["AWS_ENDPOINT_URL_S3"],
    }
    root = photos()
    made_by = recipe(WEIGHTS.digest)
    folder = UPath("s3://bucket/shared/recipe", **options)
    photos_at_url = UPath(s3.upload(root, "pets"), **options)
    job = Job(photos_at_url, WEIGHTS, made_by, folder, tmp_path / "of nobody else", "auto")
    paths = [photo.path for photo in scan.labelled_photos(root).photos]
    done = ray_coordinator.compute(job, paths, on=on, advance=lambda n, name: None)
    assert len(done.digests) == 12
    assert shard_index.read(folder, made_by).keys() == set(done.digests.values())


def test_engines_are_kept_where_the_machine_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Path] = []
    monkeypatch.setattr(selection, "choose", lambda *a, folder, outputs: kept.append(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for own in (tmp_path / "elsewhere/recipe", tmp_path):
        worker = Worker(Job(tmp_path, WEIGHTS, recipe("f" * 64), tmp_path, own, "auto"), 1)
        worker._engine(np.zeros((1, 224, 224, 3), np.uint8))
    assert kept == [tmp_path / "home/onepass/recipe", tmp_path]


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """Return a worker in this process, for the folder of `photos`."""
    made_by = recipe(WEIGHTS.digest)
    folder = tmp_path / "cache"
    folder.mkdir()
    return Worker(Job(tmp_path / "pets", WEIGHTS, made_by, folder, folder, "auto"), 1)


def test_a_worker_reads_the_next_task_while_it_computes(
    worker: Worker, photos: MakePhotos, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = photos({"cats": 20, "dogs": 20})
    read, computed = set[str](), list[int]()
    dogs_are_read, cats_are_given = threading.Event(), threading.Event()
    read_one = pipeline.read

    def note(root: Path, path: str, **options: Any) -> pipeline.LoadedPhoto:
        item = read_one(root, path, **options)
        read.add(path)
        if sum(path.startswith("dogs") for path in read) == 20:
            dogs_are_read.set()
        return item

    def forward(photos: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        cats_are_given.set()
        assert dogs_are_read.wait(30)
        computed.append(len(photos))
        return values(photos)

    monkeypatch.setattr(pipeline, "read", note)
    worker.engine = Engine("stand-in", forward)
    answers = {}

    def compute(name: str) -> None:
        paths = [path.relative_to(root).as_posix() for path in sorted((root / name).iterdir())]
        answers[name] = worker.compute(paths)[0]

    threads = [threading.Thread(target=compute, args=(name,)) for name in ("cats", "dogs")]
    threads[0].start()
    assert cats_are_given.wait(30)
    assert not dogs_are_read.is_set()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert computed == [16, 4, 16, 4], "the tasks are computed one after the other"
    assert [len(answers[name].digests) for name in ("cats", "dogs")] == [20, 20]
    kept = shard_index.read(worker.job.shard_folder, worker.job.recipe)
    assert len(kept) == 40
    assert len({row.shard for row in kept.values()}) == 2


def test_a_worker_that_is_stopped_does_not_begin_the_task_that_waits(
    worker: Worker, photos: MakePhotos
) -> None:
    photos()
    worker.engine = Engine("stand-in", values)
    worker.stop()
    computed, _ = worker.compute(["cats/000.png"])
    assert computed.digests == {}
    assert shards.files(worker.job.shard_folder) == []
    assert not worker.turn.locked()


def test_a_worker_computes_no_known_photo_and_no_copy(worker: Worker, photos: MakePhotos) -> None:
    root = photos()
    shutil.copy(root / "cats/001.png", root / "dogs/copy.png")
    digests = {
        name: hashlib.sha256((root / name).read_bytes()).hexdigest()
        for name in ("cats/000.png", "cats/001.png", "dogs/copy.png")
    }
    worker.known.before = DigestSet([digests["cats/000.png"]])
    worker.engine = Engine("stand-in", values)
    first, _ = worker.compute(["cats/000.png", "cats/001.png"])
    second, _ = worker.compute(["dogs/copy.png"])
    assert first.digests == {"cats/001.png": digests["cats/001.png"]}
    assert first.others == {"cats/000.png": digests["cats/000.png"]}
    assert (second.digests, second.others) == ({}, {"dogs/copy.png": digests["dogs/copy.png"]})
    assert not first.unreadable | second.unreadable


def test_every_digest_of_a_set_is_found_and_no_other() -> None:
    digests = [hashlib.sha256(bytes([i])).hexdigest() for i in range(200)]
    # NumPy cuts zeros off the end of bytes.
    digests += ["00" * 32, "ab" * 31 + "00", "ff" * 32]
    known = DigestSet(digests[::2])
    assert [digest in known for digest in digests] == [i % 2 == 0 for i in range(len(digests))]
    assert "ab" * 32 not in known
    assert digests[0] not in DigestSet([])


def test_a_task_that_lost_a_worker_has_the_next_to_itself() -> None:
    worker = WorkerHandle("", "", None, None, None, ready=True)
    good, suspect = Task(["a"]), Task(["b"], losses=1)
    assert worker.may_take(good)
    assert worker.may_take(suspect)
    worker.tasks = {1: good}
    assert worker.may_take(good)
    assert not worker.may_take(suspect)
    worker.tasks = {1: suspect}
    assert not worker.may_take(good)
    worker.tasks = {1: good, 2: good}
    assert not worker.may_take(good)


def test_a_class_that_is_too_small_is_refused_before_a_cluster_is_contacted(
    photos: MakePhotos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build.weights, "load", lambda *a, **k: WEIGHTS)
    monkeypatch.setattr(build, "HASHED_HERE", 0)
    root = photos({"cats": 6, "dogs": 2})
    with pytest.raises(InputError, match="class 'dogs' has 2 distinct usable photos"):
        made(root, tmp_path / "out", "ray://no.such.host.invalid:1")
    # Only reading would show that the third one is a copy.
    shutil.copy(root / "dogs/000.png", root / "dogs/copy.png")
    with pytest.raises(InputError, match="nobody answers"):
        made(root, tmp_path / "out", "ray://no.such.host.invalid:1")


def test_a_problem_on_a_machine_is_reported(on: str, photos: MakePhotos, tmp_path: Path) -> None:
    root = photos()
    orders = tmp_path / "out/features/cache"
    orders.mkdir(parents=True)
    (orders / "no engine").touch()
    with pytest.raises(InputError, match=r"-0: --engine mnn: MNN is not installed$"):
        computing(root, tmp_path / "out")


def test_a_machine_without_the_photos_or_the_shard_folder_has_a_problem(tmp_path: Path) -> None:
    marker = tmp_path / "cache/marker"
    folder = marker.parent
    job = Job(tmp_path / "pets", WEIGHTS, recipe("f" * 64), folder, folder, "auto")
    worker = Worker(job, 1)
    assert f"there is no folder {tmp_path}/pets" in worker.find_problem(None)
    job.root.mkdir()
    assert f"{folder} is not the same folder" in worker.find_problem(marker)
    folder.mkdir()
    assert f"{folder} is not the same folder" in worker.find_problem(marker)
    marker.touch()
    assert worker.find_problem(marker) == ""
    assert worker.find_problem(None) == ""


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"CPU": 2.0}, [(2, 0)]),
        ({"CPU": 8.0, "memory": 1e9}, [(8, 0)]),
        ({"CPU": 12.0}, [(6, 0), (6, 0)]),
        ({"CPU": 16.0, "GPU": 2.0}, [(8, 1), (8, 1)]),
        ({"CPU": 1.0, "GPU": 2.0}, [(1, 1), (1, 1)]),
        ({"memory": 1e9}, []),
    ],
)
def test_a_worker_has_a_gpu_or_some_cores(
    resources: dict[str, float], expected: list[tuple[int, int]]
) -> None:
    assert [tuple(worker) for worker in plan_workers(resources)] == expected


def test_every_photo_is_in_one_task() -> None:
    paths = [str(i) for i in range(10_000)]
    for n in (1, 5, 23, 24, 10_000):
        for workers in (1, 3, 100):
            tasks = make_tasks(paths[:n], workers)
            assert [path for task in tasks for path in task.paths] == paths[:n]
            assert max(len(task.paths) for task in tasks) <= shards.SHARD_IMAGES
            assert len(tasks) >= min(n, workers)
    halves = halve(Task(paths[:5], MAX_LOSSES))
    assert [len(half.paths) for half in halves] == [2, 3]
    assert [path for half in halves for path in half.paths] == paths[:5]
