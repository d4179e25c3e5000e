"""A worker of a run on Ray: it reads photos, computes, and writes shards on its machine."""

import os
import threading
from collections.abc import Container, Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import PIL
import pooch
from numpy.typing import NDArray

from extract.compute import pipeline
from extract.compute.job import Job
from extract.compute.pipeline import Computed
from extract.engines import selection
from extract.engines.base import Engine
from extract.photos import pixels
from extract.store.shards import Writer
from extract.system import lock
from extract.system.console import Stopped


class Worker:
    """An engine in a process of its own, on one machine of the cluster.

    Parameters
    ----------
    job : Job
    cores : int
        Processor cores that the worker may use.
    known : container of str
        Digests whose taps are in the cache. Photos of a task that have them are only read.
    """

    def __init__(self, job: Job, cores: int, known: Container[str] = ()) -> None:
        # `extract.system.machine.cores` and joblib read the number of cores from this variable.
        os.environ["LOKY_MAX_CPU_COUNT"] = str(cores)
        self.job = job
        self.engine: Engine | None = None
        self.messages = ""
        self.known = _Known(known)
        self.turn = threading.Lock()
        self.done = 0
        self.stopped = False

    def find_problem(self, marker: Path | None) -> str:
        """Return why this machine cannot take part, or an empty string if it can.

        Parameters
        ----------
        marker : Path or None
            A file that the coordinator has put into the shard folder; None if that is a URL.
        """
        root = self.job.root
        if isinstance(root, Path) and not root.is_dir():
            return f"there is no folder {root}; put the photos where all machines see them"
        if marker and not marker.exists():
            return (
                f"{marker.parent} is not the same folder as on the other machines; name a folder "
                "that all machines see, or a URL, with --cache"
            )
        if self.job.recipe.get("pixels_differ", {}) != pixels.differences():
            return (
                f"its Pillow {PIL.__version__} makes other pixels than Pillow here; install the "
                "same version on all machines"
            )
        return ""

    def compute(self, paths: Sequence[str]) -> tuple[Computed, str]:
        """Compute photos and write their features as a shard.

        It may be called while it is at work. The photos of the second call are read and decoded
        while those of the first go through the network, and then wait for their turn.

        Parameters
        ----------
        paths : sequence of str
            Photos, relative to the root of the job.

        Returns
        -------
        computed : Computed
            Empty if the worker was told to stop. What it had computed by then is written.
        messages : str
            Lines for the user: which engine was chosen, and why.

        Raises
        ------
        InputError
            If the engine is not installed on this machine.
        """
        computed = Computed.nothing()
        job = self.job
        # The shard is written at the end, when it is the turn of the next photos.
        images = len(paths) + 1
        with (
            suppress(Stopped),
            Writer(job.shard_folder, job.recipe, images=images) as writer,
            ExitStack() as turn,
        ):
            computed = pipeline.compute(
                job.root,
                paths,
                build_engine=partial(self._engine_in_turn, turn, writer),
                writer=writer,
                advance=self._advance,
                known=self.known,
            )
        self.known.computed |= set(computed.digests.values())
        messages, self.messages = self.messages, ""
        return computed, messages

    def count(self) -> int:
        """Return how many photos this worker has finished since it started."""
        return self.done

    def stop(self) -> None:
        """Make `compute` write what it holds and return."""
        self.stopped = True

    def _advance(self, n: int) -> None:
        self.done += n
        if self.stopped:
            raise Stopped(0)

    def _engine_in_turn(self, turn: ExitStack, writer: Writer, photos: NDArray[np.uint8]) -> Engine:
        """Wait until no other call uses the engine; it is free again at the end of `turn`."""
        turn.enter_context(self.turn)
        # The time that these photos take begins now.
        writer.flush()
        if self.stopped:
            raise Stopped(0)
        return self._engine(photos)

    def _engine(self, photos: NDArray[np.uint8]) -> Engine:
        """Return the engine; it is chosen for the first photos and kept."""
        if self.engine is None:
            job, folder = self.job, self.job.local_folder
            if not folder.is_dir():
                folder = Path(pooch.os_cache("onepass"), folder.name)
            # Two workers of one machine must not time engines at the same moment.
            with redirect_stdout(StringIO()) as said, lock.held(folder / "engines.lock"):
                # Whoever starts a cluster has many photos.
                self.engine = selection.choose(
                    *(job.engine, job.weights, photos),
                    folder=folder,
                    expected=selection.WORTH_TUNING,
                    outputs=job.taps,
                )
            self.messages = said.getvalue()
        return self.engine


class _Known:
    """The digests whose taps were in the cache at the start, or were computed by this worker."""

    def __init__(self, before: Container[str]) -> None:
        self.before = before
        self.computed: set[str] = set()

    def __contains__(self, digest: object) -> bool:
        return digest in self.computed or digest in self.before
