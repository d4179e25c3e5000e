"""The training photos, among which those similar to a new photo are found."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from classify.arrays import Matrix
from classify.results import Result
from extract.store import features_file
from extract.store.features_file import Features
from extract.system import locations
from extract.system.console import InputError
from extract.system.locations import Location
from extract.vgg16.recipe import SIZE, digest_without_pairs, recipe, recipe_digest

SIMILARITY_TAP = "block5_avg"
"""Similar photos are those with a large cosine between the values of this tap."""


class TrainingPhotos(NamedTuple):
    """The training photos, among which those similar to another photo are found.

    Attributes
    ----------
    root : Path or UPath
    paths : list of str, length n
        Relative to the root.
    digests : list of str, length n
        Only a file whose SHA-256 is its digest is shown.
    class_names : list of str, length n
        The class of each photo.
    vectors : ndarray of shape (n, d), float32
        Values of the tap by which photos are compared, each row of norm 1.
    """

    root: Location
    paths: list[str]
    digests: list[str]
    class_names: list[str]
    vectors: Matrix

    def nearest(self, values: NDArray[np.float32], n: int) -> list[tuple[int, float]]:
        """Return the rows of the n most similar photos and their cosines, most similar first."""
        cosines = self.vectors @ unit(values[None])[0]
        order = np.argsort(-cosines, kind="stable")[:n]
        return [(int(row), float(cosines[row])) for row in order]


def training_photos(path: Path, result: Result, *, weights_digest: str) -> TrainingPhotos:
    """Read the training photos of a model from a features file.

    Raises
    ------
    InputError
        If the file is missing or damaged, has other photos or another split than those that the
        model was trained on, or its features are made otherwise than those of a new photo.
    """
    with features_file.open(path) as features:
        if not is_of(features, result):
            raise InputError(
                f"{path}: of other photos, classes or splits than the model {result.model}; run "
                f"make features, then {result.command}"
            )
        here = recipe_digest(recipe(weights_digest))
        if digest_without_pairs(features.recipes[SIZE]) != here:
            raise InputError(f"{path}: made with other weights or pixels; run make features")
        return of(features)


def of(features: Features) -> TrainingPhotos:
    """Return the training photos of a features file.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    rows = features.rows("train")
    return TrainingPhotos(
        locations.location(str(features.attributes["root"])),
        [features.paths[row] for row in rows],
        [features.digests[row] for row in rows],
        [features.class_names[features.labels[row]] for row in rows],
        unit(features.read([SIMILARITY_TAP], "train")),
    )


def is_of(features: Features, result: Result) -> bool:
    """Say whether features have the photos, classes and splits that a model was trained on."""
    return (features.data_digest, features.class_names) == (result.data_digest, result.class_names)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each row by its norm; a row of zeros stays."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    return scaled
