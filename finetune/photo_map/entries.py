"""What the map says of each photo: its class, split, probabilities and marks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extract.store.features_file import Features
from finetune.compare.comparison import Comparison
from finetune.compare.number_formats import percent

MARKS = ("mistake", "suspect", "copy")
SHOWN_CLASSES = 3
"""Probabilities shown of a photo."""


@dataclass(frozen=True)
class Entry:
    """One photo of the map.

    Attributes
    ----------
    row : int
        Row of the photo among the features.
    label : int
    answers : str
        The most probable classes with their probabilities; empty if nobody was asked.
    marks : tuple of str
        Those of `MARKS` that the photo has.
    """

    row: int
    label: int
    answers: str
    marks: tuple[str, ...]


def marked(comparison: Comparison) -> dict[str, set[int]]:
    """Return the rows of the photos that have each of `MARKS`.

    Returns
    -------
    dict
        ``mistake``: test photos that the most accurate model gets wrong. ``suspect``: photos of
        train and val whose label may be wrong. ``copy``: near-duplicates in different splits.
    """
    features, best, check = comparison.features, comparison.models[0], comparison.label_check
    test = np.flatnonzero(features.splits == "test")
    return {
        "mistake": set(test[~best.correct].tolist()),
        "suspect": {one.row for one in check.suspects} if check else set(),
        "copy": {row for one, other, _ in features.near for row in (one, other)},
    }


def entries(comparison: Comparison, rows: Sequence[int]) -> list[Entry]:
    """Return what is known of each of these photos."""
    features, marks = comparison.features, marked(comparison)
    answers = _answers(comparison)
    return [
        Entry(
            row,
            int(features.labels[row]),
            _in_words(answers[row], features) if row in answers else "",
            tuple(mark for mark in MARKS if row in marks[mark]),
        )
        for row in rows
    ]


def _answers(comparison: Comparison) -> dict[int, NDArray[np.float32]]:
    """Return the probabilities of each photo by a model that was not fitted on it."""
    features, check = comparison.features, comparison.label_check
    test = np.flatnonzero(features.splits == "test").tolist()
    answers = dict(zip(test, comparison.models[0].predictions.probabilities, strict=True))
    if check and check.held_out:
        held_out = check.held_out
        answers |= zip(held_out.rows.tolist(), held_out.probabilities, strict=True)
    return answers


def _in_words(probabilities: NDArray[np.float32], features: Features) -> str:
    likely = np.argsort(-probabilities, kind="stable")[:SHOWN_CLASSES]
    return ", ".join(
        f"{features.class_names[label]} {percent(float(probabilities[label]))}"
        for label in likely
        if label == likely[0] or probabilities[label] >= 0.0005
    )
