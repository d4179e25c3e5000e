"""The terminal: messages, progress bars, one-line errors, exit codes, signals."""

import ctypes
import errno
import io
import logging
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from extract.system.forecast import Forecast

UNUSABLE = 2
ADVICE = {
    errno.ENOSPC: "free some space, or choose another folder with --out",
    errno.EDQUOT: "free some space, or choose another folder with --out",
    errno.EFBIG: "raise the file-size limit, or choose another folder with --out",
    errno.EACCES: "grant the permission; results may also go to another folder (--out)",
    errno.EPERM: "grant the permission; results may also go to another folder (--out)",
    errno.EEXIST: "a file is in the way; move it, or choose another folder with --out",
    errno.ENOTDIR: "a file is in the way; move it, or choose another folder with --out",
    errno.EMFILE: "raise the limit on open files with ulimit -n",
    errno.ENFILE: "close other programs, which have too many files open",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network disk",
    errno.ENOMEM: "free some memory",
    errno.EROFS: "choose a folder that can be written, with --out",
    errno.ENAMETOOLONG: "give it a shorter name",
}

REFUSED_NAME = {errno.EINVAL, errno.EILSEQ}
"""Errors of a disk that cannot have a file of a name."""

LONGEST_ON_WINDOWS = 247
"""Characters that the path of a folder may have on Windows, unless a setting allows more."""


MEMORY_ADVICE = (
    "close other programs or raise the memory limit, and run the same command again; "
    "what was computed is kept"
)


class InputError(Exception):
    """The user's input cannot be used; the message says what is wrong and what to do."""


class Stopped(BaseException):
    """A signal asked the program to stop.

    Attributes
    ----------
    signal : int
    """

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


def one_line(text: object) -> str:
    """Make `text` safe to show on one line: control characters and lone surrogates are escaped."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "backslashreplace").decode()
        for character in str(text)
    )


FORMULA = re.compile(r"(^|;) *[=+\-@＝＋－＠]")  # noqa: RUF001
"""What a spreadsheet takes for a formula, also one whose separator is the semicolon."""


def csv_cell(name: str) -> str:
    """Write a name as a cell of CSV; ``docs/cli.md`` says how to read it.

    Backslashes, control characters and what would begin a formula are written as Python's backslash
    escapes.
    """
    escaped = one_line(name.replace("\\", r"\\"))
    return FORMULA.sub(lambda found: f"{found[0][:-1]}\\u{ord(found[0][-1]):04x}", escaped)


def encodable(text: str) -> str:
    """Escape the characters that standard output cannot show in its encoding."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


SIGPIPE = 13
"""The number of a signal that Windows does not have."""

C_LIBRARY = ctypes.CDLL("ucrtbase" if os.name == "nt" else None)

STARTED_AS = "ONEPASS_STARTED_AS"
"""The environment variable with the program whose commands messages name: onepass, or make."""

VERBS = "features|heads|finetune|compare|predict|sort|serve|label|export"

VALUE = r"""(?:\$?'(?:[^'\\]|\\.)*'|"[^"]*"|[^\s'";)])+"""
"""One word of a shell, quoted or not."""

MAKE = re.compile(rf"\bmake (?:({VERBS})\b((?: [A-Z_]+={VALUE})*)|(DATA={VALUE}))")

MODULE = re.compile(r"\bpython -m (extract|classify|finetune) ([a-z]+)")

RENAMED = {"classify train": "heads", "finetune train": "finetune", "extract export": "table"}
"""Commands of the packages that have another name as commands of onepass."""


def as_started(text: str) -> str:
    """Name commands as the user starts them: ``make heads DATA=chess`` or ``onepass heads chess``.

    Parameters
    ----------
    text : str
        It names commands as ``make`` or ``python -m`` takes them.
    """
    program = os.environ.get(STARTED_AS, "make")
    if program == "make":
        return text
    text = MODULE.sub(lambda found: f"{program} {RENAMED.get(found[0][10:], found[2])}", text)
    return MAKE.sub(lambda found: _with_options(program, found), text)


