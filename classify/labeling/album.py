"""All photos of a labelling session: those of the data set, and those of the pool."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from classify.arrays import Labels, Matrix
from classify.labeling import learner
from classify.labeling.answers import Line
from classify.labeling.pool import Pool
from classify.serving.neighbours import SIMILARITY_TAP, unit
from extract.photos import duplicates
from extract.store.features_file import Features
from extract.system import console, locations
from extract.system.console import InputError
from extract.vgg16.recipe import TAPS

TAPS_READ = tuple(dict.fromkeys([SIMILARITY_TAP, *learner.TAPS]))


@dataclass(frozen=True, eq=False)
class Album:
    """The photos of a session, each picture once.

    Attributes
    ----------
    places : list of list of str, length n
        The absolute paths of each photo and of its copies.
    digests : list of str, length n
    labels : ndarray of shape (n,), int64
        The labels in the features file; -1 for photos of the pool.
    splits : ndarray of shape (n,), str
        Photos of the pool are for training.
    class_names : list of str
    lines : dict of str to Line
        What a manifest of the data set says of each photo, by absolute path.
    X : ndarray of shape (n, d), float32
        The taps, prepared for the head.
    vectors : ndarray of shape (n, d), float32
        What similar photos are found by, each row of norm 1.
    twins : list of (row, row)
        Near-duplicates.
    """

    places: list[list[str]]
    digests: list[str]
    labels: Labels
    splits: NDArray[np.str_]
    class_names: list[str]
    lines: dict[str, Line]
    X: Matrix
    vectors: Matrix
    twins: list[tuple[int, int]]
    row_of: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        rows = {digest: row for row, digest in enumerate(self.digests)}
        object.__setattr__(self, "row_of", rows)


def lines_of(features: Features) -> dict[str, Line]:
    """Return what a manifest of the data set says of each photo, by absolute path.

    Raises
    ------
    InputError
        If the photos lie in a store, which no manifest can name.
    """
    if locations.is_url(features.root):
        raise InputError(
            f"{features.root}: photos in a bucket cannot be labelled, because a manifest cannot "
            "name them; copy them to this machine"
        )
    rows = zip(features.paths, features.labels, features.splits, features.groups, strict=True)
    return {
        place: Line(place, features.class_names[label], str(split), group)
        for path, label, split, group in rows
        if (place := locations.plain(features.root, path))
    }


def read(features: Features, pool: Pool | None, *, include_test: bool) -> Album:
    """Read the photos of a data set from its features, and add those of the pool.

    Parameters
    ----------
    features : Features
    pool : Pool or None
    include_test : bool
        Whether photos of the test split are among them.
    """
    splits = ["train", "val", *(["test"] if include_test else [])]
    rows = features.rows(*splits)
    X = features.read(TAPS_READ, *splits)
    places: dict[str, list[str]] = {}
    first: list[int] = []
    for position, row in enumerate(rows):
        digest = features.digests[row]
        first += [position] if digest not in places else []
        place = locations.plain(features.root, features.paths[row])
        places.setdefault(digest, []).append(place)
    X, chosen = X[first], rows[first]
    labels, split = features.labels[chosen], features.splits[chosen]
    if pool:
        X = np.concatenate([X, pool.X])
        labels = np.concatenate([labels, np.full(len(pool.digests), -1)])
        split = np.concatenate([split, np.full(len(pool.digests), "train")])
    vectors = unit(X[:, : TAPS[SIMILARITY_TAP]])
    taps = {tap: TAPS[tap] for tap in learner.TAPS}
    return Album(
        [*places.values(), *(pool.places if pool else [])],
        [*places, *(pool.digests if pool else [])],
        labels,
        split,
        list(features.class_names),
        lines_of(features),
        learner.prepared(_columns(X), taps),
        vectors,
        _twins(vectors),
    )


def _columns(X: Matrix) -> Matrix:
    """Return the columns of the learner's taps."""
    widths = [TAPS[tap] for tap in TAPS_READ]
    begins = dict(zip(TAPS_READ, np.cumsum([0, *widths]), strict=False))
    return np.hstack([X[:, begins[tap] : begins[tap] + TAPS[tap]] for tap in learner.TAPS])


def _twins(vectors: Matrix) -> list[tuple[int, int]]:
    n = len(vectors)
    if n > duplicates.ROWS:
        return []
    with console.progress("near-duplicates", n, unit="photos") as advance:
        found = duplicates.connecting_pairs(vectors, n, advance=advance)
    return [(one, other) for one, other, _ in found]
