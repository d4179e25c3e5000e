import errno
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from extract.system import console
from extract.system.console import InputError, Stopped, count, one_line, progress, say, warn
from tests.conftest import CHECKOUT, HOSTILE


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 12 ♞ ok", "Größe 12 ♞ ok"),
        ("a\nb", r"a\nb"),
        ("a\r\tb", r"a\r\tb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\u2028b\x85c", r"a\u2028b\x85c"),
        ("right\u202eleft", r"right\u202eleft"),
        ("caf\udce9", r"caf\udce9"),
        ("nul\0", r"nul\x00"),
    ],
)
def test_text_is_shown_on_one_line(text: str, shown: str) -> None:
    assert one_line(text) == shown
    assert len(one_line(text).splitlines()) == 1
    one_line(text).encode()


def test_say_and_warn_write_one_line_to_their_stream(capfd: pytest.CaptureFixture[str]) -> None:
    say("said\nin\udce9")
    warn(ValueError("warned\nof"))
    assert capfd.readouterr() == ("said\\nin\\udce9\n", "warned\\nof\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_encoding_that_lacks_a_character_escapes_it(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding))

    def main() -> None:
        for name in HOSTILE:
            say(name)
            Console().print(Text(one_line(f"╭{name}…")), soft_wrap=True)
        raise InputError(HOSTILE[-1])

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == console.UNUSABLE
    out = streams["stdout"].getvalue().decode(encoding).splitlines()
    shown = [
        one_line(name).encode(encoding, "backslashreplace").decode(encoding) for name in HOSTILE
    ]
    assert out[::2] == shown
    assert all(name in line for name, line in zip(shown, out[1::2], strict=True))
    assert streams["stderr"].getvalue().decode(encoding) == f"error: {shown[-1]}\n"


def test_misread_file_names_are_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    with pytest.raises(SystemExit):
        run(lambda: None)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("file names are read as iso8859-1")
    assert "PYTHONUTF8=1" in line


def test_a_bar_shows_the_name_of_a_worker_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=200)
    monkeypatch.setattr(console, "Console", lambda **_: terminal)
    with progress("VGG16", 1, unit="photos") as advance:
        advance(1, "[red]a[/] \u202e")
    assert r"  [red]a[/] \u202e" in shown.getvalue()


def test_count() -> None:
    assert count(1, "photo") == "1 photo"
    assert count(0, "photo") == "0 photos"
    assert count(2000, "photo") == "2,000 photos"
    assert count(1, "class", "classes") == "1 class"
    assert count(3, "class", "classes") == "3 classes"


def test_progress_is_silent_when_not_on_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with progress("VGG16", 3, unit="photos") as advance:
        advance(1)
        advance(2)
    assert capfd.readouterr() == ("", "")


def test_progress_tells_the_time_left_even_if_not_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seconds = iter([100.0, 120.0, 140.0])
    with progress("heads", 14, unit="steps", done=2, at_most=True) as advance:
        monkeypatch.setattr(console.time, "monotonic", lambda: next(seconds))
        for _ in range(3):
            advance(1)
        monkeypatch.undo()
    line = "heads: at most about 3.3 min left for 10 steps, at 0.05 steps/s\n"
    assert capfd.readouterr() == (line, "")


def run(main: Callable[[], None]) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        console.run(main)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raising(error: BaseException | None) -> Callable[[], None]:
    def main() -> None:
        if error:
            raise error

    return main


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (None, 0, []),
        (InputError("photos\n: no such folder"), 2, ["error: photos\\n: no such folder"]),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "features/x.h5"),
            2,
            ["error: features/x.h5: No space left on device", "--out"],
        ),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), 2, ["quota", "--out"]),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), 2, ["File too large", "--out"]),
        (
            OSError(errno.EACCES, os.strerror(errno.EACCES), "/x"),
            2,
            ["error: /x: Permission denied", "--out"],
        ),
        (
            OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "/x"),
            2,
            ["error: /x: Not a directory", "--out"],
        ),
        (
            OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "x.h5"),
            2,
            ["error: x.h5: File name too long: give it a shorter name"],
        ),
        (Stopped(signal.SIGINT), 130, ["stopped", "again"]),
        (Stopped(signal.SIGTERM), 143, ["stopped", "again"]),
    ],
)
def test_run_reports_an_error_in_one_line(
    raised: BaseException | None,
    code: int,
    words: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(raising(raised))
    assert stopped.value.code == code
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == bool(words)
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    "raised", [ValueError("a defect"), OSError(errno.EBADF, "a defect"), AssertionError("a defect")]
)
def test_defect_keeps_its_traceback(raised: Exception) -> None:
    with pytest.raises(type(raised), match="a defect"):
        run(raising(raised))


