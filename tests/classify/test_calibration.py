"""The right temperature and the right floor, and no harm if there is nothing to fit."""

import numpy as np
import pytest
from scipy.special import softmax

from classify import calibration
from classify.calibration import Calibration


@pytest.mark.parametrize("true", [0.2, 1.0, 5.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(true: float) -> None:
    random = np.random.default_rng(0)
    scores = 3 * random.standard_normal((4000, 3))
    probabilities = softmax(scores / true, axis=1)
    labels = (probabilities.cumsum(axis=1) < random.random((4000, 1))).sum(axis=1)
    assert calibration.fit(scores, labels).temperature == pytest.approx(true, rel=0.1)


def test_by_hand() -> None:
    # A lead of 1 is right three times out of four. With smoothing, 1/6 of each photo counts for a
    # random class, so the share of right answers is 5/6 * 3/4 + 1/6 * 1/2 = 17/24. Softmax gives
    # this share for a lead of ln(17/7).
    scores = np.tile([1.0, 0.0], (4, 1))
    labels = np.array([0, 0, 0, 1])
    found = calibration.fit(scores, labels)
    assert found.temperature == pytest.approx(1 / np.log(17 / 7), rel=1e-2)
    # At this temperature the loss is the entropy of that share.
    share = np.array([17, 7]) / 24
    losses = calibration.losses(scores, labels, found)
    assert losses.mean() == pytest.approx(-(share * np.log(share)).sum(), rel=1e-4)


def test_photos_count_by_their_weights() -> None:
    scores = np.tile([1.0, 0.0], (4, 1))
    labels, weights = np.array([0, 0, 0, 1]), np.array([1.0, 1.0, 1.0, 3.0])
    # By weight, the first class is right half the time: its lead means nothing.
    assert calibration.fit(scores, labels, weights).temperature > 100


def test_a_model_without_a_mistake_is_not_taken_to_be_infallible() -> None:
    labels = np.arange(20) % 2
    scores = np.eye(2)[labels]
    sure = softmax(scores / calibration.fit(scores, labels).temperature, axis=1).max(axis=1)
    assert (sure < 1 - 1 / 50).all()
    assert (sure > 1 - 1 / 20).all()


def test_an_unknown_class_does_no_harm() -> None:
    random = np.random.default_rng(0)
    scores = random.standard_normal((50, 3))
    scores[:, 2] = -np.inf
    assert 0.01 < calibration.fit(scores, random.integers(0, 2, 50)).temperature < 1000


def test_without_photos_the_temperature_is_one() -> None:
    assert calibration.fit(np.empty((0, 3)), np.empty(0, int)).temperature == 1.0


@pytest.mark.parametrize("floor", [0.1, 1.0])
def test_the_floor_that_labels_were_drawn_with_is_found(floor: float) -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(-1.3, 1.3, (20_000, 4))
    probabilities = softmax(Calibration(0.4, floor).scaled(scores), axis=1)
    labels = (probabilities.cumsum(axis=1) < random.random((20_000, 1))).sum(axis=1)
    found = calibration.fit(scores, labels, with_floor=True)
    assert found.floor == pytest.approx(floor, rel=0.15)
    assert found.temperature == pytest.approx(0.4, rel=0.1)
    own = -np.log(probabilities[np.arange(20_000), labels])
    losses = calibration.losses(scores, labels, found)
    assert losses.mean() == pytest.approx(own.mean(), abs=2e-3)


def test_a_floor_takes_probability_from_classes_that_are_certainly_not_shown() -> None:
    scores = np.full((1, 100), -1.1)
    scores[0, :2] = [0.2, -0.8]
    with_floor, without = (
        softmax(Calibration(temperature, floor).scaled(scores), axis=1)[0]
        for temperature, floor in ((0.3, 0.05), (0.3, np.inf))
    )
    assert with_floor[2:].sum() < 0.01 < without[2:].sum()
    order = np.argsort(-with_floor, kind="stable")
    np.testing.assert_array_equal(order, np.argsort(-without, kind="stable"))


def test_a_large_floor_is_a_straight_line_and_an_unknown_class_stays_unknown() -> None:
    scores = np.array([[-0.5, 0.0, 0.5, -np.inf]])
    np.testing.assert_allclose(Calibration(2.0, 1e6).scaled(scores), scores / 2, atol=1e-6)
    np.testing.assert_allclose(
        Calibration(2.0, 1.0).scaled(scores), [[np.log(0.75), 0, np.log(1.25), -np.inf]]
    )


def test_there_is_no_floor_if_a_straight_line_is_better() -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(-1.3, 1.3, (2_000, 4))
    probabilities = softmax(np.expm1(2 * scores), axis=1)
    labels = (probabilities.cumsum(axis=1) < random.random((2_000, 1))).sum(axis=1)
    found = calibration.fit(scores, labels, with_floor=True)
    without = calibration.fit(scores, labels)
    assert found.floor == np.inf
    assert found.temperature == without.temperature
    losses = [calibration.losses(scores, labels, one) for one in (found, without)]
    np.testing.assert_array_equal(*losses)


@pytest.mark.parametrize("photos", [1, 3, 12])
def test_few_photos_have_a_floor_within_its_range(photos: int) -> None:
    scores = np.random.default_rng(0).uniform(-1.3, 1.3, (photos, 3)).astype(np.float32)
    labels = np.arange(photos) % 3
    found = calibration.fit(scores, labels, with_floor=True)
    assert calibration.FLOORS[0] <= found.floor <= calibration.FLOORS[1] or found.floor == np.inf
    assert calibration.RANGE[0] <= found.temperature <= calibration.RANGE[1]
    assert np.isfinite(calibration.losses(scores, labels, found)).all()
