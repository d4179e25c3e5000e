"""Threads that work ahead of whoever takes their results, and that no exit has to wait for."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

Given = TypeVar("Given")

Made = TypeVar("Made")

PATIENCE = 0.5
"""Seconds to wait for readers when their results are no longer wanted. No signal reaches a thread
that decodes, and some photos take minutes."""


def ahead(
    function: Callable[[Given], Made],
    items: Iterable[Given],
    *,
    workers: int | Callable[[], int],
    limit: int | Callable[[], int],
    patience: float | None = PATIENCE,
) -> Generator[Made, None, None]:
    """Yield `function` of every item, in order; threads compute at most `limit` items ahead.

    There are as many threads as the results are wanted fast. It begins with one, and another is
    added whenever the next result has to be waited for. One ends whenever all results have been
    computed before the next is wanted.

    Parameters
    ----------
    function : callable
    items : iterable
    workers, limit : int, or callable without arguments that returns one
        The number of threads, at most, and of items. A callable is asked before each result, so
        that it may change.
    patience : float or None
        How many seconds the generator waits for its threads when it is closed. A thread that is
        still at work then ends with the process. None waits for all of them.
    """
    crew = _Crew(function, workers)
    running: deque[Future[Made]] = deque()
    try:
        for item in items:
            if running and running[-1].done():
                crew.shrink()
            running.append(crew.start(item))
            while len(running) > (limit if isinstance(limit, int) else limit()):
                yield crew.result(running.popleft())
        while running:
            yield crew.result(running.popleft())
    finally:
        for future in running:
            future.cancel()
        crew.end(patience)


class _Crew(Generic[Given, Made]):
    """Threads that take items from a queue, in their order; their number changes with demand."""

    def __init__(self, function: Callable[[Given], Made], most: int | Callable[[], int]) -> None:
        self.function = function
        self.most = most
        self.tasks: SimpleQueue[tuple[Future[Made], Given] | None] = SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.working = 0

    def start(self, item: Given) -> Future[Made]:
        """Have the function of an item computed."""
        future: Future[Made] = Future()
        self.tasks.put((future, item))
        if not self.working:
            self.grow()
        return future

    def result(self, future: Future[Made]) -> Made:
        """Wait for a result, with one more thread if it is not there yet."""
        if not future.done():
            self.grow()
        return future.result()

    def grow(self) -> None:
        if self.working < (self.most if isinstance(self.most, int) else self.most()):
            # concurrent.futures would join its threads at exit.
            thread = threading.Thread(target=_work, args=(self.function, self.tasks), daemon=True)
            thread.start()
            self.threads = [other for other in self.threads if other.is_alive()] + [thread]
            self.working += 1

    def shrink(self) -> None:
        if self.working > 1:
            self.tasks.put(None)
            self.working -= 1

    def end(self, patience: float | None) -> None:
        """Let each thread finish the item that it is at, and wait for them."""
        for _ in range(self.working):
            self.tasks.put(None)
        deadline = None if patience is None else time.monotonic() + patience
        for thread in self.threads:
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