def _with_options(program: str, found: re.Match[str]) -> str:
    """Give the variables of a make command as the arguments and options of a program."""
    verb, variables = found[1] or "all", found[2] or found[3] or ""
    given = dict(re.findall(f"([A-Z_]+)=({VALUE})", variables))
    words = [program, verb]
    if verb in ("predict", "sort", "serve", "export"):
        # Make has a default for the model.
        words.append(given.pop("MODEL", "svm"))
        words += [given.pop("IMAGES")] if "IMAGES" in given else []
    elif "DATA" in given:
        words.append(given.pop("DATA"))
    for name, value in given.items():
        words += [f"--{name.lower().replace('_', '-')}", value]
    return " ".join(words)


def say(message: object) -> None:
    """Tell the user something on standard output, on one line."""
    print(as_started(one_line(message)), flush=True)


def warn(message: object) -> None:
    """Tell the user something on standard error, on one line."""
    print(as_started(one_line(message)), file=sys.stderr, flush=True)


def count(n: int, noun: str, plural: str = "") -> str:
    """Write a number with its noun: ``1 photo``, ``2,000 photos``, ``3 classes``."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


class Speed(ProgressColumn):
    """Items per second, blank until it is known."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Draw the speed of one task."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} {self.unit}/s" if speed else "")


@contextmanager
def progress(
    description: str, total: int, *, unit: str, done: int = 0, at_most: bool = False
) -> Iterator[Callable[..., None]]:
    """Show a bar with speed and time left while the block runs, but only on a terminal.

    Wherever the output goes, one line says how long the rest will take, once the speed is known and
    if that is more than a minute.

    Parameters
    ----------
    description : str
    total : int
        Number of items.
    unit : str
        Plural noun for the items.
    done : int
        Items that an earlier run did.
    at_most : bool
        Whether the block may end before all items are done, or later items take less time.

    Yields
    ------
    advance : callable
        Call it with the number of items just done. If several workers share the work, add the name
        of the worker: each has a line of its own below the bar.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    forecast = Forecast(description, total, unit=unit, done=done, at_most=at_most)
    with bar:
        task = bar.add_task(description, total=total, completed=done)
        lines: dict[str, TaskID] = {}

        def advance(n: int, name: str = "") -> None:
            bar.advance(task, n)
            if line := forecast.advance(n, time.monotonic()):
                say(line)
            if name:
                if name not in lines:
                    lines[name] = bar.add_task(f"  {one_line(name)}", total=None)
                bar.advance(lines[name], n)

        yield advance


def run(main: Callable[[], None]) -> NoReturn:
    """Run a command line and exit: 0 done, 2 unusable input, 128 + its number after a signal.

    The signals are SIGINT, SIGTERM and, when nobody reads the output any more, SIGPIPE. Unusable
    input, a full disk, a missing permission and too little memory become one line on standard
    error. Any other exception is a defect of the program and keeps its traceback.
    """
    _hush_libraries()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    sys.unraisablehook = _stop_again
    _prepare_encodings()
    try:
        main()
    except InputError as error:
        warn(f"error: {error}")
        sys.exit(UNUSABLE)
    except BrokenPipeError:
        _end_without_reader()
    except MemoryError as error:
        warn(f"error: not enough memory{f' ({error})' if str(error) else ''}; {MEMORY_ADVICE}")
        sys.exit(UNUSABLE)
    except BrokenExecutor:
        warn(
            "error: a process that did a part of the work was ended, most likely because memory "
            f"ran out; {MEMORY_ADVICE}"
        )
        sys.exit(UNUSABLE)
    except OSError as error:
        # On Windows this says that nobody reads the output any more.
        if sys.platform == "win32" and error.errno == errno.EINVAL and not error.filename:
            _end_without_reader()
        helps = advice(error)
        if not helps:
            raise
        where = f"{error.filename}: " if error.filename else ""
        warn(f"error: {where}{error.strerror}: {helps}; what was saved is kept")
        sys.exit(UNUSABLE)
    except Stopped as stopped:
        warn("stopped; what was saved is kept, run the same command again to go on")
        sys.exit(128 + stopped.signal)
    sys.exit(0)


def advice(error: OSError) -> str:
    """Return what helps against an error of the system; empty if nothing is known."""
    named = os.path.abspath(error.filename) if isinstance(error.filename, str) else ""
    if named and error.errno in REFUSED_NAME:
        return "its disk has no such names; rename it, or choose another folder with --out"
    helps = ADVICE.get(error.errno or 0, "")
    if sys.platform == "win32":
        if error.errno == errno.EACCES:
            return f"close the program that has it open, or {helps}"
        if error.errno == errno.ENOENT and len(named) > LONGEST_ON_WINDOWS:
            return (
                "the path is too long; switch on long paths in Windows, or choose a shorter --out"
            )
    return helps


def _end_without_reader() -> NoReturn:
    """Exit because the reader of the output, for example `head`, has ended."""
    # Python would fail again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + SIGPIPE)


def _prepare_encodings() -> None:
    """Make the output escape what its encoding lacks, and tell if names of files are misread."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8":
        warn(
            f"file names are read as {encoding}, so those with letters outside ASCII are misread; "
            "set PYTHONUTF8=1"
        )


