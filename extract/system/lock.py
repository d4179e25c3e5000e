"""One writer at a time: a lock that the operating system releases when its holder dies."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from extract.system.console import InputError, warn
from extract.system.provenance import now


@contextmanager
def held(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; if another process holds it, say so and wait.

    The file stays behind, but that means nothing: the kernel locks only an open file.

    Raises
    ------
    InputError
        If another process holds it, and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout as busy:
        if not wait:
            raise InputError(f"{path}: held by {_holder(path)}; end it first") from busy
        warn(f"{path}: held by {_holder(path)}; waiting until it is done")
        lock.acquire()
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now()}
        # On Windows nobody, not even this process, can read or write a file that is locked.
        with suppress(PermissionError):
            path.write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return f"process {record['pid']} on {record['host']} since {record['since']}"
    # The holder may be writing its name at this moment.
    except (PermissionError, ValueError, KeyError, TypeError):
        return "another process"
