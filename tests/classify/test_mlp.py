"""Networks trained for the search are those that scikit-learn trains."""

import numpy as np
import pytest

from classify import heads, mlp


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("alpha", [0.01, 30.0])
def test_a_network_is_the_one_that_scikit_learn_trains(classes: int, alpha: float) -> None:
    random = np.random.default_rng(0)
    # The last batch of an epoch has 6 rows.
    X = random.standard_normal((70, 20)).astype(np.float32)
    labels = random.integers(0, classes, 70) + 4
    weight = random.uniform(0.1, 3, 70)
    grid = [(alpha, 1), (alpha, 5), (alpha / 2, 2)]
    unseen = random.standard_normal((9, 20)).astype(np.float32) * heads.MLP_NORM
    for values, network in zip(
        grid, mlp.path(X * heads.MLP_NORM, labels, weight, grid, 3), strict=True
    ):
        classifier = heads.HEADS["mlp"].fit(X.copy(), labels, weight, values, 3)
        expected = unseen @ (classifier.coefs_[0] / heads.MLP_NORM) + classifier.intercepts_[0]
        expected = np.maximum(expected, 0) @ classifier.coefs_[1] + classifier.intercepts_[1]
        np.testing.assert_allclose(
            network.scores(unseen), expected, rtol=0, atol=1e-3 * np.abs(expected).max()
        )


def test_a_path_trains_an_alpha_once() -> None:
    X = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)
    networks = list(mlp.path(X, np.arange(40) % 2, np.ones(40), [(1.0, 1), (1.0, 3)], 0))
    assert networks[0] is networks[1]
    assert networks[0].steps == 3 * 2
