"""One writer at a time: a lock that the operating system lets go when its holder dies."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from extract.system.console import warn
from extract.system.provenance import now


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; if another process does, say who and wait.

    The file stays behind and means nothing by itself: the lock is the kernel's, on the open file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            warn(f"{path}: held by {_holder(path)}; waiting until it is done")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": now()}, file)
        file.flush()
        yield


def _holder(path: Path) -> str:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return f"process {record['pid']} on {record['host']} since {record['since']}"
    # It may be writing its name just now.
    except (ValueError, KeyError, TypeError):
        return "another process"