PROGRAM = """
import sys, time
from pathlib import Path
from extract.system import console

def main():
    try:
        Path(sys.argv[1]).write_text("here")
        time.sleep(30)
    finally:
        print("tidied")

console.run(main)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_run_the_clean_up_and_give_their_exit_code(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(started)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(1000):
        if started.exists():
            break
        time.sleep(0.01)
    time.sleep(0.05)
    program.send_signal(number)
    out, err = program.communicate(timeout=20)
    assert program.returncode == code
    assert out == "tidied\n"
    assert len(err.splitlines()) == 1
    assert err.startswith("stopped")


def test_a_worker_that_is_killed_is_told_in_one_line() -> None:
    program = (
        "import os, signal\n"
        "from joblib import delayed\n"
        "from extract.system import console, processes\n"
        "def main(): processes.parallel(2)(delayed(os._exit)(9) for _ in range(2))\n"
        "console.run(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: a process that did a part of the work was ended, most ")
    assert len(done.stderr.splitlines()) == 1


def test_defect_in_a_process_shows_where(tmp_path: Path) -> None:
    program = (
        "from extract.system import console\n"
        "def main(): raise ValueError('ours')\n"
        "console.run(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError: ours" in done.stderr


SAY_MUCH = """
import sys
from extract.system import console

def main():
    try:
        for i in range(100_000):
            console.say(f"line {i}")
    finally:
        print("tidied", file=sys.stderr)

console.run(main)
"""


def test_output_that_nobody_reads_to_its_end_is_no_error() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", SAY_MUCH],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout
    assert program.stderr
    assert program.stdout.readline() == "line 0\n"
    program.stdout.close()
    assert program.stderr.read() == "tidied\n"
    assert program.wait(timeout=20) == 128 + signal.SIGPIPE


FINISH = """
import os, signal
from extract.system import console

def main():
    with console.finishing(), console.finishing():
        os.kill(os.getpid(), signal.SIGTERM)
        print("finished")
    print("not to be seen")

console.run(main)
"""

CHECK = FINISH.replace("finishing(), console.finishing()", "finishing() as check").replace(
    'print("finished")', 'print("some"); check(); print("more")'
)


DROPPED = """
import os, signal, time
from extract.system import console

class Closing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        print("not to be seen")

def main():
    Closing()
    time.sleep(30)

console.run(main)
"""


@pytest.mark.parametrize(
    ("program", "out"), [(FINISH, "finished\n"), (CHECK, "some\n"), (DROPPED, "")]
)
def test_signal_waits_for_what_must_be_finished(program: str, out: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (143, out)
    assert len(done.stderr.splitlines()) == 1


LIBRARIES = """
import logging, subprocess, sys, warnings
from extract.system import console

def main():
    warnings.warn("a library warns")
    logging.getLogger("library").warning("a library warns")
    logging.getLogger("library").error("a library fails")
    # As joblib starts its processes: without the options of this one.
    subprocess.run([sys.executable, "-c", "import warnings; warnings.warn('a child warns')"])
    with console.silence():
        subprocess.run(["sh", "-c", "echo C; echo C >&2"])
    console.warn("we warn")

console.run(main)
"""


def test_libraries_warn_nobody_and_their_errors_and_our_warnings_are_told() -> None:
    command = [sys.executable, "-W", "always", "-c", LIBRARIES]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.splitlines() == ["a library fails", "we warn"]


OTHER_THREAD = """
import os, signal, threading, time
from extract.system import console

def main():
    begun, end = threading.Event(), threading.Event()

    def work():
        with console.finishing():
            begun.set()
            end.wait(20)

    threading.Thread(target=work, daemon=True).start()
    begun.wait()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    print("not to be seen")

console.run(main)
"""


def test_a_signal_stops_the_main_thread_while_another_must_finish() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OTHER_THREAD], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (130, "")
