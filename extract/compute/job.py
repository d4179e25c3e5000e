"""A job: everything that one pass of VGG16 over a folder of photos needs, on any machine."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from extract.system.locations import Location
from extract.vgg16.recipe import pairs_added, recipe_digest
from extract.vgg16.weights import Weights


@dataclass(frozen=True)
class Job:
    """A pass of VGG16 over the photos of a folder, at one size.

    Attributes
    ----------
    root : Path or UPath
        The folder of the photos.
    weights : Weights
        VGG16's weights.
    recipe : dict
        See `extract.vgg16.recipe.recipe`.
    shard_folder : Path or UPath
        The folder that the recipe's shards are written to; other machines may share it.
    local_folder : Path
        This machine's folder for converted engines, their timings, and the list of the images in
        remote shards.
    engine : str
        See `extract.engines.selection.choose`.
    """

    root: Location
    weights: Weights
    recipe: dict[str, Any]
    shard_folder: Location
    local_folder: Path
    engine: str

    @property
    def taps(self) -> tuple[str, ...]:
        """The taps that the recipe has."""
        return tuple(self.recipe["taps"])

    def with_pairs(self) -> "Job":
        """Return the same pass with the taps of pairs of channels."""
        richer = pairs_added(self.recipe)
        name = recipe_digest(richer)
        return replace(
            self,
            recipe=richer,
            shard_folder=self.shard_folder.parent / name,
            local_folder=self.local_folder.parent / name,
        )

    @property
    def size(self) -> int:
        """The side in pixels of the squares that VGG16 sees."""
        size: int = self.recipe["size"]
        return size
