"""Threads that work ahead of whoever takes their results, and that no exit has to wait for."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

Given = TypeVar("Given")

Made = TypeVar("Made")

PATIENCE = 0.5
"""Seconds to wait for readers when their results are no longer wanted. No signal reaches a thread
that decodes, and some photos take minutes."""


def ahead(
    function: Callable[[Given], Made],
    items: Iterable[Given],
    *,
    workers: int,
    limit: int,
    patience: float | None = PATIENCE,
) -> Generator[Made, None, None]:
    """Yield `function` of every item, in order; threads compute at most `limit` items ahead.

    Parameters
    ----------
    function : callable
    items : iterable
    workers : int
        The number of threads.
    limit : int
    patience : float or None
        How many seconds the generator waits for its threads when it is closed. A thread that is
        still at work then ends with the process. None waits for all of them.
    """
    tasks: SimpleQueue[tuple[Future[Made], Given] | None] = SimpleQueue()
    threads: list[threading.Thread] = []
    running: deque[Future[Made]] = deque()
    try:
        for item in items:
            future: Future[Made] = Future()
            tasks.put((future, item))
            running.append(future)
            if len(threads) < workers:
                # concurrent.futures would join its threads at exit.
                thread = threading.Thread(target=_work, args=(function, tasks), daemon=True)
                thread.start()
                threads.append(thread)
            if len(running) > limit:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()
        for _ in threads:
            tasks.put(None)
        deadline = None if patience is None else time.monotonic() + patience
        for thread in threads:
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0))


def _work(
    function: Callable[[Given], Made], tasks: "SimpleQueue[tuple[Future[Made], Given] | None]"
) -> None:
    while task := tasks.get():
        future, item = task
        if not future.set_running_or_notify_cancel():
            continue
        try:
            made = function(item)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(made)
            del made
        # A thread that waits must not keep what it computed last.
        del future, item, task
