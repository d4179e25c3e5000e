"""A joblib backend on Ray, with which heads are trained on all machines of a cluster.

Ray has its own backend for joblib (``ray.util.joblib``). That backend copies every argument for
each task, starts a new pool of processes for each search, returns nothing before all answers have
arrived, and does not replace a lost process.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
from joblib import Parallel, parallel_config
from joblib.parallel import BatchedCalls, ParallelBackendBase
from numpy.typing import NDArray

from extract.compute import ray_cluster

SHARED_FROM = 2**20
"""An array with at least this many bytes is put into shared memory; joblib has the same limit."""


@contextmanager
def parallel_on(on: str | None) -> Iterator[None]:
    """Choose where joblib runs the calls that are made inside the block.

    Parameters
    ----------
    on : str or None
        See `extract.compute.ray_cluster.connected`; None means this machine without Ray.

    Raises
    ------
    InputError
        If Ray is not installed or the cluster does not answer.
    """
    if on is None:
        yield
        return
    with ray_cluster.connected(on), parallel_config(RayBackend()):
        yield


class RayBackend(ParallelBackendBase):  # type: ignore[misc]
    """A backend of joblib that runs every call as a task of Ray; this process is connected to it.

    A large array is put into shared memory once, copied once to each machine that has a task with
    it, and read there by all processes without a copy. If a process or a machine is lost, its task
    is run by another.
    """

    supports_retrieve_callback = True

    def __init__(self) -> None:
        import ray

        super().__init__(nesting_level=0)
        self.ray: Any = ray
        self.run = ray.remote(_run)
        self.shared: dict[int, tuple[NDArray[Any], _Shared]] = {}

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Return how many tasks run at a time; -1 means all processors of the cluster."""
        processors = max(1, int(self.ray.cluster_resources().get("CPU", 0)))
        return min(n_jobs, processors) if n_jobs > 0 else processors

    def configure(self, n_jobs: int, parallel: Parallel, **options: Any) -> int:
        """Prepare for one use of `Parallel`; with a single job, joblib runs it in this process."""
        jobs: int = super().configure(n_jobs, parallel, **options)
        self.waiting = ThreadPoolExecutor(jobs)
        return jobs

    def submit(self, func: BatchedCalls, callback: Callable[[Any], None]) -> Future[Any]:
        """Send calls to Ray, and give their answer to `callback`."""
        func.items = [
            (call, [self._share(value) for value in values], named)
            for call, values, named in func.items
        ]
        # A thread waits for each answer: no task can be submitted from within Ray's own callbacks.
        future = self.waiting.submit(lambda: self.ray.get(self.run.remote(func)))
        future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return an answer, or raise what the calls raised."""
        return out.result()

    def terminate(self) -> None:
        """Release the shared arrays."""
        self.waiting.shutdown(wait=False, cancel_futures=True)
        self.shared.clear()

    def _share(self, value: Any) -> Any:
        """Put a large array into shared memory, even if it is a field of a dataclass."""
        if is_dataclass(value) and not isinstance(value, type):
            named = {field.name: getattr(value, field.name) for field in fields(value)}
            return replace(
                value, **{name: self._share(field_value) for name, field_value in named.items()}
            )
        if not isinstance(value, np.ndarray) or value.nbytes < SHARED_FROM:
            return value
        if id(value) not in self.shared:
            self.shared[id(value)] = value, _Shared(self.ray.get, self.ray.put(value))
        return self.shared[id(value)][1]


class _Shared:
    """Stands for an array in shared memory, and becomes it when it is unpickled."""

    def __init__(self, get: Callable[[Any], NDArray[Any]], reference: Any) -> None:
        self.get = get
        self.reference = reference

    def __reduce__(self) -> tuple[Callable[[Any], NDArray[Any]], tuple[Any]]:
        return self.get, (self.reference,)


def _run(calls: BatchedCalls) -> Any:
    return calls()
