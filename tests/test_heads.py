"""Heads: the steps before the classifier by hand, saved files that run no code, counts."""

import numpy as np
import pytest
import skops.io
from sklearn.preprocessing import StandardScaler

from classify.heads import HEADS, TRUSTED, columns, parameters, pipeline, preparation
from extract.recipe import TAPS

WIDTH = sum(TAPS.values())


def rows(n: int, *, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    X = random.gamma(1.0, 1.0, (n, WIDTH)).astype(np.float32)
    X[:, :classes] += 8 * np.eye(classes)[labels]
    X[:, 512:1024] += 3 * ((np.arange(512) % classes) == labels[:, None])
    return X, labels


def fitted(name: str, X: np.ndarray, labels: np.ndarray, *, taps: int = 2):
    samples = np.bincount(labels).tolist()
    value = HEADS[name].values[-1]
    return pipeline(name, list(TAPS)[:taps], value, samples=samples, seed=0).fit(X, labels)


def test_each_tap_is_rooted_and_normalised_on_its_own_and_the_rest_dropped() -> None:
    X, _ = rows(7)
    taps = ["block5_avg", "block5_max"]
    prepared = preparation(taps).fit_transform(X)
    blocks = []
    for start, width in ((0, 512), (512 + 4608, 512)):
        block = np.sqrt(X[:, start : start + width])
        blocks.append(block / np.linalg.norm(block, axis=1, keepdims=True))
    expected = StandardScaler().fit_transform(np.hstack(blocks))
    np.testing.assert_allclose(prepared, expected, atol=2e-4)


def test_columns_lie_side_by_side_and_cover_the_matrix() -> None:
    places = columns(list(TAPS))
    assert [places[tap].stop - places[tap].start for tap in TAPS] == list(TAPS.values())
    assert places["block5_avg"].start == 0
    assert places["block3_max"].stop == WIDTH


@pytest.mark.parametrize("name", HEADS)
def test_a_head_learns_and_gives_probabilities(name: str) -> None:
    X, labels = rows(60)
    unseen, truth = rows(30, seed=1)
    probabilities = fitted(name, X, labels).predict_proba(unseen)
    assert probabilities.shape == (30, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.argmax(axis=1) == truth).mean() > 0.8


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_saved_head_loads_with_the_trusted_types_alone(name: str, classes: int) -> None:
    X, labels = rows(30, classes=classes)
    head = fitted(name, X, labels)
    data = skops.io.dumps(head)
    assert set(skops.io.get_untrusted_types(data=data)) <= set(TRUSTED)
    loaded = skops.io.loads(data, trusted=list(TRUSTED))
    np.testing.assert_array_equal(loaded.predict_proba(X), head.predict_proba(X))


def test_every_trusted_type_is_needed_by_some_head() -> None:
    X, labels = rows(30)
    needed = set()
    for name in HEADS:
        needed |= set(skops.io.get_untrusted_types(data=skops.io.dumps(fitted(name, X, labels))))
    assert needed == set(TRUSTED)


@pytest.mark.parametrize("name", HEADS)
def test_constant_values_and_duplicate_rows_are_survived(name: str) -> None:
    X, labels = rows(20, classes=2)
    X[:, 512:1024] = 0.0
    X[:, 5] = 1.0
    X, labels = np.vstack([X, X]), np.concatenate([labels, labels])
    assert np.isfinite(fitted(name, X, labels).predict_proba(X)).all()


@pytest.mark.parametrize("name", HEADS)
def test_two_photos_in_a_class_are_enough(name: str) -> None:
    X, labels = rows(30)
    labels = np.where(np.arange(30) < 2, 2, labels % 2)
    assert fitted(name, X, labels).predict_proba(X).shape == (30, 3)


def test_parameters_are_counted_by_hand() -> None:
    X, labels = rows(30)
    d = 512 + 4608
    assert parameters(fitted("logistic", X, labels)) == 3 * d + 3
    # One-against-one: three hyperplanes; two numbers for each class's sigmoid.
    assert parameters(fitted("svm", X, labels)) == 3 * d + 3 + 3 * 2
    assert parameters(fitted("mlp", X, labels)) == d * 128 + 128 + 128 * 3 + 3
