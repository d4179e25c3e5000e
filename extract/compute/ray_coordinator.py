"""Photos through the network on many machines: ``python -m extract DATA --on ray``.

Ray does the spreading. The missing photos are cut into pieces, each to become a shard; on every
machine of the cluster are extractors, which read, compute and write. This process plans, watches
and, in the end, publishes.
"""

import math
import re
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from extract.compute.pipeline import Computed
from extract.compute.ray_cluster import connected
from extract.compute.ray_worker import Extractor
from extract.store.shards import SHARD_IMAGES
from extract.system.console import InputError, count, finishing, say, warn
from extract.system.locations import Location
from extract.vgg16.weights import Weights

CORES = 8
"""Of one extractor, at most: a larger machine has several."""

PIECES_EACH = 4
"""Pieces for each extractor, at least, so that none waits long for another at the end."""

LOSSES = 2
"""Extractors that a piece may cost before it is halved, and a photo before it is skipped."""

IN_A_ROW = 2 * (LOSSES + math.ceil(math.log2(SHARD_IMAGES)))
"""Extractors that a machine may lose with nothing done between: twice what one photo costs it."""

WATCH_SECONDS = 0.5
STOP_SECONDS = 30.0
PATIENCE_SECONDS = 30.0

Advance = Callable[[int, str], None]


@dataclass
class Piece:
    """Photos that become one shard, and how many extractors they have cost."""

    paths: Sequence[str]
    losses: int = 0


class Share(NamedTuple):
    """What an extractor has of its machine."""

    cores: int
    gpus: int


def compute(
    root: Location,
    paths: Sequence[str],
    *,
    on: str,
    weights: Weights,
    recipe: dict[str, Any],
    folder: Location,
    own: Path,
    engine: str,
    advance: Advance,
) -> Computed:
    """Run the network over files on all machines of a cluster, which write the shards.

    Machines may join or be lost meanwhile: what a lost one was at is done by the others.

    Parameters
    ----------
    root : Path or UPath
    paths : sequence of str
        Files to try, relative to `root`.
    on : str
        See `extract.compute.ray_cluster.connected`.
    weights : Weights
    recipe : dict
    folder : Path or UPath
        Of the recipe's shards.
    own : Path
        Of its engines; a machine that does not see it keeps them in a folder of its own.
    engine : str
        See `extract.engines.selection.choose`.
    advance : callable
        Told how many files are done, and by which extractor.

    Raises
    ------
    InputError
        If the cluster does not answer or no machine of it can take part.
    """
    folder = folder.absolute()
    with finishing() as check, connected(on) as ray, _marked(folder) as mark:
        arguments = ray.put(weights), recipe, folder, own.absolute(), engine
        crew = _Crew(ray, root, mark, arguments, advance)
        try:
            return crew.compute(paths, check)
        finally:
            crew.stop()


