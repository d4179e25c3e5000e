"""Where heads are searched: on this machine, or as tasks of Ray on all machines of a cluster.

Ray's own backend for joblib (``ray.util.joblib``) is not used. It keeps a copy of every argument
for each task, makes a new pool of processes for each search, and neither gives an answer before it
has all nor replaces a process that was lost.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from joblib import Parallel, parallel_config
from joblib.parallel import BatchedCalls, ParallelBackendBase
from numpy.typing import NDArray

from extract import ray_cluster

LARGE = 2**20
"""Bytes of an array from which on it is kept in shared memory, as joblib does on one machine."""


@contextmanager
def spread(on: str | None) -> Iterator[None]:
    """Run what joblib runs in the block where `on` says.

    Parameters
    ----------
    on : str or None
        See `extract.ray_cluster.connected`; None is this machine, without Ray.

    Raises
    ------
    InputError
        If Ray is not installed or the cluster does not answer.
    """
    if on is None:
        yield
        return
    with ray_cluster.connected(on), parallel_config(Tasks()):
        yield


class Tasks(ParallelBackendBase):  # type: ignore[misc]
    """A backend of joblib: every call is a task of Ray, to which this process is connected.

    A large array is put into shared memory once, is copied from there to each machine that has a
    task with it, and is read there by all processes without a copy. A task whose process or
    machine is lost is done by another.
    """

    supports_retrieve_callback = True

    def __init__(self) -> None:
        import ray

        super().__init__(nesting_level=0)
        self.ray: Any = ray
        self.run = ray.remote(_run)
        self.placed: dict[int, tuple[NDArray[Any], _Placed]] = {}

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Return how many tasks run at a time; all processors of the cluster are -1."""
        processors = max(1, int(self.ray.cluster_resources().get("CPU", 0)))
        return min(n_jobs, processors) if n_jobs > 0 else processors

    def configure(self, n_jobs: int, parallel: Parallel, **options: Any) -> int:
        """Prepare for a call of joblib, which does a single task at a time in this process."""
        jobs: int = super().configure(n_jobs, parallel, **options)
        self.waiting = ThreadPoolExecutor(jobs)
        return jobs

    def submit(self, func: BatchedCalls, callback: Callable[[Any], None]) -> Future[Any]:
        """Hand calls over to Ray, and their answer to `callback`."""
        func.items = [
            (call, [self._place(value) for value in values], named)
            for call, values, named in func.items
        ]
        # A thread waits for each: in what Ray itself calls back, Ray cannot be given another task.
        future = self.waiting.submit(lambda: self.ray.get(self.run.remote(func)))
        future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return an answer, or raise what the calls raised."""
        return out.result()

    def terminate(self) -> None:
        """Let go of the arrays that were placed."""
        self.waiting.shutdown(wait=False, cancel_futures=True)
        self.placed.clear()

    def _place(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.nbytes < LARGE:
            return value
        if id(value) not in self.placed:
            self.placed[id(value)] = value, _Placed(self.ray.get, self.ray.put(value))
        return self.placed[id(value)][1]


class _Placed:
    """What becomes an array again, in shared memory, where it is unpickled."""

    def __init__(self, get: Callable[[Any], NDArray[Any]], reference: Any) -> None:
        self.get = get
        self.reference = reference

    def __reduce__(self) -> tuple[Callable[[Any], NDArray[Any]], tuple[Any]]:
        return self.get, (self.reference,)


def _run(calls: BatchedCalls) -> Any:
    return calls()
