"""Memory: what large photos take is counted together, and a lack of it is called by its name.

A C library that gets no memory often says that the file is damaged. Whether memory was short shows
when as much of it is asked for once more.
"""

import mmap
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from extract.system.console import MEMORY_ADVICE, InputError

MOST = 2_000_000_000
"""Bytes that all photos that are being decoded may take together; no photo may take more."""

PRIVATE: dict[str, Any] = {}
"""Memory on Windows has no flags."""

if sys.platform != "win32":
    PRIVATE["flags"] = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

SPARE = 64_000_000
"""If so many bytes more than needed can be had, a failure had another cause than memory."""


class OutOfMemory(InputError, MemoryError):
    """There was not enough memory, which says nothing about the file."""


class Budget:
    """A number of bytes that threads share. Those who wait are served in their order.

    Whoever holds a part of it must not ask for more.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self.waiting: deque[object] = deque()
        self.changed = threading.Condition()

    @contextmanager
    def taken(self, n: int) -> Iterator[None]:
        """Take n bytes, at most all of them, for the time of the block."""
        n = min(n, self.total)
        turn = object()
        with self.changed:
            self.waiting.append(turn)
            try:
                while self.waiting[0] is not turn or n > self.free:
                    self.changed.wait()
                self.free -= n
            finally:
                self.waiting.remove(turn)
                self.changed.notify_all()
        try:
            yield
        finally:
            with self.changed:
                self.free += n
                self.changed.notify_all()


_budget = Budget(MOST)


def allow(n: int) -> None:
    """Refuse every block of `reserved` that needs more than n bytes, in this process."""
    global _budget
    _budget = Budget(n)


def is_there(n: int) -> bool:
    """Say whether this process could get n bytes more."""
    try:
        mmap.mmap(-1, max(n, 1), **PRIVATE).close()
    except (OSError, OverflowError, MemoryError):
        return False
    return True


@contextmanager
def watched(n: int) -> Iterator[None]:
    """Raise OutOfMemory in place of any other exception if n bytes cannot be had.

    Parameters
    ----------
    n : int
        The bytes that the block needs.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except Exception as error:
        if is_there(n + SPARE):
            raise
        raise lacking(n) from error


@contextmanager
def reserved(n: int, *, ask_first: bool = False) -> Iterator[None]:
    """Wait until n bytes of the common budget are free, and take them for the time of the block.

    Parameters
    ----------
    n : int
        The most bytes that the block may need.
    ask_first : bool
        Whether so many must be there at the start. Some libraries end the process otherwise.

    Raises
    ------
    OutOfMemory
        If the block fails, or would fail, because so many bytes cannot be had, or if they are more
        than all that there are.
    """
    if n > _budget.total:
        raise lacking(n)
    with _budget.taken(n):
        if ask_first and not is_there(n):
            raise lacking(n)
        with watched(n):
            yield


def lacking(n: int) -> OutOfMemory:
    """Return the error that says that n bytes are needed."""
    return OutOfMemory(
        f"not enough memory; decoding it takes up to {n / 1e6:,.0f} MB; {MEMORY_ADVICE}"
    )
