"""Whole runs that are killed, run out of disk or find damage: no data is lost or wrong."""

import errno
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest

from extract.store import shards
from extract.vgg16.recipe import TAPS
from tests import stand_in
from tests.conftest import write_photos
from tests.damage import flip, tap_offset

SHARD = 8
BATCH = 4
SETTINGS = {"shard_images": SHARD, "batch_size": BATCH}
IN_FLIGHT = 3 * BATCH
"""The batch that is computed, and two that wait to be written."""
pytestmark = pytest.mark.long

NOT_THE_SAME_TWICE = {"created", "seconds", "images_computed", "images_reused"}


def contents(path: Path) -> dict[str, Any]:
    """Return every dataset and lasting attribute of a features file, as bytes."""
    found: dict[str, Any] = {}

    def note(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            values = item.asstr()[:].tolist() if item.dtype == object else item[:].tobytes()
            found[name] = item.shape, str(item.dtype), values

    with h5py.File(path) as file:
        file.visititems(note)
        found |= {f"@{key}": file.attrs[key] for key in file.attrs if key not in NOT_THE_SAME_TWICE}
    return found


class Undisturbed(NamedTuple):
    photos: Path
    contents: dict[str, Any]
    seconds: float


def undisturbed(folder: Path, classes: dict[str, int], **settings: Any) -> Undisturbed:
    root = write_photos(folder / "pets", classes)
    stand_in.run(root, folder / "warm")
    started = time.monotonic()
    done, given = stand_in.run(root, folder / "out", **SETTINGS | settings)
    seconds = time.monotonic() - started
    assert (done.code, given) == (0, sum(classes.values())), done.err
    return Undisturbed(root, contents(published(folder / "out")), seconds)


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("forty")
    return undisturbed(folder, {"cats": 20, "dogs": 20}, seconds=0.02)


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(tmp_path_factory.mktemp("twelve"), {"cats": 6, "dogs": 6})


def published(out: Path) -> Path:
    return out / "features" / "pets.h5"


def shards_in(out: Path) -> list[Path]:
    folders = (path for path in (out / "features" / "cache").glob("*") if path.is_dir())
    return [shard for folder in folders for shard in shards.files(folder)]


def stored(out: Path) -> dict[str, tuple[bytes, ...]]:
    """Return the taps of every image in the cache; no shard may be damaged, no two may disagree."""
    found: dict[str, tuple[bytes, ...]] = {}
    for path in shards_in(out):
        shard = shards.read(path)
        for row, digest in enumerate(shard.digests):
            taps = tuple(shard.taps[tap][row].tobytes() for tap in TAPS)
            assert found.setdefault(digest, taps) == taps
    return found


def check(out: Path, whole: Undisturbed) -> int:
    """Check the files of a killed run; return how many images are in the cache."""
    if published(out).exists():
        assert contents(published(out)) == whole.contents
    return len(stored(out))


def finish(out: Path, whole: Undisturbed, kept: int, **settings: Any) -> None:
    """Run again to the end: what was kept is reused and the result is as if nothing had been."""
    total = len(whole.contents["path"][2])
    done, given = stand_in.run(whole.photos, out, **SETTINGS | settings)
    assert (done.code, given) == (0, total - kept), done.err
    assert "Traceback" not in done.err
    if given:
        assert f"{given} image{'s' * (given > 1)} computed (" in done.out
        assert f" {kept} reused" in done.out
    assert contents(published(out)) == whole.contents
    assert len(stored(out)) == total
    assert not [path for path in out.rglob("*") if path.suffix in (".tmp", ".damaged")]


def finish_a_copy(out: Path, whole: Undisturbed, kept: int) -> None:
    copy = out.with_name("copy")
    # A kill may come before the run has made its folder.
    out.mkdir(exist_ok=True)
    shutil.copytree(out, copy)
    finish(copy, whole, kept)
    shutil.rmtree(copy)


# Kills and signals


def test_15_kills_at_random_moments_lose_at_most_a_shard_and_the_batches_in_flight(
    forty: Undisturbed, tmp_path: Path
) -> None:
    chance = random.Random(25)
    out = tmp_path / "out"
    kept = kills = 0
    lengths = []
    while kills < 15:
        run = stand_in.start(forty.photos, out, seconds=0.02, **SETTINGS)
        time.sleep(chance.uniform(0, forty.seconds))
        run.kill()
        code = run.ended().code
        assert code in (0, -signal.SIGKILL)
        before, kept = kept, check(out, forty)
        again = len(run.computed()) - (kept - before)
        assert 0 <= again <= SHARD + IN_FLIGHT
        if code == 0:
            # The kill came too late, so start again.
            assert contents(published(out)) == forty.contents
            shutil.rmtree(out)
            kept = 0
            continue
        kills += 1
        lengths.append(kept)
        # The next kill hits what this one left.
        finish_a_copy(out, forty, kept)
    assert len(set(lengths)) > 3, "kills at one moment only prove little"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_at_random_moments_lose_at_most_the_batches_in_flight(
    number: signal.Signals, code: int, forty: Undisturbed, tmp_path: Path
) -> None:
    chance = random.Random(code)
    out = tmp_path / "out"
    stops = 0
    while stops < 7:
        before = check(out, forty)
        run = stand_in.start(forty.photos, out, seconds=0.02, **SETTINGS | {"shard_images": 12})
        run.until("pets: ", 0)
        time.sleep(chance.uniform(0, forty.seconds))
        run.kill(number)
        done = run.ended()
        kept = check(out, forty)
        assert "Traceback" not in done.err
        assert not list(out.rglob("*.tmp"))
        assert 0 <= len(run.computed()) - (kept - before) <= IN_FLIGHT
        if done.code == 0:
            assert kept == 40
            shutil.rmtree(out)
            continue
        stops += 1
        assert done.code == code, done
        assert done.err.splitlines()[-1].startswith("stopped; what was saved is kept")
        finish_a_copy(out, forty, kept)


KILL_AT = """
import os, signal, sys

seen = 0
fsync = os.fsync

def count():
    global seen
    seen += 1
    if seen == {nth}:
        os.kill(os.getpid(), signal.SIGKILL)

def hook(event, arguments):
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "sqlite3.connect"):
        if any(str(name).startswith({out!r}) for name in arguments):
            count()

def counted(descriptor):
    count()
    fsync(descriptor)

sys.addaudithook(hook)
os.fsync = counted
"""


def kill_at(nth: int, out: Path) -> str:
    """Return Python that kills its process at the nth time that it touches a file below `out`."""
    return KILL_AT.format(nth=nth, out=str(out))


def test_kill_at_every_second_touch_of_a_file(twelve: Undisturbed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = []
    for nth in range(1, 1000, 2):
        run = stand_in.start(
            twelve.photos, out, shard_images=4, batch_size=4, before=kill_at(nth, out)
        )
        code = run.ended().code
        kept = check(out, twelve)
        found.append((kept, published(out).exists()))
        assert len(run.computed()) - kept <= 4 + IN_FLIGHT
        finish(out, twelve, kept)
        shutil.rmtree(out)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert nth > 20
    assert {(0, False), (4, False), (8, False), (12, False), (12, True)} == set(found)


# Damage


@pytest.mark.parametrize("tap", ["block5_avg3x3", "block3_max"])
def test_damaged_tap_is_found_set_aside_and_computed_again(
    tap: str, twelve: Undisturbed, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    stand_in.run(twelve.photos, out, **SETTINGS)
    published(out).unlink()
    damaged = max(shards_in(out), key=lambda path: path.stat().st_size)
    flip(damaged, tap_offset(damaged, tap))
    content = damaged.read_bytes()
    done, given = stand_in.run(twelve.photos, out, **SETTINGS)
    assert (done.code, given) == (0, SHARD), done.err
    assert f"{damaged}: " in done.err
    assert "set aside" in done.err
    assert damaged.with_name(f"{damaged.name}.damaged").read_bytes() == content
    assert contents(published(out)) == twelve.contents
    assert len(stored(out)) == 12
    done, given = stand_in.run(twelve.photos, out, **SETTINGS)
    assert (done.code, given) == (0, 0)
    assert "set aside" not in done.err


def test_foreign_shard_is_set_aside(twelve: Undisturbed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stand_in.run(twelve.photos, out, **SETTINGS)
    folder = shards_in(out)[0].parent
    with h5py.File(folder / "mine.h5", "w") as file:
        file["mine"] = np.arange(3)
    done, given = stand_in.run(twelve.photos, out, **SETTINGS)
    assert (done.code, given) == (0, 0), done.err
    assert f"{folder / 'mine.h5'}: " in done.err
    assert (folder / "mine.h5.damaged").exists()
    assert "nothing to do" in done.out


# Full disks


LIMITS = [2_000, 9_000, 16_000, 24_000, 40_000, 100_000, 200_000, 290_000, 350_000, 450_000]


@pytest.mark.parametrize("limit", LIMITS)
def test_file_that_must_not_grow_is_one_line_and_keeps_what_was_computed(
    limit: int, twelve: Undisturbed, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done, _ = stand_in.run(twelve.photos, out, limit=limit, **SETTINGS)
    assert_told(done, errno.EFBIG)
    assert not published(out).exists()
    kept = check(out, twelve)
    assert kept in (0, 4, 8, 12)
    assert not list(out.rglob("*.tmp"))
    finish(out, twelve, kept)


def assert_told(done: stand_in.Done, number: int) -> None:
    assert done.code == 2, done
    assert "Traceback" not in done.err
    *others, last = done.err.splitlines()
    assert last.startswith("error: ")
    assert os.strerror(number) in last
    assert last.endswith("what was saved is kept")
    for line in others:
        assert "digests are not remembered" in line


def test_limits_hit_shards_and_publishing(twelve: Undisturbed, tmp_path: Path) -> None:
    """The limits above are chosen between the sizes of what is written."""
    stand_in.run(twelve.photos, tmp_path / "out", **SETTINGS)
    sizes = sorted(path.stat().st_size for path in shards_in(tmp_path / "out"))
    whole = published(tmp_path / "out").stat().st_size
    for low, high in [(0, sizes[0]), (sizes[-1], whole)]:
        assert any(low < limit < high for limit in LIMITS), (low, high, LIMITS)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Return a function that gives a disk of so many KiB, or changes its size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def sized(kilobytes: int) -> Path:
        nonlocal mounted
        options = f"size={kilobytes}k" + (",remount" if mounted else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no disk can be mounted here: {error}; only file sizes were limited")
        mounted = True
        return folder

    yield sized
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_at_every_write(
    disk: Callable[[int], Path], twelve: Undisturbed, tmp_path: Path
) -> None:
    ends = set()
    for kilobytes in range(4, 4000, 96):
        out = disk(kilobytes) / "out"
        logged = tmp_path / "logged"
        done, _ = stand_in.run(twelve.photos, out, log_folder=logged, **SETTINGS)
        kept = check(out, twelve)
        ends.add((done.code, kept))
        if done.code == 0:
            break
        assert_told(done, errno.ENOSPC)
        assert not published(out).exists()
        assert not list(out.rglob("*.tmp"))
        disk(100_000)
        finish(out, twelve, kept, log_folder=logged)
        shutil.rmtree(out)
    assert ends == {(2, 0), (2, 8), (2, 12), (0, 12)}
