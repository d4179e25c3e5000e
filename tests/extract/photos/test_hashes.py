import hashlib
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from upath import UPath

from extract.photos import files, hashes
from extract.system import locations
from tests.conftest import CHECKOUT
from tests.object_store import ObjectStore

LONG_AGO = 1_600_000_000_000_000_000
Written = Callable[..., str]

PROGRAM = """
import sys
from pathlib import Path
from extract.photos.hashes import of_files
root, index, times = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
paths = sorted(path.name for path in root.iterdir())
print("begun", flush=True)
for _ in range(times):
    found = of_files(root, paths, index=index, rehash=True)
print(len(found))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "features" / "cache" / "digests.sqlite"


@pytest.fixture
def write(root: Path) -> Written:
    """Return a function that writes a file with a time stamp of long ago, and gives its name."""

    def written(name: str, content: bytes, *, mtime_ns: int = LONG_AGO) -> str:
        file = root / name
        file.write_bytes(content)
        os.utime(file, ns=(mtime_ns, mtime_ns))
        return name

    return written


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that notes the name of every file that is really hashed."""
    names: list[str] = []
    hash_file = hashes._hash_file

    def noting(path: str) -> tuple[str, hashes.Stamp]:
        names.append(os.path.basename(path))
        return hash_file(path)

    monkeypatch.setattr(hashes, "_hash_file", noting)
    return names


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def truth(root: Path) -> dict[str, str]:
    return {file.name: sha256(file.read_bytes()) for file in sorted(root.iterdir())}


