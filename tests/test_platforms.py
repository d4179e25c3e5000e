"""The main job, and names and paths, as on Windows. No real Windows and no real Mac was tried."""

import ast
import errno
import json
import ntpath
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest

from classify.sorting import record
from extract.store import features_file
from extract.system import atomic, availability, console, locations, lock, processes
from extract.system.console import InputError
from tests import commands
from tests.conftest import CHECKOUT, MakePhotos
from tests.synthetic import publish

PACKAGES = ("extract", "classify", "finetune", "onepass")

AS_ON_WINDOWS = """
import io, json, mmap, os, signal, sys

os.environ["LOKY_MAX_CPU_COUNT"] = "1"  # joblib starts no processes

# Libraries look for what the real platform has.
import filelock, h5py, matplotlib.pyplot, PIL.Image, pooch, rich.progress, skops.io
import sklearn.linear_model, sklearn.neural_network, pytest, flask
from joblib.externals import loky

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for module, names in {
    os: ("sync", "pread", "O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC", "geteuid", "mkfifo", "fork"),
    signal: ("SIGPIPE", "SIGHUP", "SIGKILL", "SIGUSR1", "pthread_kill", "alarm"),
    mmap: ("MAP_PRIVATE", "MAP_ANONYMOUS", "MAP_SHARED"),
}.items():
    for name in names:
        delattr(module, name)
sys.platform = "win32"
os.supports_effective_ids = set()


def open_files():
    files = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            files.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass  # the listing itself
    return files


def refuse(path, number=32):
    error = PermissionError(13, "The process cannot access the file", os.fspath(path))
    error.winerror = number
    raise error


def unless_open(function):
    def call(*paths, **options):
        for path in paths:
            place = os.path.realpath(path)
            # What lies in a folder keeps it from being moved.
            inside = {file for file in open_files() if file.startswith(place + "/")}
            if inside or (place in open_files() and not os.path.isdir(place)):
                print("open:", path, file=sys.stderr)
                refuse(path)
        return function(*paths, **options)

    return call


def open_no_folder(path, *how, **options):
    if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
        refuse(path, 5)
    return open_file(path, *how, **options)


def open_no_lock(path, *how, **options):
    if os.path.basename(str(path)).endswith("lock") and os.path.realpath(path) in open_files():
        refuse(path, 33)
    return open_text(path, *how, **options)


def no_link(*paths, **options):
    error = OSError(22, "A required privilege is not held by the client")
    error.winerror = 1314
    raise error


def access(path, mode, *, effective_ids=False, **options):
    if effective_ids:
        raise NotImplementedError("access: effective_ids unavailable on this platform")
    return may(path, mode, **options)


open_file, open_text, may = os.open, io.open, os.access
os.open, io.open, os.access, os.symlink = open_no_folder, open_no_lock, access, no_link
for name in ("replace", "rename", "unlink", "remove"):
    setattr(os, name, unless_open(getattr(os, name)))
"""

PROGRAM = """
from extract.engines import selection
from extract.engines.base import Engine
from extract.vgg16.recipe import ALL_TAPS
from onepass import __main__ as onepass


def values(photos):
    seen = photos.reshape(len(photos), -1)[:, ::16].astype("float32")
    return {tap: seen[:, :width] for tap, width in ALL_TAPS.items()}


selection.choose = lambda *wanted, **how: Engine("stand-in", values)
for words in json.loads(sys.argv.pop()):
    sys.argv[:] = ["onepass", *words]
    try:
        onepass.start()
    except SystemExit as end:
        print(f"{words[0]}: {end.code}")
"""


