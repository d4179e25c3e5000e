"""Temperature: found where it is known, and harmless where there is nothing to learn from."""

import numpy as np
import pytest
from scipy.special import softmax

from classify import calibration


@pytest.mark.parametrize("true", [0.2, 1.0, 5.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(true: float) -> None:
    random = np.random.default_rng(0)
    scores = 3 * random.standard_normal((4000, 3))
    probabilities = softmax(scores / true, axis=1)
    labels = (probabilities.cumsum(axis=1) < random.random((4000, 1))).sum(axis=1)
    assert calibration.temperature(scores, labels) == pytest.approx(true, rel=0.1)


def test_by_hand() -> None:
    # Right three times of four with a lead of 1: the probability of 3/4 has the lead ln 3.
    scores = np.tile([1.0, 0.0], (4, 1))
    found = calibration.temperature(scores, np.array([0, 0, 0, 1]))
    assert found == pytest.approx(1 / np.log(3), rel=1e-3)


def test_without_photos_nothing_is_changed() -> None:
    assert calibration.temperature(np.empty((0, 3)), np.empty(0, int)) == 1.0
