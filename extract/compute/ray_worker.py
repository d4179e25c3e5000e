"""A worker of a run on Ray: it reads photos, computes, and writes shards on its machine."""

import os
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
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
    """

    def __init__(self, job: Job, cores: int) -> None:
        # `extract.system.machine.cores` and joblib read the number of cores from this variable.
        os.environ["LOKY_MAX_CPU_COUNT"] = str(cores)
        self.job = job
        self.engine: Engine | None = None
        self.messages = StringIO()
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
        """Compute photos and write their features as shards.

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
        with suppress(Stopped), Writer(job.shard_folder, job.recipe) as writer:
            computed = pipeline.compute(
                job.root,
                paths,
                build_engine=self._engine,
                writer=writer,
                advance=self._advance,
                size=job.recipe["size"],
            )
        messages, self.messages = self.messages.getvalue(), StringIO()
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

    def _engine(self, photos: NDArray[np.uint8]) -> Engine:
        """Return the engine; it is chosen for the first photos and kept."""
        if self.engine is None:
            job, folder = self.job, self.job.local_folder
            if not folder.is_dir():
                folder = Path(pooch.os_cache("onepass"), folder.name)
            # Two workers of one machine must not time engines at the same moment.
            with redirect_stdout(self.messages), lock.held(folder / "engines.lock"):
                self.engine = selection.choose(job.engine, job.weights, photos, folder=folder)
        return self.engine
