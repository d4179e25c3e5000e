"""The novelty detector: strangers score higher, and what a file says is checked."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from classify.novelty import left_out
from classify.novelty.detector import LEVELS, WIDTH, NoveltyDetector, prepared


def photos(*classes: int, each: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return taps of photos, and their classes, each of which raises sixteen columns of its own."""
    random = np.random.default_rng(seed)
    labels = np.repeat(classes, each)
    taps = random.random((len(labels), WIDTH)).astype(np.float32)
    for row, label in zip(taps, labels, strict=True):
        row[16 * label : 16 * label + 16] += 3
    return taps, labels


def folds(labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    numbers = np.arange(len(labels))
    return [(numbers[numbers % 3 != k], numbers[numbers % 3 == k]) for k in range(3)]


@cache
def fitted(*classes: int) -> tuple[NoveltyDetector, left_out.LeftOut | None]:
    taps, labels = photos(*classes)
    return left_out.fit(prepared(taps), labels, folds(labels))


def test_new_photos_of_known_classes_are_kept_and_strangers_are_rejected() -> None:
    taps, labels = photos(0, 1, 2, 3, each=150)
    detector, measured = left_out.fit(prepared(taps), labels, folds(labels))
    known = detector.scores(photos(0, 1, 2, 3, each=150, seed=1)[0])
    # It is fitted on more photos than the detectors that set the limit, so it keeps some more.
    assert 0.93 <= (known <= detector.threshold(0.95)).mean() < 0.999
    assert 0.5 <= (known <= detector.threshold(0.5)).mean() < 0.8
    assert (detector.scores(photos(9, seed=1)[0]) > detector.threshold()).all()
    noise = np.random.default_rng(2).random((20, WIDTH), np.float32)
    assert (detector.scores(noise) > detector.threshold()).all()
    assert measured is not None
    assert measured.strangers == 600
    assert measured.rejected > 0.95
    assert measured.auroc > 0.95


def test_classes_that_cannot_be_told_apart_are_measured_as_that() -> None:
    taps, labels = photos(0, 0, 0, 0)
    labels = np.random.default_rng(3).permutation(np.repeat(np.arange(4), 30))
    _, measured = left_out.fit(prepared(taps), labels, folds(labels))
    assert measured is not None
    assert measured.rejected < 0.2
    assert measured.auroc == pytest.approx(0.5, abs=0.1)


def test_two_classes_are_not_measured_and_many_are_left_out_in_groups() -> None:
    assert fitted(0, 1)[1] is None
    _, measured = fitted(*range(12))
    assert measured is not None
    assert measured.strangers == 360


def test_a_detector_is_read_back_as_it_was() -> None:
    detector, _ = fitted(0, 1, 2)
    stored = detector.arrays()
    assert sum(array.nbytes for array in stored.values()) < 600_000
    found = NoveltyDetector.from_arrays(stored, classes=3)
    taps, _ = photos(0, 5, seed=4)
    np.testing.assert_allclose(found.scores(taps), detector.scores(taps), atol=0.01)
    assert found.threshold() == pytest.approx(detector.threshold(), abs=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: stored.pop("means"),
        lambda stored: stored.update(more=stored["counts"]),
        lambda stored: stored.update(means=stored["means"][:2]),
        lambda stored: stored.update(counts=stored["counts"].astype(">f4")),
        lambda stored: stored["counts"].__setitem__(0, 0),
        lambda stored: stored["means"].__setitem__((0, 0), np.nan),
        lambda stored: stored["scatter"].__setitem__(0, -1e6),
        lambda stored: stored["scatter"].__setitem__(1, 1e8),
        lambda stored: stored["quantiles"].__setitem__(len(LEVELS) - 1, -1e6),
    ],
)
def test_arrays_that_no_photos_give_are_refused(change: Callable[[Any], object]) -> None:
    stored = fitted(0, 1, 2)[0].arrays()
    change(stored)
    with pytest.raises(ValueError, match=r"detector|scatter"):
        NoveltyDetector.from_arrays(stored, classes=3)
