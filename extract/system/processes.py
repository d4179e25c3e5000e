"""Processes that help this one: they end when it dies, however it dies."""

import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from joblib import Parallel

SECONDS = 0.5
"""How often a process looks whether the one that started it is still there."""


def parallel(jobs: int, **options: Any) -> Parallel:
    """Return joblib's `Parallel` whose processes end with this one.

    Without this, processes of a killed program live on for minutes, and so does a pipe that its
    output goes into: ``make heads | tee log`` would hang.

    Parameters
    ----------
    jobs : int
        Number of processes; -1 means one for each processor.
    **options
        Further arguments of `Parallel`.
    """
    return Parallel(n_jobs=jobs, initializer=end_with, initargs=(os.getpid(),), **options)


def end_with(parent: int) -> None:
    """End this process soon after `parent`, the process that started it, has died."""
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    if sys.platform == "win32":
        # There an orphan keeps the number of its parent, and between the two may be Python's
        # launcher, whose number it then has.
        import _winapi

        # There is no such process if it has died already.
        with suppress(OSError):
            handle = _winapi.OpenProcess(_winapi.SYNCHRONIZE, False, parent)
            _winapi.WaitForSingleObject(handle, _winapi.INFINITE)
    else:
        # An orphan gets another parent.
        while os.getppid() == parent:
            time.sleep(SECONDS)
    os._exit(1)