def _hush_libraries() -> None:
    """Keep from the user what libraries warn their programmers of; errors are still told."""
    warnings.simplefilter("ignore")
    # The processes that joblib starts read this variable.
    os.environ["PYTHONWARNINGS"] = "ignore"
    logging.getLogger().setLevel(logging.ERROR)


@contextmanager
def silence() -> Iterator[None]:
    """Keep C libraries from printing inside the block, which must not print anything itself."""
    sys.stdout.flush()
    saved_descriptors = os.dup(1), os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        for descriptor in (1, 2):
            os.dup2(nowhere.fileno(), descriptor)
    try:
        yield
    finally:
        # Otherwise a library's unwritten output would appear when the process ends.
        C_LIBRARY.fflush(None)
        for descriptor, saved in zip((1, 2), saved_descriptors, strict=True):
            os.dup2(saved, descriptor)
            os.close(saved)


@contextmanager
def finishing() -> Iterator[Callable[[], None]]:
    """Delay a signal that would stop the program until the block ends.

    A C library may swallow an exception that a signal raises in the middle of its work, or take it
    for damage to the file that it reads. Python raises it in the main thread only, so other threads
    delay nothing: they would take the exception from the main thread, which would go on.

    Yields
    ------
    check : callable
        Raises Stopped if a signal has come. A long block should call it often.
    """
    global _unfinished
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    _unfinished += 1
    try:
        yield _check
    finally:
        _unfinished -= 1
    if not _unfinished:
        _check()


_unfinished = 0
_arrived: list[int] = []


def _check() -> None:
    if _arrived:
        number = _arrived[0]
        _arrived.clear()
        raise Stopped(number)


def _stop(number: int, frame: FrameType | None) -> None:
    _arrived.append(number)
    if not _unfinished:
        _check()


def _stop_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Send a signal once more that came where Python drops exceptions, in ``__del__`` for one."""
    if isinstance(unraisable.exc_value, Stopped):
        # Python also drops what is raised here, so the signal comes a little later.
        threading.Timer(0.1, _send, (unraisable.exc_value.signal,)).start()
    else:
        sys.__unraisablehook__(unraisable)


def _send(number: int) -> None:
    if sys.platform == "win32":
        # There os.kill ends a process whatever the signal is.
        signal.raise_signal(number)
    else:
        os.kill(os.getpid(), number)
