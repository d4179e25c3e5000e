"""Heads: preparation compared with hand-made steps, classifiers, saved files that run no code."""

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neural_network import MLPClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

import classify
from classify import heads, out_of_core, train
from classify.arrays import TrainingData
from classify.calibration import Calibration
from classify.heads import (
    HEADS,
    TRUSTED,
    GaussianSVC,
    LeastSquaresSVC,
    columns,
    parameters,
    preparation,
    select,
)
from classify.row_space import Projection
from classify.search import Choice
from classify.search_space import GAUSSIAN, GRIDS
from extract.vgg16.recipe import TAPS

OWN = {"block5_avg": 512, "block5_avg3x3": 4608}
WIDTH = 512 + 4608


def rows(n: int, *, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    X = random.gamma(1.0, 1.0, (n, WIDTH)).astype(np.float32)
    X[:, :classes] += 8 * np.eye(classes)[labels]
    X[:, 512:1024] += 3 * ((np.arange(512) % classes) == labels[:, None])
    return X, labels


FITTED = {
    **{name: (name, grid[-1]) for name, grid in GRIDS.items()},
    "kernel": ("svm", GAUSSIAN[-1]),
}
"""Every kind of head: its name and some values."""


def fitted(kind: str, X: np.ndarray, labels: np.ndarray):
    name, given = FITTED[kind]
    values = dict(zip(HEADS[name].hyperparameters, given, strict=True))
    choice = Choice({"taps": list(OWN), "root": True, **values})
    return train.fit_head(name, choice, TrainingData.weighted(X, OWN, labels), seed=0)


def jitter(estimator: object) -> dict[str, str]:
    """Name the checks that are not passed to all digits because of `heads.KERNEL_JITTER`."""
    if isinstance(estimator, GaussianSVC):
        return {"check_sample_weight_equivalence_on_dense_data": "a repeated row counts 1e-6 more"}
    return {}


@parametrize_with_checks([LeastSquaresSVC(), GaussianSVC()], expected_failed_checks=jitter)
def test_our_estimator_passes_scikit_learns_checks(estimator, check) -> None:
    check(estimator)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_least_squares_gives_what_a_ridge_classifier_gives(
    classes: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out_of_core, "BLOCK", 13)
    random = np.random.default_rng(0)
    X = random.standard_normal((60, 100)).astype(np.float32)
    labels = np.arange(60) % classes
    weights = random.random(60) if weighted else np.ones(60)
    ours = LeastSquaresSVC(3.0).fit(X, labels, weights).decision_function(X)
    plain = RidgeClassifier(3.0).fit(X.astype(np.float64), labels, weights)
    np.testing.assert_allclose(ours, plain.decision_function(X), atol=1e-4)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_kernel_gives_what_scikit_learns_kernel_gives(classes: int, weighted: bool) -> None:
    random = np.random.default_rng(0)
    X, unseen = random.standard_normal((2, 60, 20))
    labels = np.arange(60) % classes
    weights = random.random(60) if weighted else np.ones(60)
    ours = GaussianSVC(0.5, gamma=0.02).fit(X, labels, weights)
    similar = rbf_kernel(X, gamma=0.02)
    root = np.linalg.cholesky(similar + 1e-5 * np.eye(60))
    plain = RidgeClassifier(0.5).fit(root, labels, weights)
    expected = plain.decision_function(rbf_kernel(unseen, X, gamma=0.02) @ np.linalg.inv(root).T)
    np.testing.assert_allclose(ours.decision_function(unseen), expected, atol=1e-4)


def test_of_many_rows_a_sample_of_each_class_are_landmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    X, labels = rows(240)
    Z, unseen = X[:200, :80] / 9, X[200:, :80] / 9
    exact = GaussianSVC(0.1, 0.25).fit(Z, labels[:200])
    few = GaussianSVC(0.1, 0.25).fit(Z[:60], labels[:60])
    monkeypatch.setattr(heads, "LANDMARKS", 60)
    sampled = GaussianSVC(0.1, 0.25).fit(Z, labels[:200])
    assert len(exact.landmarks_) == 200
    assert sampled.landmarks_.shape == (60, 80)
    chosen = (Z[:, None] == sampled.landmarks_).all(axis=2).any(axis=1)
    assert np.bincount(labels[:200][chosen]).tolist() == [20, 20, 20]
    expected = exact.decision_function(unseen)
    errors = [np.abs(one.decision_function(unseen) - expected).mean() for one in (sampled, few)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_path_gives_what_separate_fits_give(name: str, classes: int) -> None:
    X, labels = rows(40, classes=classes)
    Z, unseen = X[:30, :80] / 9, X[30:, :80] / 9
    head, weights = HEADS[name], np.ones(30)
    grid = GRIDS[name] + (GAUSSIAN if name == "svm" else ())
    part = Projection(Z, unseen, np.zeros(10, np.float32))
    path = head.path(part, labels[:30], weights, grid, 0)
    for values, found in zip(grid, path, strict=True):
        one = head.fit(Z.copy(), labels[:30], weights, values, 0)
        expected = heads.scores(one, unseen * 1)
        np.testing.assert_allclose(found, expected, atol=0.15 * np.abs(expected).max())


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("classes", [2, 3])
def test_a_temperature_divides_the_scores(name: str, classes: int) -> None:
    X, labels = rows(30, classes=classes)
    head = fitted(name, X, labels)
    prepared = head[:-1].transform(X)
    before = heads.scores(head[-1], prepared)
    heads.calibrate(head[-1], Calibration(4.0))
    after = heads.scores(head[-1], prepared)
    difference = before - before[:, :1]
    np.testing.assert_allclose(after - after[:, :1], difference / 4, rtol=1e-3, atol=1e-4)


def test_each_tap_is_normalised_on_its_own_after_the_square_root() -> None:
    X, _ = rows(7)
    prepared = preparation(OWN, root=True).fit_transform(X)
    blocks = []
    for start, width in ((0, 512), (512, 4608)):
        block = np.sqrt(X[:, start : start + width])
        blocks.append(block / np.linalg.norm(block, axis=1, keepdims=True))
    expected = np.hstack(blocks)
    np.testing.assert_allclose(prepared, expected - expected.mean(axis=0), atol=2e-6)


@pytest.mark.parametrize(("root", "by_block"), [(False, False), (True, False), (True, True)])
def test_rows_for_the_search_are_prepared_as_those_for_a_head(
    root: bool, by_block: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out_of_core, "BLOCK", 3)
    X, _ = rows(7)
    X[2, :512] = 0
    own = {"block5_avg": 512, "block4_avg": 2304, "block4_max": 2304}
    taps = {"block4_avg": 2304, "block4_max": 2304, "block5_avg": 512}
    found = heads.normalised(X, taps, among=own, root=root, by_block=by_block)
    prepare = preparation(taps, root=root, by_block=by_block)
    expected = prepare.fit_transform(np.hstack([X[:, 512:], X[:, :512]]))
    np.testing.assert_allclose(found - found.mean(axis=0), expected, atol=2e-6)


def test_blocks_count_the_same_however_many_taps_and_sizes_they_have() -> None:
    taps = ["block5_avg3x3", "block4_avg", "block4_max_320", "block4_pairs", "block5_avg3x3_320"]
    norms = heads.block_norms(taps)
    assert list(norms) == taps
    for block, share in (("block4", 1.0), ("block5", 1.5)):
        squares = [norms[tap] ** 2 for tap in taps if tap.startswith(block)]
        assert squares == pytest.approx([share] * len(squares))
        assert sum(squares) == pytest.approx(3)
    assert heads.block_norms(["block5_avg3x3"]) == {"block5_avg3x3": 1.0}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", ["svm", "kernel"])
def test_probabilities_of_least_squares_follow_from_its_scores(kind: str, classes: int) -> None:
    X, labels = rows(30, classes=classes)
    head = fitted(kind, X, labels)
    scores = head.decision_function(X)
    if classes == 2:
        scores = np.column_stack([-scores, scores])
    heads.calibrate(head[-1], Calibration(0.5, 0.25))
    # A score of -1 or less leaves a class the floor alone.
    expected = (0.25 + np.maximum(1 + scores, 0)) ** (1.25 / 0.5)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict_proba(X), expected, atol=1e-5)
    assert (head.predict(X) == head.predict_proba(X).argmax(axis=1)).all()


def test_pairs_of_channels_are_normalised_without_another_root() -> None:
    taps = {"block5_avg": 512, "block4_pairs": 4096}
    X = np.random.default_rng(0).normal(size=(7, 512 + 4096)).astype(np.float32)
    X[:, :512] = np.abs(X[:, :512])
    found = heads.normalised(X, taps, among=taps, root=True)
    parts = [np.sqrt(X[:, :512]), X[:, 512:]]
    expected = np.hstack([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    prepared = preparation(taps, root=True).fit_transform(X)
    np.testing.assert_allclose(prepared, expected - expected.mean(axis=0), atol=2e-6)


def test_columns_lie_side_by_side_and_cover_the_matrix() -> None:
    slices = columns(TAPS)
    assert [slices[tap].stop - slices[tap].start for tap in TAPS] == list(TAPS.values())
    assert slices["block5_avg"].start == 0
    assert slices["block3_max"].stop == sum(TAPS.values())


def test_selected_taps_lie_side_by_side_in_the_order_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out_of_core, "BLOCK", 3)
    X, _ = rows(7)
    assert select(X, OWN, among=OWN) is X
    turned = select(X, ["block5_avg3x3", "block5_avg"], among=OWN)
    np.testing.assert_array_equal(turned, np.hstack([X[:, 512:], X[:, :512]]))
    np.testing.assert_array_equal(select(X, ["block5_avg3x3"], among=OWN), X[:, 512:])
    wide = np.hstack([X, X[:, :512] + 1])
    found = select(wide, ["block5_max", "block5_avg"], among=OWN | {"block5_max": 512})
    np.testing.assert_array_equal(found, np.hstack([X[:, :512] + 1, X[:, :512]]))


@pytest.mark.parametrize("name", FITTED)
def test_a_head_learns_and_gives_probabilities(name: str) -> None:
    X, labels = rows(60)
    unseen, truth = rows(30, seed=1)
    probabilities = fitted(name, X, labels).predict_proba(unseen)
    assert probabilities.shape == (30, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.argmax(axis=1) == truth).mean() > 0.8


@pytest.mark.parametrize("name", FITTED)
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
    for name in FITTED:
        needed |= set(skops.io.get_untrusted_types(data=skops.io.dumps(fitted(name, X, labels))))
    assert needed == set(TRUSTED)


@pytest.mark.parametrize("log_odds", [41.6, -41.6, 0.25, 300.0])
def test_scores_of_a_network_for_two_classes_are_exact_on_both_sides(log_odds: float) -> None:
    network = MLPClassifier((2,), max_iter=1).fit(np.eye(2), [0, 1])
    network.coefs_ = [np.array([[1, -1]], np.float32), np.array([[1], [-1]], np.float32)]
    network.intercepts_ = [np.zeros(2, np.float32), np.zeros(1, np.float32)]
    ((first, second),) = heads.scores(network, np.array([[log_odds]], np.float32))
    assert second - first == pytest.approx(log_odds, rel=1e-6)


@pytest.mark.parametrize("name", FITTED)
def test_constant_values_and_duplicate_rows_do_no_harm(name: str) -> None:
    X, labels = rows(20, classes=2)
    X[:, 512:1024] = 0.0
    X[:, 5] = 1.0
    X, labels = np.vstack([X, X]), np.concatenate([labels, labels])
    assert np.isfinite(fitted(name, X, labels).predict_proba(X)).all()


@pytest.mark.parametrize("name", FITTED)
def test_two_photos_in_a_class_are_enough(name: str) -> None:
    X, labels = rows(30)
    labels = np.where(np.arange(30) < 2, 2, labels % 2)
    assert fitted(name, X, labels).predict_proba(X).shape == (30, 3)


def test_parameters_are_counted_by_hand() -> None:
    X, labels = rows(30)
    d = 512 + 4608
    assert parameters(fitted("logistic", X, labels)) == 3 * d + 3
    assert parameters(fitted("svm", X, labels)) == 3 * d + 3
    assert parameters(fitted("kernel", X, labels)) == 30 * d + 3 * 30 + 3
    assert parameters(fitted("mlp", X, labels)) == d * 128 + 128 + 128 * 3 + 3


def test_the_command_line_names_every_head() -> None:
    assert (*heads.HEADS,) == classify.HEADS