def test_the_main_job_needs_nothing_that_windows_lacks(
    photos: MakePhotos, vgg16_weights: Path, tmp_path: Path
) -> None:
    pets, out, to = photos(), tmp_path / "out", tmp_path / "sorted"
    where = ("--out", out)
    sort = ("sort", "logistic", pets, "--data", pets, *where, "--weights", vgg16_weights)
    lines = [
        ("features", pets, "--weights", vgg16_weights, *where),
        ("heads", pets, "--heads", "logistic", *where),
        ("compare", pets, *where),
        (*sort, "--how", "link", "--to", tmp_path / "linked"),
        (*sort, "--how", "move", "--to", to),
        ("sort", "--undo", to / record.NAME),
        ("features", pets, "--weights", vgg16_weights, *where, "--seed", "1"),
        ("verify", *where),
        ("gc", *where),
    ]
    done = subprocess.run(
        [sys.executable, "-c", AS_ON_WINDOWS + PROGRAM, json.dumps(lines, default=str)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    codes = [line for line in done.stdout.splitlines() if re.fullmatch(r"[a-z]+: \d+", line)]
    wanted = [f"{words[0]}: {2 if 'link' in words else 0}" for words in lines]
    assert codes == wanted, done.stderr
    assert "Windows makes links in developer mode only" in done.stderr
    assert "Traceback" not in done.stderr
    assert (out / "reports" / "pets" / "index.html").exists()
    assert not to.exists()


def test_text_files_name_their_encoding() -> None:
    """The one that Windows takes otherwise lacks most letters."""
    lacking = [
        f"{file.relative_to(CHECKOUT)}:{call.lineno}"
        for package in PACKAGES
        for file in (CHECKOUT / package).rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in ("read_text", "write_text")
        and ast.unparse(call.func.value) != "atomic"
        and len(call.args) + len(call.keywords) < 1 + (call.func.attr == "write_text")
    ]
    assert not lacking


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this program asks for the system's name."""
    monkeypatch.setattr(sys, "platform", "win32")


@pytest.fixture
def windows_paths(windows: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths with drives and backslashes; no such files exist."""
    monkeypatch.setattr(os, "path", ntpath)


@pytest.mark.usefixtures("windows_paths")
def test_paths_in_files_have_slashes() -> None:
    assert locations.relative(r"D:\photos\cats\1.jpg", r"d:\lists") == "../photos/cats/1.jpg"
    assert locations.relative(r"E:\photos\1.jpg", r"D:\lists") == "E:/photos/1.jpg"
    assert locations.plain(r"D:\lists", r"..\photos/./1.jpg") == "D:/photos/1.jpg"


def test_a_backslash_in_a_name_stays_where_it_may_be_one() -> None:
    assert locations.relative("/photos/a\\b.jpg", "/photos") == "a\\b.jpg"
    assert locations.plain("/photos", "a\\b.jpg") == "/photos/a\\b.jpg"


@pytest.mark.parametrize(
    ("path", "source", "fits"),
    [
        ("cats/1.jpg", "../new/1.jpg", True),
        ("cats/1.jpg", "E:/new/1.jpg", True),
        ("C:/1.jpg", "../new/1.jpg", False),
        ("..\\1.jpg", "../new/1.jpg", False),
        ("cats/..\\..\\1.jpg", "../new/1.jpg", False),
    ],
)
@pytest.mark.usefixtures("windows_paths")
def test_a_record_of_a_sort_is_read_and_leads_nowhere_else(
    path: str, source: str, fits: bool, tmp_path: Path
) -> None:
    row = record.Row(path, "cats", source, record.MOVE, "0" * 64, "1.0", "yes")
    file = tmp_path / record.NAME
    file.write_text(f"{','.join(row._fields)}\n{','.join(row)}\n", "utf-8")
    if fits:
        assert record.read(file) == [row]
    else:
        with pytest.raises(InputError, match="row 1 was not written by a sort"):
            record.read(file)


@pytest.mark.usefixtures("windows")
def test_paths_of_windows_are_used_there() -> None:
    for path in ("C:\\new folder", "d:/new", "\\\\server\\photos"):
        assert locations.typed(path) == path
    assert locations.typed("file:///C:/my%20photos") == "C:/my photos"
    assert not locations.is_url("C://photos/cats")


REFUSED = ["con", "Aux.photos", "com1", "COM¹", "nul .x", "a:b", "C:x", "a\\b", "a?", "a. ", "a."]


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_windows_lacks_is_refused_there_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = f"s3://bucket/{name}"
    assert features_file.name_of(data) == name
    features_file.check_name(name)
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(InputError, match=r"Windows has no files .*; rename it"):
        features_file.name_of(data)
    with pytest.raises(ValueError, match="not a plain name"):
        features_file.check_name(name)


@pytest.mark.usefixtures("windows")
def test_names_that_look_like_reserved_ones_are_used() -> None:
    for name in ("console", "com", "com10", "nullen", "Köpfe.2", ".a"):
        assert features_file.name_of(f"s3://bucket/{name}") == name


@pytest.mark.parametrize("path", ["..\\x.png", "C:/x.png", "a/C:x.png"])
def test_a_strangers_features_lead_to_no_other_drive(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = publish(tmp_path)
    with h5py.File(published, "r+") as file:
        file["path"][0] = path
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(InputError, match=r"path has values that .* below the root"):
        features_file.open(published)


@pytest.mark.usefixtures("windows")
def test_a_file_that_a_scanner_has_open_is_replaced_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, replace = [], os.replace

    def busy(*paths: Path) -> None:
        tries.append(paths)
        if len(tries) < 3:
            raise PermissionError(errno.EACCES, "Access is denied", os.fspath(paths[0]))
        replace(*paths)

    monkeypatch.setattr(os, "replace", busy)
    monkeypatch.setattr(atomic, "PAUSES", (0, 0, 0))
    atomic.write_text(tmp_path / "page.html", "new")
    assert (tmp_path / "page.html").read_text() == "new"
    tries.clear()
    monkeypatch.setattr(atomic, "PAUSES", ())
    done = commands.run(lambda: atomic.write_text(tmp_path / "page.html", "newer"))
    assert done.returncode == 2
    assert f"{tmp_path / 'page.html'}: Access is denied: close the program that has" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert "close the program" in str(availability.unavailable("x.h5", errno.EACCES))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOENT, "No such file", "C:\\" + "x" * 260), "switch on long paths"),
        (OSError(errno.EINVAL, "Invalid argument", "runs/a:b"), "its disk has no such names"),
        (OSError(errno.EILSEQ, "Illegal byte sequence", "runs/\xe9"), "its disk has no such names"),
    ],
)
@pytest.mark.usefixtures("windows")
def test_an_error_of_a_name_says_what_helps(error: OSError, words: str) -> None:
    def main() -> None:
        raise error

    done = commands.run(main)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("windows")
def test_output_that_nobody_reads_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_end_without_reader", lambda: sys.exit(141))

    def main() -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    done = commands.run(main)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.usefixtures("windows")
def test_a_signal_that_was_dropped_comes_again_and_ends_no_process() -> None:
    with pytest.MonkeyPatch.context() as patch:
        sent = []
        patch.setattr(signal, "raise_signal", sent.append)
        patch.setattr(os, "kill", lambda *sent: pytest.fail("it ends the process"))
        patch.setattr(threading, "Timer", at_once)
        dropped = SimpleNamespace(exc_value=console.Stopped(signal.SIGINT))
        console._stop_again(dropped)
    assert sent == [signal.SIGINT]


def at_once(seconds: float, function: Callable[..., None], words: tuple[object, ...]) -> object:
    return SimpleNamespace(start=lambda: function(*words))


@pytest.mark.usefixtures("windows")
def test_a_helping_process_waits_for_the_one_that_it_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[object] = []
    api = SimpleNamespace(
        SYNCHRONIZE=0x100000,
        INFINITE=0xFFFFFFFF,
        OpenProcess=lambda *words: calls.append(words) or 7,
        WaitForSingleObject=lambda *words: calls.append(words),
    )
    monkeypatch.setitem(sys.modules, "_winapi", api)
    monkeypatch.setattr(os, "_exit", calls.append)
    monkeypatch.setattr(os, "getppid", lambda: pytest.fail("it may be that of the launcher"))
    processes._watch(4242)
    assert calls == [(0x100000, False, 4242), (7, 0xFFFFFFFF), 1]


def test_who_holds_a_lock_may_be_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*words: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "lock")

    monkeypatch.setattr(Path, "write_text", locked)
    monkeypatch.setattr(Path, "read_text", locked)
    with (
        lock.held(tmp_path / "lock"),
        pytest.raises(InputError, match="held by another process; end it first"),
        lock.held(tmp_path / "lock", wait=False),
    ):
        pytest.fail("two hold it")
