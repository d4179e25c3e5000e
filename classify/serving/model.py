"""A trained model, loaded to answer for new photos.

A head is given the taps of VGG16, which come from the cache if the photo has been seen before. A
network is given the photo itself.
"""

import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import skops.io
from numpy.typing import NDArray
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import Pipeline

from classify import results
from classify.arrays import Matrix
from classify.heads import TRUSTED, tap_columns
from classify.results import Result
from extract.compute.cached_vgg16 import CachedVGG16
from extract.compute.pipeline import BATCH_SIZE, LoadedPhoto
from extract.engines.base import Taps
from extract.system.console import InputError, warn
from extract.vgg16.recipe import SIZE, joint_digest, pixels_note, plain, recipe

UNSURE = 0.6
"""A photo whose most probable class is less probable than this is called unsure. With two classes,
a probability of one half means that the model knows nothing."""


class Model(NamedTuple):
    """A trained model that is ready for photos.

    Attributes
    ----------
    result : Result
        Its record.
    size : int
        Side in pixels of the photos that it takes.
    known : container of str
        Digests of photos whose pixels it does not need.
    probabilities : callable
        Takes readable photos, read with `size` and `known`, and returns their probabilities, an
        array of shape (n, classes), float32.
    vgg16 : CachedVGG16 or None
        Gives a head its taps; None for a network.
    head : Pipeline or None
        None for a network.
    """

    result: Result
    size: int
    known: Container[str]
    probabilities: Callable[[Sequence[LoadedPhoto]], Matrix]
    vgg16: CachedVGG16 | None = None
    head: Pipeline | None = None


class Answer(NamedTuple):
    """What a model predicts for a photo.

    Attributes
    ----------
    path : str
    ranked : list of (class name, probability)
        The most probable class first.
    sure : bool
        Whether the most probable class is probable enough.
    """

    path: str
    ranked: list[tuple[str, float]]
    sure: bool


@results.consistent
def load_model(
    run: Path, *, cache: Path, weights_file: Path | None = None, engine: str = "auto"
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
        What runs VGG16 for a head, see `extract.engines.selection.choose`.

    Raises
    ------
    InputError
        If the model is missing, damaged or unsafe, or was trained on features that differ from
        those made here.
    """
    result = results.load(run)
    if result.stage == "network":
        # Importing Keras takes seconds, and heads do not need it.
        from extract.engines import keras_engine

        classes = len(result.class_names)
        size, forward = keras_engine.load_network(run / "model.keras", classes=classes)
        return Model(result, size, (), lambda photos: forward(_pixels(photos)))
    head = load_head(run)
    vgg16 = CachedVGG16(cache, weights_file=weights_file, engine=engine)
    _check_features(run, result, head, weights_digest=vgg16.weights.digest)

    def probabilities(photos: Sequence[LoadedPhoto]) -> Matrix:
        return from_taps(head, vgg16.taps(photos, tap_columns(head)))

    return Model(result, SIZE, vgg16.known, probabilities, vgg16, head)


def _check_features(run: Path, result: Result, head: Pipeline, *, weights_digest: str) -> None:
    """Make sure that a head is given features like those it was trained on."""
    others = sorted(tap for tap in tap_columns(head) if tap != plain(tap))
    if others:
        raise InputError(
            f"{run}: this head also needs photos of other sizes ({', '.join(others)}), and new "
            f"photos are only made {SIZE} pixels wide; train it on features of that size alone"
        )
    here = joint_digest([recipe(weights_digest, size=size) for size in result.sizes])
    if result.recipe_digest != here:
        raise InputError(
            f"{run}: trained on features of recipe {result.recipe_digest[:12]}, but this version "
            f"makes {here[:12]} with these weights{_because()}; run make features heads"
        )


def _because() -> str:
    note = pixels_note()
    return f" ({note})" if note else ""


def load_head(run: Path) -> Pipeline:
    """Load the head of a result without running any code that its file may contain.

    A warning is printed if another version of scikit-learn saved it.

    Raises
    ------
    InputError
        If the file is missing or damaged, or names types that heads do not consist of.
    """
    path = run / "head.skops"
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", InconsistentVersionWarning)
            head = skops.io.load(path, trusted=list(TRUSTED))
            if not isinstance(head, Pipeline):
                raise ValueError(f"it holds a {type(head).__name__}, not a head")
    except FileNotFoundError as error:
        raise InputError(f"{path}: not there; train the model again") from error
    # skops raises errors of many types for a damaged or foreign file.
    except Exception as error:
        raise InputError(f"{path}: not a head that can be used ({error})") from error
    for warning in caught:
        if isinstance(warning.message, InconsistentVersionWarning):
            saved = warning.message.original_sklearn_version
            here = warning.message.current_sklearn_version
            warn(
                f"{path}: saved by scikit-learn {saved}, and this is {here}; "
                "make heads trains it again"
            )
            break
    return head


def from_taps(head: Pipeline, taps: Taps) -> Matrix:
    """Return the probabilities of photos, shape (n, classes), from their taps."""
    rows = len(next(iter(taps.values())))
    X = np.zeros((rows, head.n_features_in_), np.float32)
    for tap, columns in tap_columns(head).items():
        X[:, columns] = taps[tap]
    probabilities: Matrix = head.predict_proba(X).astype(np.float32)
    return probabilities


def answers(
    model: Model, photos: Iterable[LoadedPhoto], *, unsure: float = UNSURE
) -> Iterator[Answer | LoadedPhoto]:
    """Yield the answer for every photo in order, or the photo itself if it cannot be read.

    Parameters
    ----------
    model : Model
    photos : iterable of LoadedPhoto
        Read with the model's `size` and `known`.
    unsure : float
        Probability below which the most probable class is not sure.
    """
    remaining = iter(photos)
    while batch := list(islice(remaining, BATCH_SIZE)):
        readable = [photo for photo in batch if not photo.reason]
        found = iter(model.probabilities(readable) if readable else ())
        for photo in batch:
            if photo.reason:
                yield photo
            else:
                yield answer(photo.path, next(found), model.result.class_names, unsure=unsure)


def answer(
    path: str, probabilities: NDArray[np.float32], class_names: Sequence[str], *, unsure: float
) -> Answer:
    """Rank the classes of a photo by their probabilities, shape (k,)."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = [(class_names[label], float(probabilities[label])) for label in order]
    return Answer(path, ranked, ranked[0][1] >= unsure)


def _pixels(photos: Sequence[LoadedPhoto]) -> NDArray[np.uint8]:
    return np.stack([photo.photo for photo in photos if photo.photo is not None])
