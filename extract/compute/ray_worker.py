"""An engine on a machine of a cluster: reads photos, computes them, writes shards."""

import os
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pooch
from numpy.typing import NDArray

from extract.compute import pipeline
from extract.compute.pipeline import Computed
from extract.engines import selection
from extract.engines.base import Engine
from extract.store.shards import Writer
from extract.system import lock
from extract.system.console import Stopped
from extract.system.locations import Location
from extract.vgg16.weights import Weights


class Extractor:
    """An engine on a machine of the cluster.

    Parameters
    ----------
    weights : Weights
    recipe : dict
    folder : Path or UPath
        Of the recipe's shards.
    own : Path
        Of its engines, if this machine sees it.
    engine : str
        See `extract.engines.selection.choose`.
    cores : int
        That it may use.
    """

    def __init__(
        self,
        weights: Weights,
        recipe: dict[str, Any],
        folder: Location,
        own: Path,
        engine: str,
        cores: int,
    ) -> None:
        # Whoever asks for the number of cores is answered by this.
        os.environ["LOKY_MAX_CPU_COUNT"] = str(cores)
        self.weights = weights
        self.recipe = recipe
        self.folder = folder
        self.own = own
        self.wanted = engine
        self.engine: Engine | None = None
        self.said = StringIO()
        self.done = 0
        self.stopped = False

    def unsuited(self, root: Location, mark: Path | None) -> str:
        """Return why this machine cannot take part, empty if it can.

        Parameters
        ----------
        root : Path or UPath
            Of the photos.
        mark : Path or None
            A file in the folder of the shards; None if that is at a URL.
        """
        if isinstance(root, Path) and not root.is_dir():
            return f"there is no folder {root}; put the photos where all machines see them"
        if mark and not mark.exists():
            return (
                f"{mark.parent} is not the folder that it is for the others; name one that all "
                "machines see, or a URL, with --cache"
            )
        return ""

    def compute(self, root: Location, paths: Sequence[str]) -> tuple[Computed, str]:
        """Compute photos and write them as a shard; return also what engines were chosen and why.

        Parameters
        ----------
        root : Path or UPath
        paths : sequence of str
            Relative to `root`.
        """

        def advance(n: int) -> None:
            self.done += n
            if self.stopped:
                raise Stopped(0)

        computed = Computed.nothing()
        with suppress(Stopped), Writer(self.folder, self.recipe) as writer:
            computed = pipeline.compute(
                root,
                paths,
                build_engine=self._engine,
                writer=writer,
                advance=advance,
                size=self.recipe["size"],
            )
        said, self.said = self.said.getvalue(), StringIO()
        return computed, said

    def count(self) -> int:
        """Return how many photos it has done so far."""
        return self.done

    def stop(self) -> None:
        """Have it write what it holds and compute no more."""
        self.stopped = True

    def _engine(self, photos: NDArray[np.uint8]) -> Engine:
        if self.engine is None:
            own = self.own
            if not own.is_dir():
                own = Path(pooch.os_cache("onepass"), own.name)
            # Engines are timed once on a machine, and not two at the same time.
            with redirect_stdout(self.said), lock.held(own / "engines.lock"):
                self.engine = selection.choose(self.wanted, self.weights, photos, folder=own)
        return self.engine
