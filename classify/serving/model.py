"""A trained model, loaded to answer for new photos.

A head is given the taps of VGG16, which come from the cache if the photo has been seen before. A
network is given the photo itself, or what its frozen layers make of it.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from classify import results
from classify.arrays import Matrix
from classify.heads import tap_columns
from classify.novelty import KEEP
from classify.novelty.detector import TAP, NoveltyDetector
from classify.results import Result
from classify.serving import UNSURE
from classify.serving.head_file import load
from extract.compute.cached_vgg16 import CachedVGG16
from extract.compute.reading import BATCH_SIZE, LoadedPhoto, Squares
from extract.engines import selection
from extract.engines.base import Taps
from extract.system.console import InputError, warn
from extract.vgg16 import weights
from extract.vgg16.recipe import (
    MAPS,
    SIZE,
    SIZES,
    has_pairs,
    joint_digest,
    pixels_note,
    plain,
    recipe,
    size_of,
)


class Model(NamedTuple):
    """A trained model that is ready for photos.

    Attributes
    ----------
    result : Result
        Its record.
    known : mapping of int to container of str
        The sides in pixels of the squares that it takes of each photo. Each has the digests of the
        photos whose pixels are not needed at that size.
    probabilities : callable
        Takes readable photos, read with `known`, and returns their probabilities, an array of shape
        (n, classes), float32.
    vgg16 : mapping of int to CachedVGG16
        Gives a head its taps, at each of the sizes; empty for a network.
    head : Pipeline or None
        None for a network.
    novelty : NoveltyDetector or None
        None for a network, and for a head that an earlier version saved.
    split : callable or None
        Returns a network in two parts, see `extract.engines.split_network`; None for a head.
    """

    result: Result
    known: Mapping[int, Container[str]]
    probabilities: Callable[[Sequence[Squares]], Matrix]
    vgg16: Mapping[int, CachedVGG16] = {}
    head: Pipeline | None = None
    novelty: NoveltyDetector | None = None
    split: Callable[[], Any] | None = None

    def limit(self, keep: float | None) -> float | None:
        """Return the score above which a photo is none of the classes; None if none is ever.

        Parameters
        ----------
        keep : float or None
            The share of known photos below the limit; None to have no limit.
        """
        return None if keep is None or self.novelty is None else self.novelty.threshold(keep)

    def outputs(self, photos: Sequence[Squares]) -> tuple[Matrix, list[float | None]]:
        """Return the probabilities of photos, and their novelty scores if there is a detector."""
        if self.head is None or self.novelty is None:
            return self.probabilities(photos), [None] * len(photos)
        # Both are computed from one pass of VGG16.
        taps = compute_taps(self.vgg16, photos, {**tap_columns(self.head), TAP: None})
        return from_taps(self.head, taps), self.novelty.scores(taps[TAP]).tolist()


class Answer(NamedTuple):
    """What a model predicts for a photo.

    Attributes
    ----------
    path : str
    ranked : list of (class name, probability)
        The most probable class first.
    sure : bool
        Whether the most probable class is probable enough.
    none_of_these : bool or None
        Whether the photo is too far from the photos of all classes; None if that is not known.
    """

    path: str
    ranked: list[tuple[str, float]]
    sure: bool
    none_of_these: bool | None = None


@results.consistent
def load_model(
    run: Path,
    *,
    cache: Path,
    weights_file: Path | None = None,
    engine: str = "auto",
    vgg16: CachedVGG16 | None = None,
) -> Model:
    """Load the model of a result.

    Parameters
    ----------
    run : Path
        ``runs/<data>/<model>``.
    cache : Path
        The folder with VGG16's weights and the features of photos seen before.
    weights_file : Path or None
        VGG16's weights, if not the published ones.
    engine : str
        What runs VGG16, see `extract.engines.selection.choose`.
    vgg16 : CachedVGG16 or None
        VGG16 as another model of the same cache, weights and engine has it, to be shared with it.

    Raises
    ------
    InputError
        If the model is missing, damaged or unsafe, belongs to another record, or was trained on
        features that differ from those made here.
    """
    result = results.load(run)
    load_vgg16 = partial(CachedVGG16, cache, weights_file=weights_file, engine=engine)
    if result.stage == "network":
        is_at_hand = weights_file or weights.are_at_hand(cache)
        return _load_network(run, result, lambda: vgg16 or (load_vgg16() if is_at_hand else None))
    head, novelty = load(run, result)
    taps = list(tap_columns(head))
    sizes = sorted({size_of(tap) for tap in taps}, key=SIZES.index)
    first = vgg16 or load_vgg16(size=sizes[0], with_pairs=any(has_pairs(tap) for tap in taps))
    _check_recipe(run, result, weights_digest=first.weights.digest)
    by_size = {size: first if size == first.size else first.of_size(size) for size in sizes}

    def probabilities(photos: Sequence[Squares]) -> Matrix:
        return from_taps(head, compute_taps(by_size, photos, taps))

    known = {size: one.known for size, one in by_size.items()}
    return Model(result, known, probabilities, by_size, head, novelty if SIZE in by_size else None)


def _load_network(run: Path, result: Result, load_vgg16: Callable[[], CachedVGG16 | None]) -> Model:
    # Importing Keras takes seconds, and heads do not need it.
    from extract.engines import keras_engine
    from extract.engines.frozen_layers import FrozenLayers

    # Probabilities and heatmaps share what this loads.
    @cache
    def load_frozen() -> FrozenLayers | None:
        layer = str(result.hyperparameters.get("predicted_from", ""))
        try:
            vgg16 = load_vgg16() if layer in MAPS else None
        except InputError:
            # The network does without VGG16.
            return None
        if not vgg16 or not selection.is_checked(vgg16.wanted, layer, vgg16.engines_in):
            return None
        return FrozenLayers(layer, vgg16.weights.arrays, partial(vgg16.activations, layer))

    classes = len(result.class_names)
    members = results.read_model(run, result, largest=keras_engine.largest(classes))
    path = results.model_path(run, result)
    network = keras_engine.load_network(path, members, classes=classes, load_frozen=load_frozen)

    def probabilities(photos: Sequence[Squares]) -> Matrix:
        return checked(network.run(np.stack([_pixels(photo[network.size]) for photo in photos])))

    return Model(result, {network.size: ()}, probabilities, split=network.split)


def _check_recipe(run: Path, result: Result, *, weights_digest: str) -> None:
    """Make sure that a head is given features like those it was trained on."""
    without, with_pairs = (
        joint_digest([recipe(weights_digest, size=size, with_pairs=pairs) for size in result.sizes])
        for pairs in (False, True)
    )
    if result.recipe_digest not in (without, with_pairs):
        raise InputError(
            f"{run}: trained on features of recipe {result.recipe_digest[:12]}, but this version "
            f"makes {with_pairs[:12]} with these weights{_because()}; run make features heads"
        )


def _because() -> str:
    note = pixels_note()
    return f" ({note})" if note else ""


def compute_taps(
    vgg16: Mapping[int, CachedVGG16], photos: Sequence[Squares], taps: Iterable[str]
) -> Taps:
    """Return taps of any sizes, by their names in a features file.

    Parameters
    ----------
    vgg16 : mapping of int to CachedVGG16
        One for each size of the taps.
    photos : sequence of Squares, length n
        All of them must be readable. They were read with what VGG16 knows at each size.
    taps : iterable of str

    Returns
    -------
    dict of tap to ndarray of shape (n, values), float32
    """
    by_size: dict[int, list[str]] = {}
    for tap in taps:
        by_size.setdefault(size_of(tap), []).append(tap)
    found: Taps = {}
    for size, names in by_size.items():
        items = [photo[size] for photo in photos]
        computed = vgg16[size].taps(items, {plain(name) for name in names})
        found |= {name: computed[plain(name)] for name in names}
    return found


def from_taps(head: Pipeline, taps: Taps) -> Matrix:
    """Return the probabilities of photos, shape (n, classes), from their taps."""
    return checked(head.predict_proba(joined(head, taps)).astype(np.float32))


def joined(head: Pipeline, taps: Taps) -> Matrix:
    """Return the rows that a head takes, (n, columns), from the taps that it uses."""
    rows = len(next(iter(taps.values())))
    X = np.zeros((rows, head.n_features_in_), np.float32)
    for tap, columns in tap_columns(head).items():
        X[:, columns] = taps[tap]
    return X


def checked(probabilities: Matrix) -> Matrix:
    """Return probabilities, which must be shares that add up to 1.

    Raises
    ------
    InputError
        If they are not. The numbers of the model or of VGG16 are wrong then.
    """
    is_sum = np.abs(probabilities.sum(axis=1) - 1) <= 1e-3
    if not np.all(is_sum & (probabilities >= 0).all(axis=1)):
        raise InputError("the model gives no probabilities for a photo; train it again")
    return probabilities


def answers(
    model: Model,
    photos: Iterable[Squares],
    *,
    unsure: float = UNSURE,
    keep: float | None = KEEP,
) -> Iterator[Answer | LoadedPhoto]:
    """Yield the answer for every photo in order, or the photo itself if it cannot be read.

    Parameters
    ----------
    model : Model
    photos : iterable of Squares
        Read with what the model knows.
    unsure : float
        Probability below which the most probable class is not sure.
    keep : float or None
        The share of photos of the known classes that are not called none of these; None to call
        no photo that.
    """
    remaining, limit = iter(photos), model.limit(keep)
    while batch := list(islice(remaining, BATCH_SIZE)):
        readable = [photo for photo in batch if not unreadable(photo)]
        found = zip(*(model.outputs(readable) if readable else ((), ())), strict=True)
        for photo in batch:
            if reason := unreadable(photo):
                yield reason
            else:
                path = next(iter(photo.values())).path
                probabilities, novelty = next(found)
                names = model.result.class_names
                given = answer(path, probabilities, names, unsure=unsure)
                yield given._replace(none_of_these=is_novel(novelty, limit))


def warn_without_novelty(run: Path, model: Model) -> None:
    """Say that a model never answers none of these, if it cannot, and why."""
    if model.novelty is None:
        reason = (
            "its head was saved without a novelty detector; make heads trains it again"
            if model.head
            else "only heads do"
        )
        warn(f"{run}: no photo is called none of these: {reason}")


def is_novel(novelty: float | None, limit: float | None) -> bool | None:
    """Say whether a novelty score is beyond a limit; None if there is no score or no limit."""
    return None if novelty is None or limit is None else bool(novelty > limit)


def unreadable(photo: Squares) -> LoadedPhoto | None:
    """Return the square with the reason why a file gives no photo, or None if it gives one."""
    return next((square for square in photo.values() if square.reason), None)


def answer(
    path: str, probabilities: NDArray[np.float32], class_names: Sequence[str], *, unsure: float
) -> Answer:
    """Rank the classes of a photo by their probabilities, shape (k,)."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = [(class_names[label], float(probabilities[label])) for label in order]
    return Answer(path, ranked, ranked[0][1] >= unsure)


def _pixels(photo: LoadedPhoto) -> NDArray[np.uint8]:
    assert photo.photo is not None
    return photo.photo
