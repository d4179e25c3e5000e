"""The head of a labelling session agrees with heads that are fitted anew."""

import numpy as np
import pytest
from numpy.typing import NDArray

from classify.labeling import learner
from classify.labeling.learner import Photos


def made(
    n: int = 60, *, classes: int = 3, signal: float = 3.0, seed: int = 0
) -> tuple[Photos, NDArray[np.int64]]:
    """Return photos around the centre of their class, and their classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    X = signal * np.eye(classes, 20)[labels] + random.standard_normal((n, 20))
    X = (X / np.sqrt(np.square(X).sum(axis=1).mean())).astype(np.float32)
    return Photos(X, np.zeros(n, bool)), labels


def without(labels: NDArray[np.int64], *rows: int) -> NDArray[np.int64]:
    given = labels.copy()
    given[list(rows)] = -1
    return given


def test_left_out_scores_are_those_of_a_head_that_was_fitted_without_the_photo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos, labels = made(30)
    monkeypatch.setattr(learner, "ALPHAS", (0.3,))
    monkeypatch.setattr(learner, "SURE", np.inf)
    every = learner.fit(photos, labels, 3).probabilities[4]
    fitted_without = learner.fit(photos, without(labels, 4), 3).probabilities[4]
    # The two differ in their temperature alone.
    shapes = [np.diff(np.log(probabilities)) for probabilities in (every, fitted_without)]
    ratio = shapes[0] / shapes[1]
    assert ratio == pytest.approx(ratio[0], rel=1e-3)


def test_held_out_photos_are_never_fitted() -> None:
    photos, labels = made()
    held_out = Photos(photos.X, np.arange(60) < 12)
    wrong = labels.copy()
    wrong[:12] = (labels[:12] + 1) % 3
    right, of_wrong = (learner.fit(held_out, given, 3) for given in (labels, wrong))
    assert np.array_equal(right.probabilities, of_wrong.probabilities)
    assert (right.probabilities[:12].argmax(axis=1) == labels[:12]).mean() > 0.7


@pytest.mark.parametrize("labelled", [0, 1, 2])
def test_a_session_can_begin_without_labels(labelled: int) -> None:
    photos, labels = made(12)
    fitted = learner.fit(photos, without(labels, *range(labelled, 12)), 3)
    assert np.isfinite(fitted.probabilities).all()
    assert fitted.probabilities.sum(axis=1) == pytest.approx(1)
    assert (fitted.probabilities.max(axis=0) > 0).sum() == (labelled or 3)
    assert set(fitted.candidates) == set(range(labelled, 12))


def test_photos_of_the_pool_help(monkeypatch: pytest.MonkeyPatch) -> None:
    photos, labels = made(400, signal=2.0, seed=3)
    given = without(labels, *range(15, 300))
    measured = Photos(photos.X, np.arange(400) >= 300)
    accuracies = []
    for sure in (np.inf, learner.SURE):
        monkeypatch.setattr(learner, "SURE", sure)
        predicted = learner.fit(measured, given, 3).probabilities[300:].argmax(axis=1)
        accuracies.append((predicted == labels[300:]).mean())
    assert accuracies[1] > accuracies[0]


def test_more_photos_than_fit_in_memory_give_the_same_head(monkeypatch: pytest.MonkeyPatch) -> None:
    photos, labels = made()
    given = without(labels, *range(30, 60))
    kept = learner.fit(photos, given, 3)
    monkeypatch.setattr(learner, "IN_MEMORY", 10)
    computed = learner.fit(Photos(photos.X, photos.held_out), given, 3)
    assert computed.probabilities == pytest.approx(kept.probabilities, abs=1e-4)
    assert computed.covariance == pytest.approx(kept.covariance, abs=1e-4)


def test_of_many_labels_a_sample_of_each_class_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    photos, labels = made()
    monkeypatch.setattr(learner, "FITTED_ROWS", 12)
    monkeypatch.setattr(learner, "CANDIDATES", 5)
    fitted = learner.fit(photos, without(labels, *range(40, 60)), 3)
    assert (fitted.probabilities.argmax(axis=1) == labels).mean() > 0.5
    assert fitted.covariance.shape == (5, 5)
    assert fitted.candidates.min() >= 40