def shares(resources: Mapping[str, float]) -> list[Share]:
    """Return what each extractor on a machine with these resources has of it."""
    cores, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    extractors = gpus or math.ceil(cores / CORES)
    return [Share(max(1, cores // extractors), min(gpus, 1)) for _ in range(extractors)]


def cut(paths: Sequence[str], extractors: int) -> list[Piece]:
    """Cut files into pieces of at most a shard, so small that every extractor gets some."""
    size = min(SHARD_IMAGES, math.ceil(len(paths) / (PIECES_EACH * extractors)))
    return [Piece(paths[start : start + size]) for start in range(0, len(paths), size)]


def halves(piece: Piece) -> list[Piece]:
    """Cut a piece in two, each of which is halved again as soon as it costs an extractor."""
    middle = len(piece.paths) // 2
    return [Piece(paths, LOSSES - 1) for paths in (piece.paths[:middle], piece.paths[middle:])]


@contextmanager
def _marked(folder: Location) -> Iterator[Path | None]:
    """Put a file where the shards go, by which a machine knows the folder; a URL needs none."""
    if not isinstance(folder, Path):
        yield None
        return
    mark = folder / f".{secrets.token_hex(8)}.tmp"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


@dataclass
class _Member:
    """An extractor of the crew.

    Attributes
    ----------
    name : str
        For people.
    machine : str
        Ray's name of it.
    actor : handle of an Extractor
    answer : reference
        To what it was asked last: whether it can take part, then one piece after the other.
    piece : Piece or None
        What it is at.
    ready : bool
        For a piece.
    counting : reference
        To the number of photos that it has done.
    counted : int
        What that was last.
    finished : int
        Photos of whole pieces.
    seconds : float
        That these took.
    since : float
        When it was given its piece.
    """

    name: str
    machine: str
    actor: Any
    answer: Any
    counting: Any
    piece: Piece | None = None
    ready: bool = False
    counted: int = 0
    finished: int = 0
    seconds: float = 0.0
    since: float = 0.0


class _Crew:
    """All extractors, and what is left for them to do."""

    def __init__(
        self,
        ray: Any,
        root: Location,
        mark: Path | None,
        arguments: tuple[Any, ...],
        advance: Advance,
    ) -> None:
        self.ray = ray
        self.extractor = ray.remote(Extractor)
        self.root = root
        self.mark = mark
        self.arguments = arguments
        self.advance = advance
        self.members: dict[tuple[str, int], _Member] = {}
        self.unsuited: dict[str, str] = {}
        self.in_a_row: Counter[str] = Counter()
        self.pieces: deque[Piece] = deque()
        self.done = Computed.nothing()
        self.said: set[str] = set()

    def compute(self, paths: Sequence[str], check: Callable[[], None]) -> Computed:
        """Have all files computed, calling `check` again and again."""
        self._recruit()
        self.pieces.extend(cut(paths, len(self.members)))
        self._await_one(check)
        while self.pieces or any(member.piece for member in self.members.values()):
            check()
            self._recruit()
            self._give()
            asked = {m.answer: key for key, m in self.members.items() if not m.ready}
            answered, _ = self.ray.wait([*asked], timeout=WATCH_SECONDS)
            for answer in answered:
                self._take(asked[answer])
            self._watch()
        speeds = [
            f"{m.name} {m.finished / m.seconds:.1f}" for m in self.members.values() if m.finished
        ]
        say(f"photos/s: {', '.join(speeds)}")
        return self.done

    def _await_one(self, check: Callable[[], None]) -> None:
        """Wait until anyone answers, which may be as long as others have all processors."""
        started, told = time.monotonic(), False
        answers = [member.answer for member in self.members.values()]
        while not self.ray.wait(answers, timeout=WATCH_SECONDS)[0]:
            check()
            if not told and time.monotonic() - started > PATIENCE_SECONDS:
                warn("waiting for processors of the cluster; ray status tells who has them")
                told = True

    def stop(self) -> None:
        """Have everyone write what it holds."""
        working = [member for member in self.members.values() if member.piece]
        for member in working:
            member.actor.stop.remote()
        if working:
            answers = [member.answer for member in working]
            self.ray.wait(answers, num_returns=len(answers), timeout=STOP_SECONDS)

    def _recruit(self) -> None:
        """Start extractors on the machines that have none."""
        for node in self.ray.nodes():
            machine = node["NodeID"]
            if node["Alive"] and machine not in self.unsuited:
                for number, share in enumerate(shares(node["Resources"])):
                    if (machine, number) not in self.members:
                        name = f"{node['NodeManagerHostname']}-{machine[:4]}-{number}"
                        self.members[machine, number] = self._member(name, machine, share)
        if not self.members:
            reasons = "; ".join(self.unsuited.values()) or "it has no processors"
            raise InputError(f"no machine of the cluster can take part: {reasons}")

    def _member(self, name: str, machine: str, share: Share) -> _Member:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = self.extractor.options(
            num_cpus=share.cores,
            num_gpus=share.gpus,
            # One thread computes, the other answers meanwhile.
            max_concurrency=2,
            scheduling_strategy=NodeAffinitySchedulingStrategy(machine, soft=False),
        ).remote(*self.arguments, share.cores)
        answer = actor.unsuited.remote(self.root, self.mark)
        return _Member(name, machine, actor, answer, actor.count.remote())

    def _give(self) -> None:
        """Give a piece to everyone who is ready for one."""
        for member in self.members.values():
            if member.ready and self.pieces:
                member.piece, member.ready = self.pieces.popleft(), False
                member.since = time.monotonic()
                member.answer = member.actor.compute.remote(self.root, member.piece.paths)

    def _take(self, key: tuple[str, int]) -> None:
        """Take an answer, or learn that there will be none."""
        member = self.members[key]
        try:
            answer = self.ray.get(member.answer)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise InputError(f"{member.name}: {error.cause}") from error
            raise error.cause from error
        except self.ray.exceptions.RayError as error:
            self._lose(self.members.pop(key), str(error))
            return
        member.ready = True
        if member.piece:
            self._finish(member, member.piece, *answer)
        elif answer:
            self._leave_out(member, answer)
            del self.members[key]

    def _finish(self, member: _Member, piece: Piece, computed: Computed, said: str) -> None:
        for line in said.splitlines():
            # Machines of one kind have the same to say.
            if line not in self.said:
                say(line)
            self.said.add(line)
        self.done.add(computed)
        self.in_a_row[member.machine] = 0
        member.finished += len(piece.paths)
        member.seconds += time.monotonic() - member.since
        member.piece = None
        self._advance(member, member.finished)

    def _lose(self, member: _Member, reason: str) -> None:
        """See that others do what a lost extractor was at."""
        alive = {node["NodeID"] for node in self.ray.nodes() if node["Alive"]}
        at_fault = member.machine in alive
        warn(f"lost: {member.name} ({re.split('[,:] ', reason.splitlines()[0])[0]})")
        # It may be out of reach only, and would keep its cores.
        self.ray.kill(member.actor)
        self._advance(member, member.finished)
        self.in_a_row[member.machine] += 1
        if at_fault and self.in_a_row[member.machine] == IN_A_ROW:
            self._leave_out(member, f"it lost {IN_A_ROW} extractors in a row")
        piece = member.piece
        if piece is None:
            if at_fault:
                self._leave_out(member, reason.splitlines()[-1])
            return
        piece.losses += at_fault
        if piece.losses < LOSSES:
            warn(f"  {count(len(piece.paths), 'photo')} it was at, to be done by another")
            self.pieces.appendleft(piece)
        elif len(piece.paths) > 1:
            self.pieces.extendleft(halves(piece))
        else:
            self.done.unreadable[piece.paths[0]] = f"ended the process that read it, {LOSSES} times"

    def _leave_out(self, member: _Member, reason: str) -> None:
        if member.machine not in self.unsuited:
            self.unsuited[member.machine] = f"{member.name}: {reason}"
            warn(f"left out: {member.name}: {reason}")

    def _watch(self) -> None:
        """See how far everyone is."""
        counting = {member.counting: member for member in self.members.values()}
        counted, _ = self.ray.wait([*counting], num_returns=len(counting), timeout=0)
        for reference in counted:
            member = counting[reference]
            # Of one that is lost the next answer will tell.
            with suppress(self.ray.exceptions.RayError):
                self._advance(member, max(member.counted, self.ray.get(reference)))
                member.counting = member.actor.count.remote()

    def _advance(self, member: _Member, photos: int) -> None:
        self.advance(photos - member.counted, member.name)
        member.counted = photos