def remembered(index: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(index) as db:
        rows = db.execute("SELECT path, digest FROM files ORDER BY path").fetchall()
    db.close()
    return [(os.fsdecode(path), digest.hex()) for path, digest in rows]


def test_only_unknown_files_are_hashed(
    root: Path, index: Path, write: Written, hashed: list[str]
) -> None:
    names = [write(f"{i}.jpg", b"%d" % i) for i in range(600)]
    done: list[int] = []
    first = hashes.of_files(root, names, index=index, advance=done.append)
    assert first == {f"{i}.jpg": sha256(b"%d" % i) for i in range(600)}
    assert list(first) == names
    assert sorted(hashed) == sorted(names)
    assert sum(done) == 600

    hashed.clear()
    write("new.jpg", b"new")
    write("7.jpg", b"other")
    done.clear()
    again = hashes.of_files(root, [*names, "new.jpg"], index=index, advance=done.append)
    assert again == first | {"new.jpg": sha256(b"new"), "7.jpg": sha256(b"other")}
    assert sorted(hashed) == ["7.jpg", "new.jpg"]
    assert sum(done) == 601


def test_the_index_is_one_file(root: Path, index: Path, write: Written) -> None:
    hashes.of_files(root, [write("a.jpg", b"a")], index=index)
    assert [file.name for file in index.parent.iterdir()] == [index.name]


def test_a_file_replaced_by_one_of_equal_size_and_time_is_hashed(
    root: Path, index: Path, write: Written, hashed: list[str]
) -> None:
    write("a.jpg", b"old")
    hashes.of_files(root, ["a.jpg"], index=index)
    write("other", b"new")
    os.replace(root / "other", root / "a.jpg")
    assert (root / "a.jpg").stat().st_mtime_ns == LONG_AGO
    assert hashes.of_files(root, ["a.jpg"], index=index) == {"a.jpg": sha256(b"new")}
    assert hashed == ["a.jpg", "a.jpg"]


def test_a_file_rewritten_in_place_is_hashed(root: Path, index: Path, write: Written) -> None:
    write("a.jpg", b"old")
    hashes.of_files(root, ["a.jpg"], index=index)
    inode = (root / "a.jpg").stat().st_ino
    write("a.jpg", b"new", mtime_ns=LONG_AGO + 1)
    assert (root / "a.jpg").stat().st_ino == inode
    assert hashes.of_files(root, ["a.jpg"], index=index) == {"a.jpg": sha256(b"new")}


def test_putting_the_time_stamp_back_after_rewriting_hides_nothing(
    root: Path, index: Path, write: Written
) -> None:
    write("a.jpg", b"old")
    hashes.of_files(root, ["a.jpg"], index=index)
    before = (root / "a.jpg").stat()
    # The kernel's clock for time stamps ticks every few milliseconds.
    time.sleep(0.05)
    write("a.jpg", b"new")
    after = (root / "a.jpg").stat()
    assert (before.st_ino, before.st_size, before.st_mtime_ns) == (
        after.st_ino,
        after.st_size,
        after.st_mtime_ns,
    )
    assert hashes.of_files(root, ["a.jpg"], index=index) == {"a.jpg": sha256(b"new")}


@pytest.mark.parametrize("seconds", [-1, 0, 3600])
def test_a_file_of_now_or_of_the_future_is_not_remembered(
    root: Path, index: Path, write: Written, hashed: list[str], seconds: float
) -> None:
    mtime_ns = time.time_ns() + int(seconds * 1e9)
    write("a.jpg", b"old", mtime_ns=mtime_ns)
    assert hashes.of_files(root, ["a.jpg"], index=index) == {"a.jpg": sha256(b"old")}
    assert remembered(index) == []
    # A disk that counts whole seconds, or two, gives the second write the same stamp.
    write("a.jpg", b"new", mtime_ns=mtime_ns)
    assert hashes.of_files(root, ["a.jpg"], index=index) == {"a.jpg": sha256(b"new")}
    assert hashed == ["a.jpg", "a.jpg"]


def test_a_racy_file_loses_the_entry_it_had(root: Path, index: Path, write: Written) -> None:
    write("a.jpg", b"old")
    hashes.of_files(root, ["a.jpg"], index=index)
    write("a.jpg", b"new", mtime_ns=time.time_ns())
    hashes.of_files(root, ["a.jpg"], index=index)
    assert remembered(index) == []


def test_a_file_is_remembered_once_its_time_is_past(
    root: Path, index: Path, write: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns()
    write("a.jpg", b"a", mtime_ns=now)
    hashes.of_files(root, ["a.jpg"], index=index)
    assert remembered(index) == []
    monkeypatch.setattr(time, "time_ns", lambda: now + hashes.RACY_NS)
    hashes.of_files(root, ["a.jpg"], index=index)
    assert remembered(index) == []
    monkeypatch.setattr(time, "time_ns", lambda: now + hashes.RACY_NS + 1)
    hashes.of_files(root, ["a.jpg"], index=index)
    assert remembered(index) == [("a.jpg", sha256(b"a"))]


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    root: Path, index: Path, write: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.jpg", b"old")
    digest = files.digest

    def disturbed(read: locations.Read) -> str:
        result = digest(read)
        write("a.jpg", b"newer", mtime_ns=LONG_AGO + 1)
        return result

    monkeypatch.setattr(files, "digest", disturbed)
    hashes.of_files(root, ["a.jpg"], index=index)
    monkeypatch.undo()
    assert remembered(index) == []
    assert hashes.of_files(root, ["a.jpg"], index=index) == {"a.jpg": sha256(b"newer")}


def test_renamed_and_copied_files_have_their_own_digest(
    root: Path, index: Path, write: Written
) -> None:
    write("a.jpg", b"a")
    write("b.jpg", b"b")
    hashes.of_files(root, ["a.jpg", "b.jpg"], index=index)
    (root / "a.jpg").rename(root / "c.jpg")
    (root / "b.jpg").rename(root / "a.jpg")
    os.link(root / "c.jpg", root / "b.jpg")
    write("d.jpg", b"a")
    found = hashes.of_files(root, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], index=index)
    assert found == truth(root)


def test_a_link_that_points_elsewhere_is_followed(
    root: Path, index: Path, write: Written, tmp_path: Path
) -> None:
    write("a.jpg", b"a")
    write("b.jpg", b"b")
    (root / "link.jpg").symlink_to("a.jpg")
    hashes.of_files(root, ["link.jpg"], index=index)
    (root / "link.jpg").unlink()
    (root / "link.jpg").symlink_to("b.jpg")
    assert hashes.of_files(root, ["link.jpg"], index=index) == {"link.jpg": sha256(b"b")}


def test_entries_of_files_that_are_gone_are_dropped_under_their_root_alone(
    root: Path, index: Path, write: Written, tmp_path: Path, hashed: list[str]
) -> None:
    names = [write("a.jpg", b"a"), write("b.jpg", b"b")]
    other = tmp_path / "photos2"
    other.mkdir()
    (other / "a.jpg").write_bytes(b"other")
    os.utime(other / "a.jpg", ns=(LONG_AGO, LONG_AGO))
    hashes.of_files(root, names, index=index)
    hashes.of_files(other, ["a.jpg"], index=index)
    hashed.clear()
    # A manifest may name a part of the files alone, and the others are still there.
    hashes.of_files(root, ["b.jpg"], index=index)
    hashes.of_files(root, names, index=index)
    (root / "a.jpg").unlink()
    hashes.of_files(root, ["b.jpg"], index=index)
    assert remembered(index) == [("a.jpg", sha256(b"other")), ("b.jpg", sha256(b"b"))]
    assert hashes.of_files(other, ["a.jpg"], index=index) == {"a.jpg": sha256(b"other")}
    (root / "b.jpg").unlink()
    assert hashes.of_files(root, [], index=index) == {}
    assert remembered(index) == [("a.jpg", sha256(b"other"))]
    assert hashed == []


def test_the_root_is_known_by_its_real_path(
    root: Path, index: Path, write: Written, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.jpg", b"a")
    hashes.of_files(root, ["a.jpg"], index=index)
    (root.parent / "link").symlink_to(root)
    monkeypatch.chdir(root.parent)
    for way in (Path("link"), Path("photos"), root.parent / "photos" / ".." / "link"):
        assert hashes.of_files(way, ["a.jpg"], index=index) == {"a.jpg": sha256(b"a")}
    assert hashed == ["a.jpg"]


def test_any_name_a_disk_can_hold_is_remembered(
    root: Path, index: Path, write: Written, hashed: list[str]
) -> None:
    names = ["two\nlines.jpg", "Käfer.jpg", "Ka\u0308fer.jpg", "'; --.jpg", "100%.jpg"]
    names.append(os.fsdecode(b"latin1-\xe4.jpg"))
    for name in names:
        write(name, os.fsencode(name))
    expected = {name: sha256(os.fsencode(name)) for name in names}
    assert hashes.of_files(root, names, index=index) == expected
    hashed.clear()
    assert hashes.of_files(root, names, index=index) == expected
    assert hashed == []


def test_unreadable_files_are_absent(
    root: Path, index: Path, write: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a.jpg", b"a")
    (root / "folder.jpg").mkdir()
    (root / "dangling.jpg").symlink_to("nowhere")
    # Opening it would wait forever.
    os.mkfifo(root / "pipe.jpg")
    names = ["a.jpg", "folder.jpg", "dangling.jpg", "pipe.jpg", "gone.jpg", "nul\0.jpg", "\ud800"]
    done: list[int] = []
    found = hashes.of_files(root, names, index=index, advance=done.append)
    assert found == {"a.jpg": sha256(b"a")}
    assert sum(done) == len(names)
    assert capsys.readouterr() == ("", "")


def test_a_file_that_may_not_be_opened_is_absent_and_forgotten(
    root: Path, index: Path, write: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.jpg", b"a")
    hashes.of_files(root, ["a.jpg"], index=index)

    def refused(*arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "open", refused)
    assert hashes.of_files(root, ["a.jpg"], index=index, rehash=True) == {}
    assert remembered(index) == []


def test_rehash_reads_everything_and_renews_the_index(
    root: Path, index: Path, write: Written, hashed: list[str]
) -> None:
    names = [write("a.jpg", b"a"), write("b.jpg", b"b")]
    hashes.of_files(root, names, index=index)
    with sqlite3.connect(index) as db:
        db.execute("UPDATE files SET digest = ?", (bytes(32),))
    db.close()
    assert set(hashes.of_files(root, names, index=index).values()) == {"0" * 64}
    hashed.clear()
    assert hashes.of_files(root, names, index=index, rehash=True) == truth(root)
    assert sorted(hashed) == names
    assert hashes.of_files(root, names, index=index) == truth(root)
    assert sorted(hashed) == names


def test_digests_that_others_found_are_remembered_unless_the_file_has_changed(
    root: Path, index: Path, write: Written
) -> None:
    names = [write(name, name.encode()) for name in ("a.jpg", "b.jpg", "c.jpg", "new.jpg")]
    os.utime(root / "new.jpg")
    hashes.of_files(root, names[:1], index=index)
    listed = hashes.Files(root, names, index=index)
    assert [*listed.remembered] == ["a.jpg"]
    assert [*listed.unknown] == ["b.jpg", "c.jpg", "new.jpg"]
    write("c.jpg", b"rewritten")
    listed.learn({name: sha256(name.encode()) for name in names})
    again = hashes.Files(root, names, index=index)
    assert again.remembered == {name: sha256(name.encode()) for name in names[:2]}


def test_correct_forgets_wrong_digests(
    root: Path, index: Path, write: Written, hashed: list[str]
) -> None:
    names = [write("a.jpg", b"a"), write("b.jpg", b"b")]
    hashes.of_files(root, names, index=index)
    with sqlite3.connect(index) as db:
        db.execute("UPDATE files SET digest = ? WHERE path = ?", (bytes(32), b"b.jpg"))
    db.close()
    hashed.clear()
    hashes.correct(root, truth(root) | {"unheard.jpg": "0" * 64}, index=index)
    assert remembered(index) == [("a.jpg", sha256(b"a"))]
    assert hashes.of_files(root, names, index=index) == truth(root)
    assert hashed == ["b.jpg"]


def test_correct_leaves_other_roots_alone(
    root: Path, index: Path, write: Written, tmp_path: Path
) -> None:
    hashes.of_files(root, [write("a.jpg", b"a")], index=index)
    hashes.correct(tmp_path, {"a.jpg": "0" * 64}, index=index)
    assert remembered(index) == [("a.jpg", sha256(b"a"))]


def test_a_file_with_a_damaged_entry_is_hashed_again(
    root: Path, index: Path, write: Written, hashed: list[str]
) -> None:
    names = [write(f"{i}.jpg", b"%d" % i) for i in range(5)]
    hashes.of_files(root, names, index=index)
    with sqlite3.connect(index) as db:
        db.execute("UPDATE files SET digest = 'text' WHERE path = ?", (b"0.jpg",))
        db.execute("UPDATE files SET digest = ? WHERE path = ?", (bytes(31), b"1.jpg"))
        db.execute("UPDATE files SET mtime_ns = CAST(x'ff' AS TEXT) WHERE path = ?", (b"2.jpg",))
        db.execute("UPDATE files SET path = 7 WHERE path = ?", (b"3.jpg",))
    db.close()
    hashed.clear()
    assert hashes.of_files(root, names, index=index) == truth(root)
    assert sorted(hashed) == names[:4]


def foreign_database(index: Path) -> None:
    with sqlite3.connect(index) as db:
        db.execute("CREATE TABLE files (title TEXT)")
    db.close()


def other_columns(index: Path) -> None:
    with sqlite3.connect(index) as db:
        db.execute("ALTER TABLE files RENAME COLUMN digest TO sum")
    db.close()


def lost_table(index: Path) -> None:
    with sqlite3.connect(index) as db:
        db.execute("CREATE TABLE other (x)")
        db.execute("DROP TABLE files")
    db.close()


def overwrite(index: Path, start: int) -> None:
    data = bytearray(index.read_bytes())
    data[start:] = random.Random(0).randbytes(len(data) - start)
    index.write_bytes(data)


def truncate(index: Path, size: int) -> None:
    os.truncate(index, size)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a photo": lambda index: index.write_bytes(b"\xff\xd8\xff\xe0" * 500),
    "a line": lambda index: index.write_text("hello"),
    "overwritten": lambda index: overwrite(index, 0),
    "overwritten after the first page": lambda index: overwrite(index, 4096),
    "cut in the header": lambda index: truncate(index, 60),
    "cut in the first page": lambda index: truncate(index, 2000),
    "cut after the first page": lambda index: truncate(index, 4096),
    "cut in the middle": lambda index: truncate(index, 10_000),
    "other columns": other_columns,
    "lost table": lost_table,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_index_is_set_aside(
    root: Path,
    index: Path,
    write: Written,
    hashed: list[str],
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    names = [write(f"{i:03d}.jpg", b"%d" % i) for i in range(300)]
    hashes.of_files(root, names, index=index)
    DAMAGES[damage](index)
    damaged = index.read_bytes()
    hashed.clear()
    assert hashes.of_files(root, names, index=index) == truth(root)
    assert len(hashed) == 300
    assert hashes.of_files(root, names, index=index) == truth(root)
    assert len(hashed) == 300
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith(f"{index}: damaged (")
    aside = [file for file in index.parent.iterdir() if file != index]
    assert [file.read_bytes() for file in aside] == [damaged]
    assert f"set aside as {aside[0]}" in errors[0]


def test_a_database_of_something_else_is_set_aside(
    root: Path, index: Path, write: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a.jpg", b"a")
    index.parent.mkdir(parents=True)
    foreign_database(index)
    assert hashes.of_files(root, ["a.jpg"], index=index) == truth(root)
    assert "damaged (not an index of digests)" in capsys.readouterr().err
    assert remembered(index) == [("a.jpg", sha256(b"a"))]


def test_flipped_bytes_in_the_index_never_are_an_error(
    root: Path, index: Path, write: Written
) -> None:
    names = [write(f"{i:03d}.jpg", b"%d" % i) for i in range(100)]
    hashes.of_files(root, names, index=index)
    whole = index.read_bytes()
    chance = random.Random(1)
    for _ in range(80):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        index.write_bytes(data)
        found = hashes.of_files(root, names, index=index)
        assert list(found) == names
        hashes.correct(root, truth(root), index=index)
        assert hashes.of_files(root, names, index=index) == truth(root)


@pytest.mark.parametrize("obstacle", ["file for folder", "folder for file"])
def test_an_unusable_index_is_a_warning(
    root: Path,
    index: Path,
    write: Written,
    capsys: pytest.CaptureFixture[str],
    obstacle: str,
) -> None:
    names = [write(f"{i}.jpg", b"%d" % i) for i in range(300)]
    if obstacle == "file for folder":
        index.parent.parent.write_bytes(b"")
    else:
        index.mkdir(parents=True)
    assert hashes.of_files(root, names, index=index) == truth(root)
    hashes.correct(root, {"a.jpg": "0" * 64}, index=index)
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all(error.startswith(f"{index}: cannot be used (") for error in errors)


def test_an_index_that_may_only_be_read_still_serves(
    root: Path,
    index: Path,
    write: Written,
    hashed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [write(f"{i}.jpg", b"%d" % i) for i in range(3)]
    hashes.of_files(root, names[:2], index=index)
    connect = sqlite3.connect

    # A superuser may write despite the permissions.
    def read_only(file: Path, **options: str) -> sqlite3.Connection:
        return connect(f"file:{file}?mode=ro", uri=True, isolation_level=options["isolation_level"])  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite3, "connect", read_only)
    hashed.clear()
    assert set(hashes.of_files(root, names[:2], index=index)) == set(names[:2])
    assert capsys.readouterr().err == ""
    assert hashes.of_files(root, names, index=index) == truth(root)
    assert hashed == names[2:]
    assert "readonly database" in capsys.readouterr().err


def test_a_locked_index_is_not_used(
    root: Path,
    index: Path,
    write: Written,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [write("a.jpg", b"a")]
    hashes.of_files(root, names, index=index)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file, **o: connect(file, **o | {"timeout": 0.1}))
    holder = connect(index)
    holder.execute("BEGIN EXCLUSIVE")
    assert hashes.of_files(root, names, index=index) == truth(root)
    holder.close()
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        f"{index}: cannot be used (database is locked); digests are not remembered",
    ]
    assert remembered(index) == [("a.jpg", sha256(b"a"))]


def program(root: Path, index: Path, times: int, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root), str(index), str(times)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def test_a_full_disk_is_a_warning(root: Path, index: Path, write: Written) -> None:
    for i in range(600):
        write(f"{i}.jpg", b"%d" % i)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    for _ in range(2):
        running = program(root, index, 1, preexec_fn=limit)
        out, err = running.communicate(timeout=30)
        assert out.split() == ["begun", "600"], err
        assert len(err.splitlines()) == 1
        assert "cannot be used (" in err
    assert hashes.of_files(root, sorted(truth(root)), index=index) == truth(root)


def test_killed_at_any_moment_the_index_stays_whole(
    root: Path, index: Path, write: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(write(f"{i}.jpg", b"%d" % i) for i in range(600))
    chance = random.Random(2)
    for _ in range(6):
        running = program(root, index, 10_000)
        assert running.stdout is not None
        assert running.stdout.readline() == "begun\n"
        time.sleep(chance.uniform(0, 0.15))
        running.kill()
        _, err = running.communicate(timeout=30)
        assert running.returncode == -signal.SIGKILL
        assert err == ""
        with sqlite3.connect(index) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.close()
        assert hashes.of_files(root, names, index=index) == truth(root)
    assert capsys.readouterr().err == ""


def test_a_kill_loses_no_more_than_what_was_hashed_last(
    root: Path, index: Path, write: Written, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "FILES_AT_ONCE", 4)
    names = [write(f"{i}.jpg", b"%d" % i) for i in range(10)]

    counts: list[int] = []

    def stop(done: int) -> None:
        counts.append(done)
        if sum(counts) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hashes.of_files(root, names, index=index, advance=stop)
    hashed.clear()
    assert hashes.of_files(root, names, index=index) == truth(root)
    assert sorted(hashed) == names[8:]


def test_two_processes_at_once(root: Path, index: Path, write: Written) -> None:
    for i in range(600):
        write(f"{i}.jpg", b"%d" % i)
    running = [program(root, index, 4) for _ in range(2)]
    for one in running:
        out, err = one.communicate(timeout=60)
        assert (out.split(), err) == (["begun", "600"], "")
    assert dict(remembered(index)) == truth(root)


def test_threads_of_one_process_make_the_index_at_once(
    root: Path, index: Path, write: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [write(f"{i}.jpg", b"%d" % i) for i in range(20)]
    threads = [
        threading.Thread(target=hashes.of_files, args=(root, names), kwargs={"index": index})
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert capsys.readouterr().err == ""
    assert dict(remembered(index)) == truth(root)


def test_nothing_but_bytes_reaches_the_hash(root: Path, index: Path, write: Written) -> None:
    content = random.Random(3).randbytes(3_000_001)
    names = [write("empty.jpg", b""), write("long.jpg", content)]
    assert hashes.of_files(root, names, index=index) == {
        "empty.jpg": sha256(b""),
        "long.jpg": sha256(content),
    }


# Objects in a store


def test_an_object_is_read_again_when_it_changed(s3: ObjectStore, index: Path) -> None:
    for name in ("a", "b"):
        s3.put(f"pets/{name}", name.encode())
    root = locations.location("s3://bucket/pets")
    assert isinstance(root, UPath)

    def look(**options: bool) -> dict[str, str]:
        stamps = locations.listing(root).stamps
        s3.asks()
        return hashes.of_files(root, ["a", "b", "c"], index=index, stamps=stamps, **options)

    expected = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b")}
    assert look() == expected
    assert sorted(s3.asks()) == ["GET pets/a", "GET pets/b"]
    assert look() == expected
    assert s3.asks() == []
    s3.put("pets/b", b"another")
    assert look() == expected | {"b": hashlib.sha256(b"another").hexdigest()}
    assert s3.asks() == ["GET pets/b"]
    assert len(look(rehash=True)) == 2
    assert len(s3.asks()) == 2


def test_an_object_that_cannot_be_read_is_absent(s3: ObjectStore, index: Path) -> None:
    for name in ("a", "b"):
        s3.put(f"pets/{name}", name.encode())
    root = locations.location("s3://bucket/pets")
    assert isinstance(root, UPath)
    stamps = locations.listing(root).stamps
    s3.refused = lambda request: "AccessDenied" if request.endswith("a") else ""
    assert list(hashes.of_files(root, ["a", "b"], index=index, stamps=stamps)) == ["b"]
    s3.refused = lambda request: ""
    assert list(hashes.of_files(root, ["a", "b"], index=index, stamps=stamps)) == ["a", "b"]


def test_nothing_is_remembered_of_a_store_without_etags(index: Path) -> None:
    root = locations.location("memory://digests")
    assert isinstance(root, UPath)
    for content in (b"one", b"two"):
        root.fs.pipe_file("/digests/a", content)
        found = hashes.of_files(root, ["a"], index=index, stamps=locations.listing(root).stamps)
        assert found == {"a": hashlib.sha256(content).hexdigest()}
