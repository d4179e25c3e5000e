import threading
import time
from contextlib import closing

import pytest

from extract.system import threads


def test_results_come_in_order_and_no_more_than_the_limit_is_begun() -> None:
    begun = []

    def slow(n: int) -> int:
        begun.append(n)
        time.sleep(0.01 if n % 3 else 0.03)
        return n * n

    with closing(threads.ahead(slow, range(1000), workers=3, limit=5)) as results:
        assert [next(results) for _ in range(20)] == [n * n for n in range(20)]
        time.sleep(0.1)
        assert len(begun) <= 26


def test_threads_are_added_while_results_are_waited_for() -> None:
    working, most = 0, 0
    lock = threading.Lock()

    def slow(n: int) -> None:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        time.sleep(0.02)
        with lock:
            working -= 1

    assert len(list(threads.ahead(slow, range(40), workers=4, limit=12))) == 40
    assert most == 4


def test_one_thread_is_enough_for_results_that_nobody_waits_for() -> None:
    done: list[int] = []

    def work(n: int) -> None:
        done.append(threading.get_ident())
        # Only the first four are waited for.
        time.sleep(0.02 if n < 4 else 0)

    with closing(threads.ahead(work, range(1000), workers=4, limit=12)) as results:
        for taken in range(30):
            next(results)
            deadline = time.monotonic() + 5
            while len(done) < taken + 13 and time.monotonic() < deadline:
                time.sleep(0.001)
    assert len(set(done[:8])) > 1
    assert len(set(done[30:])) == 1


def test_the_limit_may_change_meanwhile() -> None:
    begun: list[int] = []
    limit = 3
    with closing(threads.ahead(begun.append, range(1000), workers=2, limit=lambda: limit)) as some:
        next(some)
        time.sleep(0.05)
        assert len(begun) <= 4
        limit = 20
        next(some)
        time.sleep(0.05)
        assert 4 < len(begun) <= 22


def test_an_error_comes_in_the_place_of_its_result() -> None:
    results = threads.ahead(lambda n: 10 // n, [5, 2, 0, 1], workers=2, limit=2)
    assert [next(results), next(results)] == [2, 5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_who_stops_does_not_wait_for_a_thread_that_is_at_work() -> None:
    begun, free, done = threading.Event(), threading.Event(), []

    def work(n: int) -> int:
        if n:
            begun.set()
            free.wait(5)
        done.append(n)
        return n

    results = threads.ahead(work, [0, 1, 2, 3], workers=1, limit=2, patience=0.05)
    assert next(results) == 0
    assert begun.wait(5)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 1
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.endswith("(_work)"))
    free.set()
    time.sleep(0.1)
    assert done == [0, 1], "what was not begun is left"


def test_without_a_limit_of_time_it_is_waited_for() -> None:
    done = []

    def work(n: int) -> None:
        time.sleep(0.2 * n)
        done.append(n)

    results = threads.ahead(work, [0, 1, 2], workers=1, limit=1, patience=None)
    next(results)
    time.sleep(0.05)
    results.close()
    assert done == [0, 1]
