"""Compute photos on all machines of a Ray cluster: ``python -m extract DATA --on ray``.

The coordinator runs where the command was given. It cuts the photos into tasks, keeps a worker busy
on every GPU or every eight cores of the cluster, and gives the task of a lost worker to another.
The workers read the photos and write the shards; see `extract.compute.ray_worker`.
"""

import math
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from extract.compute.digest_set import DigestSet
from extract.compute.job import Job
from extract.compute.pipeline import Computed
from extract.compute.ray_cluster import connected
from extract.compute.ray_worker import Worker
from extract.store.shards import SHARD_IMAGES
from extract.system import atomic
from extract.system.console import InputError, count, finishing, say, warn
from extract.system.locations import Location

CORES_PER_WORKER = 8
"""A machine without a GPU has one worker for this many cores."""

TASKS_PER_WORKER = 4
"""Each worker gets at least this many tasks, so that none waits long for another at the end."""

TASKS_AT_ONCE = 2
"""While a worker computes the photos of one task, it reads and decodes those of another."""

MAX_LOSSES = 2
"""A task that lost this many workers is halved; a task of one photo is skipped."""

MAX_LOSSES_IN_A_ROW = 2 * (MAX_LOSSES + math.ceil(math.log2(SHARD_IMAGES)))
"""A machine that lost this many workers, and finished no task in between, is left out.

The search for one harmful photo costs half as many workers.
"""

POLL_SECONDS = 0.5
STOP_SECONDS = 30.0
NOTICE_SECONDS = 30.0

Advance = Callable[[int, str], None]

Learn = Callable[[Mapping[str, str]], None]


@dataclass
class Task:
    """Photos that one worker computes in one request, and how many workers were lost over them."""

    paths: Sequence[str]
    losses: int = 0


class WorkerResources(NamedTuple):
    """What a worker reserves on its machine."""

    cores: int
    gpus: int


@dataclass
class WorkerHandle:
    """What the coordinator knows about a worker.

    Attributes
    ----------
    name : str
        Shown to the user.
    node_id : str
        Ray's name for the machine.
    actor : ray.actor.ActorHandle
    problem : ray.ObjectRef
        The answer to `Worker.find_problem`.
    answer_to_count : ray.ObjectRef
        The answer to the last `Worker.count`.
    ready : bool
        Whether the worker can be given tasks, because it has no problem.
    tasks : dict of ray.ObjectRef to Task
        What the worker computes now, and what it reads meanwhile, by the answer that is awaited.
    counted : int
        Photos that the progress bar has counted.
    finished : int
        Photos in finished tasks.
    seconds : float
        Time spent on finished tasks.
    since : float
        When the time of the task that the worker computes began, on the clock `time.monotonic`.
    """

    name: str
    node_id: str
    actor: Any
    problem: Any
    answer_to_count: Any
    ready: bool = False
    tasks: dict[Any, Task] = field(default_factory=dict)
    counted: int = 0
    finished: int = 0
    seconds: float = 0.0
    since: float = 0.0

    def may_take(self, task: Task) -> bool:
        """Say whether the worker may be given a task now.

        A task that lost a worker has one to itself, so that the next loss is surely its fault.
        """
        suspect = task.losses or any(other.losses for other in self.tasks.values())
        return self.ready and len(self.tasks) < (1 if suspect else TASKS_AT_ONCE)


def compute(
    job: Job,
    paths: Sequence[str],
    *,
    on: str,
    advance: Advance,
    known: Collection[str] = (),
    learn: Learn = lambda digests: None,
) -> Computed:
    """Compute photos on all machines of a cluster; the machines write the shards.

    Machines may join or be lost while this runs.

    Parameters
    ----------
    job : Job
    paths : sequence of str
        Photos, relative to the root of the job.
    on : str
        See `extract.compute.ray_cluster.connected`.
    advance : callable
        Called with a number of finished photos and the name of the worker that finished them. The
        number is negative when a lost worker's unfinished task is taken back.
    known : collection of str
        Digests whose taps are in the cache; the photos that have them are only read.
    learn : callable
        Called with the digests of the photos of each finished task.

    Returns
    -------
    computed : Computed

    Raises
    ------
    InputError
        If the cluster does not answer, no machine can take part, or a worker lacks the engine.
    """
    job = replace(
        job,
        shard_folder=job.shard_folder.absolute(),
        local_folder=job.local_folder.absolute(),
    )
    with finishing() as check, connected(on) as ray, _marker(job.shard_folder) as marker:
        given = ray.put(job), ray.put(DigestSet(known))
        coordinator = Coordinator(ray, given, marker, advance, learn)
        try:
            return coordinator.compute(paths, check)
        finally:
            coordinator.stop()


