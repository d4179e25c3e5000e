"""A disk that is full from one step of a write on, and a process that is killed at that step."""

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def counted(step: Callable[[], None]) -> Iterator[None]:
    """Call `step` before everything that changes a disk, but for removals."""
    open_file = io.open

    def opened(file: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        if not set(mode) & set("wax+"):
            return open_file(file, mode, *args, **named)
        step()
        return _Counted(open_file(file, mode, *args, **named), step)

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **named: Any) -> Any:
            step()
            return function(*args, **named)

        return called

    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdir", "rename", "replace", "fsync"):
            patch.setattr(os, name, before(getattr(os, name)))
        for module in (io, builtins):
            patch.setattr(module, "open", opened)
        yield


class _Counted:
    def __init__(self, file: Any, step: Callable[[], None]) -> None:
        self.file, self.step = file, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "_Counted":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: Any) -> int:
        self.step()
        return int(self.file.write(data))


def every_full_disk(write: Callable[[], object]) -> Iterator[OSError]:
    """Call `write` on a disk that is full from its first step on, then its second, and so on.

    Yields
    ------
    error : OSError
        After each call that failed. The disk has space again.
    """
    for full_from in range(1, 1000):
        steps = 0

        def step(full_from: int = full_from) -> None:
            nonlocal steps
            steps += 1
            if steps >= full_from:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        try:
            with counted(step):
                write()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            yield error
        else:
            assert full_from > 3, "nothing was counted"
            return


def every_kill(write: Callable[[], object]) -> Iterator[None]:
    """Call `write` in processes of its own, killed before the first step, then the second, ..."""
    for killed_at in range(1, 1000):
        process = os.fork()
        if not process:
            steps = 0

            def step(killed_at: int = killed_at) -> None:
                nonlocal steps
                steps += 1
                if steps == killed_at:
                    os._exit(9)

            try:
                with counted(step):
                    write()
            except BaseException:
                os._exit(1)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert code in (0, 9)
        if code == 0:
            assert killed_at > 3, "nothing was counted"
            return
        yield
