"""A saved model on new photos: ``python -m classify predict runs/chess/svm photo.jpg``.

A head is given the taps of VGG16, from the cache where the photo was seen before; a network is
given the photo.
"""

import csv
import io
import json
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skops.io
from numpy.typing import NDArray
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import Pipeline

from classify import results
from classify.heads import TRUSTED, places
from classify.results import Result
from extract.compute.cached_vgg16 import Lookup
from extract.compute.pipeline import BATCH_SIZE, Read
from extract.engines.base import Taps
from extract.system.console import InputError, warn
from extract.vgg16.recipe import SIZE, plain

UNSURE = 0.6
"""A photo whose likeliest class is less probable than this is called unsure: with two classes one
half is no knowledge at all."""

Probabilities = NDArray[np.float32]


class Model(NamedTuple):
    """A trained model that is ready for photos.

    Attributes
    ----------
    result : Result
        Its record.
    size : int
        Side in pixels of the photos it is given.
    known : container of str
        Digests of photos that it needs no pixels of.
    probabilities : callable
        Readable photos, read with `size` and `known`, to an array of shape (n, classes), float32.
    lookup : Lookup or None
        What gives a head its taps.
    head : Pipeline or None
        None of a network.
    """

    result: Result
    size: int
    known: Container[str]
    probabilities: Callable[[Sequence[Read]], Probabilities]
    lookup: Lookup | None = None
    head: Pipeline | None = None


class Answer(NamedTuple):
    """What a model says of a photo.

    Attributes
    ----------
    path : str
    ranked : list of (class name, probability)
        The likeliest first.
    sure : bool
        Whether the likeliest class is at least as probable as was asked for.
    """

    path: str
    ranked: list[tuple[str, float]]
    sure: bool


def load(
    run: Path, *, cache: Path, weights_file: Path | None = None, engine: str = "auto"
) -> Model:
    """Make the model of a result ready for photos.

    Parameters
    ----------
    run : Path
        ``runs/<data>/<model>``.
    cache : Path
        Of what VGG16 saw, and its weights.
    weights_file : Path or None
        VGG16's weights, if not the usual ones.
    engine : str
        What runs VGG16 for a head, see `extract.engines.selection.choose`.

    Raises
    ------
    InputError
        If there is no model, it is damaged or unsafe, or made from other features than are made
        here.
    """
    result = results.load(run)
    if result.stage == "network":
        # Importing Keras takes seconds, and a head does without.
        from extract.engines import keras_engine

        classes = len(result.class_names)
        size, forward = keras_engine.load_network(run / "model.keras", classes=classes)
        return Model(result, size, (), lambda items: forward(_pixels(items)))
    head = load_head(run)
    lookup = Lookup(cache, weights_file=weights_file, engine=engine)
    others = sorted(tap for tap in places(head) if tap != plain(tap))
    if others:
        raise InputError(
            f"{run}: looks at photos of other sizes, too ({', '.join(others)}), and new photos are "
            f"shown at {SIZE} alone; train it on features of that size"
        )
    if result.recipe_digest not in lookup.recipe_digests():
        raise InputError(
            f"{run}: trained on features of recipe {result.recipe_digest[:12]}, and this version "
            f"with these weights makes {lookup.recipe_digest[:12]}; run make features heads"
        )

    def probabilities(items: Sequence[Read]) -> Probabilities:
        return of_taps(head, lookup.taps(items, places(head)))

    return Model(result, SIZE, lookup.known, probabilities, lookup, head)


def load_head(run: Path) -> Pipeline:
    """Read the head of a result, running no code that the file brings along.

    One that another version of scikit-learn saved is used with a warning.

    Raises
    ------
    InputError
        If it is not there, damaged, or names types that heads do not consist of.
    """
    path = run / "head.skops"
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", InconsistentVersionWarning)
            head = skops.io.load(path, trusted=list(TRUSTED))
            if not isinstance(head, Pipeline):
                raise ValueError(f"it holds a {type(head).__name__}, not a head")
    except FileNotFoundError as error:
        raise InputError(f"{path}: not there; train the model again") from error
    # skops raises many things on a damaged or foreign file.
    except Exception as error:
        raise InputError(f"{path}: not a head that can be used ({error})") from error
    for warning in told:
        if isinstance(warning.message, InconsistentVersionWarning):
            saved = warning.message.original_sklearn_version
            here = warning.message.current_sklearn_version
            warn(
                f"{path}: saved by scikit-learn {saved}, and this is {here}; make heads saves anew"
            )
            break
    return head


def answers(
    model: Model, items: Iterable[Read], *, unsure: float = UNSURE
) -> Iterator[Answer | Read]:
    """Yield the answer to every photo in order, or the photo itself where it cannot be read.

    Parameters
    ----------
    items : iterable of Read
        Read with the model's `size` and `known`.
    unsure : float
        Probability that the likeliest class must have.
    """
    remaining = iter(items)
    while batch := list(islice(remaining, BATCH_SIZE)):
        readable = [item for item in batch if not item.reason]
        found = iter(model.probabilities(readable) if readable else ())
        for item in batch:
            yield item if item.reason else _answer(model, item, next(found), unsure)


def of_taps(head: Pipeline, taps: Taps) -> Probabilities:
    """Return what a head says of photos whose taps are given: shape (n, classes), float32."""
    rows = len(next(iter(taps.values())))
    X = np.zeros((rows, head.n_features_in_), np.float32)
    for tap, columns in places(head).items():
        X[:, columns] = taps[tap]
    found: Probabilities = head.predict_proba(X).astype(np.float32)
    return found


def lines(found: Sequence[Answer], *, top: int) -> list[str]:
    """Write answers for people: a line a photo, the likeliest classes first."""
    return [
        f"{answer.path}: {'' if answer.sure else 'unsure: '}"
        + ", ".join(f"{name} {probability:.1%}" for name, probability in answer.ranked[:top])
        for answer in found
    ]


def as_csv(found: Sequence[Answer], *, top: int) -> str:
    """Write answers as CSV, a row a photo: path, sure, then pairs of class and probability."""
    pairs = min(top, len(found[0].ranked)) if found else 0
    header = [f"{name}_{rank}" for rank in range(1, pairs + 1) for name in ("class", "probability")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "sure", *header])
    for path, ranked, sure in found:
        cells = [cell for name, p in ranked[:top] for cell in (name, f"{p:.6f}")]
        writer.writerow([path, str(sure).lower(), *cells])
    return text.getvalue()


def as_json(
    found: Sequence[Answer], skipped: Sequence[tuple[str, str]], result: Result, *, top: int
) -> str:
    """Write answers and what was skipped as one JSON object."""
    record: dict[str, Any] = {
        "model": result.model,
        "data": result.data,
        "photos": [
            {
                "path": path,
                "sure": sure,
                "probabilities": {name: round(p, 6) for name, p in ranked[:top]},
            }
            for path, ranked, sure in found
        ],
        "skipped": [{"path": path, "reason": reason} for path, reason in skipped],
    }
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


def _pixels(items: Sequence[Read]) -> NDArray[np.uint8]:
    return np.stack([item.photo for item in items if item.photo is not None])


def _answer(model: Model, item: Read, probabilities: Probabilities, unsure: float) -> Answer:
    order = np.argsort(-probabilities, kind="stable")
    names = model.result.class_names
    ranked = [(names[place], float(probabilities[place])) for place in order]
    return Answer(item.path, ranked, ranked[0][1] >= unsure)
