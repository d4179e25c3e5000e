import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from extract.store import features_file
from extract.system import lock
from tests import stand_in
from tests.conftest import CHECKOUT, MakePhotos

HOLD = """
import sys, time
from pathlib import Path
from extract.system import lock

with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(path: Path, seconds: float) -> subprocess.Popen[str]:
    """Start a process that holds the lock for so long; return when it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), str(seconds)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_lock_says_who_holds_it(tmp_path: Path) -> None:
    with lock.held(tmp_path / "cache" / "lock"):
        record = json.loads((tmp_path / "cache" / "lock").read_text())
    assert record["pid"] == os.getpid()
    assert record["host"] == socket.gethostname()
    assert record["since"].endswith("+00:00")


def test_waiting_names_the_holder_and_then_holds(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    process = holder(tmp_path / "lock", 60)
    threading.Timer(0.5, process.kill).start()
    with lock.held(tmp_path / "lock"):
        assert process.wait(timeout=20) == -signal.SIGKILL
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1
    assert f"held by process {process.pid} on {socket.gethostname()} since 2" in err


def test_lock_of_a_dead_holder_is_free(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    process = holder(tmp_path / "lock", 60)
    process.kill()
    process.wait()
    assert json.loads((tmp_path / "lock").read_text())["pid"] == process.pid
    with lock.held(tmp_path / "lock"):
        pass
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'"pid"', b'{"pid": 1}'])
def test_lock_file_with_odd_content_is_waited_for_all_the_same(
    content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    process = holder(tmp_path / "lock", 60)
    (tmp_path / "lock").write_bytes(content)
    threading.Timer(0.5, process.kill).start()
    with lock.held(tmp_path / "lock"):
        pass
    assert "held by another process; waiting" in capfd.readouterr().err
    process.wait(timeout=20)


def test_lock_is_released_when_the_block_raises(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyError), lock.held(tmp_path / "lock"):
        raise KeyError
    with lock.held(tmp_path / "lock"):
        pass
    assert capfd.readouterr().err == ""


# Whole runs


def test_second_run_on_a_store_waits_and_computes_what_is_left(
    photos: MakePhotos, tmp_path: Path
) -> None:
    root, out = photos({"cats": 8, "dogs": 8}), tmp_path / "out"
    birds = photos({"cats": 8, "owls": 12}, name="birds")
    settings = {"shard_images": 4, "batch_size": 4, "seconds": 0.1}
    first = stand_in.start(root, out, **settings)
    first.until("weights:", 0)
    first.kill(signal.SIGSTOP)
    second = stand_in.start(root, out, **settings)
    other = stand_in.start(birds, out, **settings)
    for run in (second, other):
        run.until("waiting until it is done")
    first.kill(signal.SIGCONT)
    ends = [run.ended() for run in (first, second, other)]
    assert [done.code for done in ends] == [0, 0, 0], ends
    assert f"held by process {first.pid} on " in ends[1].err
    # 16 pictures are the same in both data sets.
    computed = Counter(first.computed() + second.computed() + other.computed())
    assert len(computed) == 20
    assert set(computed.values()) == {1}
    assert len(first.computed()) == 16
    assert second.computed() == []
    for name, n in (("pets", 16), ("birds", 20)):
        with features_file.open(out / "features" / f"{name}.h5") as features:
            assert len(features.paths) == n


def test_killed_run_leaves_no_lock(photos: MakePhotos, tmp_path: Path) -> None:
    root, out = photos(), tmp_path / "out"
    killed = stand_in.start(root, out, wait_after=0)
    killed.until(stand_in.WAITING)
    killed.kill()
    assert killed.ended().code == -signal.SIGKILL
    assert json.loads((out / "features/cache/lock").read_text())["pid"] == killed.pid
    done, given = stand_in.run(root, out)
    assert (done.code, given) == (0, 12)
    assert "held" not in done.err


def test_waiting_run_can_be_stopped(photos: MakePhotos, tmp_path: Path) -> None:
    root, out = photos(), tmp_path / "out"
    first = stand_in.start(root, out, wait_after=0)
    first.until(stand_in.WAITING)
    second = stand_in.start(root, out)
    second.until("waiting until it is done")
    second.kill(signal.SIGINT)
    assert second.ended().code == 130
    first.kill(signal.SIGTERM)
    assert first.ended().code == 143


@pytest.mark.parametrize("name", ["verify", "gc"])
def test_verify_and_gc_wait_for_a_run(name: str, photos: MakePhotos, tmp_path: Path) -> None:
    root, out = photos(), tmp_path / "out"
    first = stand_in.start(root, out, seconds=0.3)
    first.until("weights:", 0)
    first.kill(signal.SIGSTOP)
    second = stand_in.Run([name, "--out", str(out)], tmp_path / f"{name}.log")
    second.until(f"held by process {first.pid} on ")
    first.kill(signal.SIGCONT)
    assert first.ended().code == 0
    assert second.ended().code == 0
    assert "12 images" in second.ended().out
