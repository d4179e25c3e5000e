"""The terminal: messages, progress bars, one-line errors, exit codes, signals."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
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

UNUSABLE = 2
ADVICE = {
    errno.ENOSPC: "free some space, or choose another folder with --out",
    errno.EDQUOT: "free some space, or choose another folder with --out",
    errno.EFBIG: "raise the file-size limit, or choose another folder with --out",
    errno.EACCES: "grant the permission, or choose another folder with --out",
    errno.EPERM: "grant the permission, or choose another folder with --out",
    errno.EEXIST: "a file is in the way; move it, or choose another folder with --out",
    errno.ENOTDIR: "a file is in the way; move it, or choose another folder with --out",
    errno.EROFS: "choose a folder that can be written, with --out",
}


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


def say(message: object) -> None:
    """Tell the user something on standard output, on one line."""
    print(one_line(message), flush=True)


def warn(message: object) -> None:
    """Tell the user something on standard error, on one line."""
    print(one_line(message), file=sys.stderr, flush=True)


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
def progress(description: str, total: int, *, unit: str) -> Iterator[Callable[..., None]]:
    """Show a bar with speed and time left while the block runs, but only on a terminal.

    Yields
    ------
    advance : callable
        Call it with the number of items just done. If several workers share the work, add the name
        of the worker: each has a line of its own below the bar.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(description, total=total)
        lines: dict[str, TaskID] = {}

        def advance(n: int, name: str = "") -> None:
            bar.advance(task, n)
            if name:
                if name not in lines:
                    lines[name] = bar.add_task(f"  {name}", total=None)
                bar.advance(lines[name], n)

        yield advance


def run(main: Callable[[], None]) -> NoReturn:
    """Run a command line and exit: 0 done, 2 unusable input, 128 + its number after a signal.

    The signals are SIGINT, SIGTERM and, when nobody reads the output any more, SIGPIPE. Unusable
    input, a full disk, a missing permission and too little memory become one line on standard
    error. Any other exception is a defect of the program and keeps its traceback.
    """
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        main()
    except InputError as error:
        warn(f"error: {error}")
        sys.exit(UNUSABLE)
    except BrokenPipeError:
        # The reader of the output, for example `head`, has ended. Python would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except MemoryError as error:
        warn(f"error: not enough memory{f' ({error})' if str(error) else ''}; {MEMORY_ADVICE}")
        sys.exit(UNUSABLE)
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        warn(f"error: {where}{error.strerror}: {ADVICE[error.errno]}; what was computed is kept")
        sys.exit(UNUSABLE)
    except Stopped as stopped:
        warn("stopped; what was computed is kept, run the same command again to go on")
        sys.exit(128 + stopped.signal)
    sys.exit(0)


@contextmanager
def finishing() -> Iterator[Callable[[], None]]:
    """Delay a signal that would stop the program until the block ends.

    A C library may swallow an exception that a signal raises in the middle of its work, or take it
    for damage to the file that it reads.

    Yields
    ------
    check : callable
        Raises Stopped if a signal has come. A long block should call it often.
    """
    global _unfinished
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
