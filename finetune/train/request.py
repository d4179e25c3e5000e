"""A request to train a network: whether it can be met, and whether a result already answers it.

This module does not import Keras, so that a command which has nothing to do ends at once.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from classify import results
from classify.results import Result
from extract.photos import hashes
from extract.store import shards
from extract.store.features_file import SPLITS, Features
from extract.system import locations
from extract.system.console import InputError, count, warn
from extract.vgg16.recipe import SIZE, digest_without_pairs

UNFREEZE = {"block5": "block5_conv1", "block4": "block4_conv1", "all": "block1_conv1"}
"""The parts of VGG16 that are trained, each with its first convolution.

``--unfreeze`` takes the first two. `FinetunedAllOptions` stands for the last one.
"""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of all networks. The rule in `schedule` decides where one is None.

    ``result.json`` records them under ``asked``, and a result answers only a request that is equal.

    Attributes
    ----------
    learning_rate : float or None
        Highest learning rate of AdamW.
    epochs : int or None
        Largest number of epochs.
    batch_size : int or None
    label_smoothing : float in 0..1
        Share of each label that is spread evenly over all classes.
    balanced : bool
        Whether every class has the same total weight, however many photos it has.
    """

    model: ClassVar[str]
    """Name of the network and of the folder of its result."""

    learning_rate: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    label_smoothing: float = 0.0
    balanced: bool = False

    @classmethod
    def pick(cls, values: Mapping[str, Any]) -> Self:
        """Take the options of this network from `values`, which may hold others too."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class BaselineOptions(TrainingOptions):
    """Options of the small network that is trained from scratch.

    Attributes
    ----------
    batch_norm : bool
        Whether a batch normalisation follows each convolution.
    """

    model: ClassVar[str] = "baseline"

    batch_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class FinetunedOptions(TrainingOptions):
    """Options of VGG16 with a new top.

    Attributes
    ----------
    unfreeze : str
        Key of `UNFREEZE`.
    variants : int
        Number of variants of each photo whose activations are cached. With 0 the network is given
        photos, which are augmented in every epoch.
    """

    model: ClassVar[str] = "finetuned"

    unfreeze: str = "block5"
    variants: int = 2


@dataclass(frozen=True, kw_only=True)
class FinetunedAllOptions(TrainingOptions):
    """Options of the network that starts from ``finetuned`` and trains every layer."""

    model: ClassVar[str] = "finetuned-all"


OPTIONS: dict[str, type[TrainingOptions]] = {
    options.model: options for options in (BaselineOptions, FinetunedOptions, FinetunedAllOptions)
}
"""The options of each network, by its name. A network comes after the one that it starts from."""


@dataclass(frozen=True)
class Request:
    """One network to train on one data set.

    Attributes
    ----------
    options : TrainingOptions
    seed : int
        Decides the initial weights, the order of the photos and the augmentation.
    out : Path
        Folder that holds ``features/`` and ``runs/``.
    weights_file : Path or None
        A file with VGG16's weights. None takes the usual ones.
    """

    options: TrainingOptions
    seed: int
    out: Path
    weights_file: Path | None = None

    def folder(self, features: Features) -> Path:
        """Return the folder of the result."""
        return results.runs_of(features.data, self.out) / self.options.model

    def is_done(self, features: Features) -> bool:
        """Say whether a whole result of an equal request on equal features exists.

        If there is one that is damaged, a warning says so. A network that starts from another one
        must have started from the one that is there now.
        """
        result = self._found(features, self.options.model)
        if result is None or result.hyperparameters.get("asked") != asdict(self.options):
            return False
        start = self.start(features)
        if not self.needs_start:
            return True
        return start is not None and result.hyperparameters.get("started_from") == identity(start)

    @property
    def needs_start(self) -> bool:
        """Whether the network starts from ``finetuned``."""
        return isinstance(self.options, FinetunedAllOptions)

    def start(self, features: Features) -> Result | None:
        """Return the result of the network that this one starts from; None if there is none.

        It must have been made from these photos, with these splits and this seed. Its options do
        not matter.
        """
        return self._found(features, FinetunedOptions.model) if self.needs_start else None

    def _found(self, features: Features, model: str) -> Result | None:
        """Return a whole result of a network, made from these features with this seed."""
        folder = results.runs_of(features.data, self.out) / model
        if folder not in results.folders(folder.parent):
            return None
        try:
            result = results.load(folder)
            results.check_files(folder)
        except InputError as error:
            warn(error)
            return None
        made_from = (result.data_digest, result.recipe_digest, result.seed)
        made_by = digest_without_pairs(features.recipes[SIZE])
        expected = (features.data_digest, made_by, self.seed)
        return result if made_from == expected else None

    def check(self, features: Features) -> None:
        """Make sure that the network can be trained, validated and tested, before hours of work.

        Raises
        ------
        InputError
            If a split has no photo, or a photo is gone or has changed since the features were made.
        """
        for split in SPLITS:
            if not len(features.rows(split)):
                raise InputError(
                    f"{features.data} has no photo in {split}, and a network needs some in each "
                    "split; add photos and run make features"
                )
        root = locations.location(str(features.attributes["root"]))
        stamps = None if isinstance(root, Path) else locations.listing(root).stamps
        index = shards.cache_of(self.out) / "digests.sqlite"
        found = hashes.of_files(root, features.paths, index=index, stamps=stamps)
        wrong = [
            path
            for path, digest in zip(features.paths, features.digests, strict=True)
            if found.get(path) != digest
        ]
        if wrong:
            problem = "has changed" if wrong[0] in found else "cannot be read"
            raise InputError(
                f"{root / wrong[0]}: {problem} ({count(len(wrong), 'such photo')}); run make "
                "features before a network is trained"
            )


def identity(result: Result) -> str:
    """Return what tells a trained network from every other; older records have no digest."""
    return result.model_digest or result.created