def plan_workers(resources: Mapping[str, float]) -> list[WorkerResources]:
    """Return what each worker of a machine reserves of these resources."""
    cores, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    workers = gpus or math.ceil(cores / CORES_PER_WORKER)
    return [WorkerResources(max(1, cores // workers), min(gpus, 1)) for _ in range(workers)]


def make_tasks(paths: Sequence[str], workers: int) -> list[Task]:
    """Cut photos into tasks of at most one shard, small enough that every worker gets several."""
    size = min(SHARD_IMAGES, math.ceil(len(paths) / (TASKS_PER_WORKER * workers)))
    return [Task(paths[start : start + size]) for start in range(0, len(paths), size)]


def halve(task: Task) -> list[Task]:
    """Cut a task in two. Each half is halved again as soon as one worker is lost over it."""
    middle = len(task.paths) // 2
    return [Task(paths, MAX_LOSSES - 1) for paths in (task.paths[:middle], task.paths[middle:])]


@contextmanager
def _marker(folder: Location) -> Iterator[Path | None]:
    """Keep a file in the shard folder, so that machines can recognise it; a URL needs none."""
    if not isinstance(folder, Path):
        yield None
        return
    with atomic.writing(folder):
        marker = atomic.temporary(folder / "marker")
        marker.touch()
        try:
            yield marker
        finally:
            marker.unlink(missing_ok=True)


class Coordinator:
    """The workers of a run and the tasks that are left.

    Parameters
    ----------
    ray : module
        Ray, connected to the cluster.
    given : tuple of ray.ObjectRef
        The job and the known digests, for every worker.
    marker : Path or None
        See `Worker.find_problem`.
    advance, learn : callable
        See `compute`.
    """

    def __init__(
        self, ray: Any, given: tuple[Any, Any], marker: Path | None, advance: Advance, learn: Learn
    ) -> None:
        self.ray = ray
        self.actor_class = ray.remote(Worker)
        self.job, self.known = given
        self.marker = marker
        self.advance = advance
        self.learn = learn
        self.workers: dict[tuple[str, int], WorkerHandle] = {}
        self.left_out: dict[str, str] = {}
        self.losses_in_a_row: Counter[str] = Counter()
        self.tasks: deque[Task] = deque()
        self.done = Computed.nothing()
        self.messages: set[str] = set()

    def compute(self, paths: Sequence[str], check: Callable[[], None]) -> Computed:
        """Let the workers compute all photos; `check` is called often and may raise Stopped."""
        self._start_workers()
        self.tasks.extend(make_tasks(paths, len(self.workers)))
        notice_due: float = time.monotonic() + NOTICE_SECONDS
        while self.tasks or any(worker.tasks for worker in self.workers.values()):
            check()
            self._start_workers()
            self._give_tasks()
            waiting = {
                answer: key
                for key, worker in self.workers.items()
                for answer in (worker.tasks if worker.ready else [worker.problem])
            }
            answered, _ = self.ray.wait([*waiting], timeout=POLL_SECONDS)
            for answer in answered:
                notice_due = math.inf
                self._take_answer(waiting[answer], answer)
            self._poll_counts()
            if time.monotonic() > notice_due:
                notice_due = math.inf
                warn("waiting for free processors; ray status shows who uses the cluster")
        speeds = [
            f"{w.name} {w.finished / w.seconds:.1f}" for w in self.workers.values() if w.finished
        ]
        say(f"photos/s: {', '.join(speeds)}")
        return self.done

    def stop(self) -> None:
        """Tell all workers to write what they hold, and wait for them for a limited time."""
        busy = [worker for worker in self.workers.values() if worker.tasks]
        for worker in busy:
            worker.actor.stop.remote()
        if busy:
            answers = [answer for worker in busy for answer in worker.tasks]
            self.ray.wait(answers, num_returns=len(answers), timeout=STOP_SECONDS)

    def _start_workers(self) -> None:
        """Start the workers that new machines lack, and replace those that were lost."""
        for node in self.ray.nodes():
            node_id = node["NodeID"]
            if not node["Alive"] or node_id in self.left_out:
                continue
            for number, resources in enumerate(plan_workers(node["Resources"])):
                if (node_id, number) not in self.workers:
                    name = f"{node['NodeManagerHostname']}-{node_id[:4]}-{number}"
                    self.workers[node_id, number] = self._start_worker(name, node_id, resources)
        if not self.workers:
            reasons = "; ".join(self.left_out.values()) or "it has no processors"
            raise InputError(f"no machine of the cluster can take part: {reasons}")

    def _start_worker(self, name: str, node_id: str, resources: WorkerResources) -> WorkerHandle:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = self.actor_class.options(
            num_cpus=resources.cores,
            num_gpus=resources.gpus,
            # One thread more answers `count` and `stop`.
            max_concurrency=TASKS_AT_ONCE + 1,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        ).remote(self.job, resources.cores, self.known)
        problem = actor.find_problem.remote(self.marker)
        return WorkerHandle(name, node_id, actor, problem, actor.count.remote())

    def _give_tasks(self) -> None:
        """Give every worker a task to compute and one to read meanwhile, while there are any."""
        for number in range(TASKS_AT_ONCE):
            for worker in self.workers.values():
                if self.tasks and len(worker.tasks) == number and worker.may_take(self.tasks[0]):
                    task = self.tasks.popleft()
                    if not worker.tasks:
                        worker.since = time.monotonic()
                    worker.tasks[worker.actor.compute.remote(task.paths)] = task

    def _take_answer(self, key: tuple[str, int], awaited: Any) -> None:
        """Take the answer of a worker, or note that the worker was lost."""
        worker = self.workers[key]
        try:
            answer = self.ray.get(awaited)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise InputError(f"{worker.name}: {error.cause}") from error
            raise error.cause from error
        except self.ray.exceptions.RayError as error:
            self._handle_loss(self.workers.pop(key), str(error))
            return
        if awaited in worker.tasks:
            self._finish(worker, worker.tasks.pop(awaited), *answer)
        elif answer:
            self._leave_out(worker, answer)
            del self.workers[key]
        else:
            worker.ready = True

    def _finish(self, worker: WorkerHandle, task: Task, computed: Computed, messages: str) -> None:
        for line in messages.splitlines():
            # Machines of one kind send the same messages.
            if line not in self.messages:
                say(line)
            self.messages.add(line)
        self.done.add(computed)
        self.learn(computed.others | computed.digests)
        self.losses_in_a_row[worker.node_id] = 0
        worker.finished += len(task.paths)
        now = time.monotonic()
        worker.seconds, worker.since = worker.seconds + now - worker.since, now
        # It may have begun the next task.
        self._update_count(worker, max(worker.counted, worker.finished))

    def _handle_loss(self, worker: WorkerHandle, reason: str) -> None:
        """Put the task of a lost worker back, and leave its machine out if that is at fault."""
        warn(f"lost: {worker.name} ({re.split('[,:] ', reason.splitlines()[0])[0]})")
        # The worker may only be out of reach, and then it would keep its cores.
        self.ray.kill(worker.actor)
        self._update_count(worker, worker.finished)
        machine_is_alive = any(
            node["Alive"] for node in self.ray.nodes() if node["NodeID"] == worker.node_id
        )
        if machine_is_alive:
            self._judge_machine(worker, reason)
        for task in worker.tasks.values():
            # A task is not at fault if the whole machine was lost.
            task.losses += machine_is_alive
            self._put_back(task)

    def _judge_machine(self, worker: WorkerHandle, reason: str) -> None:
        """Leave a machine out if its workers do not start, or too many were lost in a row."""
        self.losses_in_a_row[worker.node_id] += 1
        if not worker.tasks:
            self._leave_out(worker, reason.splitlines()[-1])
        elif self.losses_in_a_row[worker.node_id] == MAX_LOSSES_IN_A_ROW:
            self._leave_out(worker, f"it lost {MAX_LOSSES_IN_A_ROW} workers in a row")

    def _put_back(self, task: Task) -> None:
        """Leave a task to another worker, halve it, or skip its only photo."""
        if task.losses < MAX_LOSSES:
            warn(f"  another worker computes its {count(len(task.paths), 'photo')}")
            self.tasks.appendleft(task)
        elif len(task.paths) > 1:
            self.tasks.extendleft(halve(task))
        else:
            reason = f"ended the process that read it, {MAX_LOSSES} times"
            self.done.unreadable[task.paths[0]] = reason

    def _leave_out(self, worker: WorkerHandle, reason: str) -> None:
        if worker.node_id not in self.left_out:
            self.left_out[worker.node_id] = f"{worker.name}: {reason}"
            warn(f"left out: {worker.name}: {reason}")

    def _poll_counts(self) -> None:
        """Show how many photos each worker has finished."""
        asked = {worker.answer_to_count: worker for worker in self.workers.values()}
        answered, _ = self.ray.wait([*asked], num_returns=len(asked), timeout=0)
        for answer in answered:
            worker = asked[answer]
            # The answer to the worker's task will show that it was lost.
            with suppress(self.ray.exceptions.RayError):
                self._update_count(worker, max(worker.counted, self.ray.get(answer)))
                worker.answer_to_count = worker.actor.count.remote()

    def _update_count(self, worker: WorkerHandle, photos: int) -> None:
        self.advance(photos - worker.counted, worker.name)
        worker.counted = photos
