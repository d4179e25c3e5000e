"""The row space: the same models from fewer numbers."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from classify import heads, row_space
from classify.heads import LeastSquaresSVC
from classify.row_space import Projection
from classify.search_space import GAUSSIAN, GRIDS


def projected(fitted: np.ndarray, held_out: np.ndarray) -> Projection:
    n = len(fitted)
    products = row_space.gram(np.vstack([fitted, held_out]))
    return row_space.project(products, np.arange(n), n + np.arange(len(held_out)))


def matrices(n: int = 40, d: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    A = random.standard_normal((n, d)).astype(np.float32)
    return A, random.standard_normal((25, d)).astype(np.float32), np.arange(n) % 3


@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(C=0.01, max_iter=1000, tol=1e-8),
        SVC(kernel="linear", C=0.01, tol=1e-6),
        LeastSquaresSVC(3.0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_linear_model_in_the_row_space_is_the_same_model(model) -> None:
    A, B, labels = matrices()
    centre = A.mean(axis=0)
    direct = model.fit(A - centre, labels).decision_function(B - centre)
    fitted, held_out, _ = projected(A + 1, B + 1)
    assert fitted.shape == (40, 40)
    found = model.fit(fitted, labels).decision_function(held_out)
    np.testing.assert_allclose(found, direct, atol=2e-3)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    ("name", "values"), [*((name, grid[1]) for name, grid in GRIDS.items()), ("svm", GAUSSIAN[1])]
)
def test_a_classifier_mapped_back_to_columns_gives_the_same_scores(
    name: str, values: heads.Values, classes: int
) -> None:
    A, B, _ = matrices()
    if values == GAUSSIAN[1]:
        # Distances also depend on what lies outside of the space that the rows span.
        B = A[:25] / 2
    labels = np.arange(40) % classes
    head = heads.HEADS[name]
    Z, basis = row_space.basis(A)
    vectors = basis.columns(np.eye(40, dtype=np.float32))
    np.testing.assert_allclose(A @ vectors, Z, atol=1e-4)
    classifier = head.fit(Z * np.float32(0.1), labels, np.ones(40), values, 0)
    before = heads.scores(classifier, B @ vectors * np.float32(0.1))
    heads.map_back(classifier, basis, scale=0.1)
    np.testing.assert_allclose(heads.scores(classifier, B), before, atol=1e-4)


@pytest.mark.parametrize("twice", [False, True])
def test_rows_of_less_than_full_rank_keep_their_products(twice: bool) -> None:
    A, _, _ = matrices(20)
    A = np.vstack([A, A]) if twice else A - A.mean(axis=0)
    A -= A.mean(axis=0)
    inside = A[:5] * 2
    fitted, unseen, outside = projected(A, inside)
    np.testing.assert_allclose(fitted @ fitted.T, A @ A.T, atol=1e-2)
    np.testing.assert_allclose(unseen @ fitted.T, inside @ A.T, atol=1e-2)
    np.testing.assert_allclose(outside, 0, atol=1e-2)


def test_distances_between_rows_are_kept() -> None:
    A, B, _ = matrices()
    fitted, unseen, outside = projected(A + 1, B + 1)
    assert outside.min() > 1
    found = np.square(unseen[:, None] - fitted[None]).sum(axis=2) + outside[:, None]
    np.testing.assert_allclose(found, np.square(B[:, None] - A[None]).sum(axis=2), rtol=1e-3)


def test_rows_that_are_all_equal_or_zero_are_projected_too() -> None:
    for value in (0.0, 3.0):
        A = np.full((10, 50), value, np.float32)
        fitted, held_out, _ = projected(A, A[:3])
        np.testing.assert_allclose(fitted, 0, atol=1e-2)
        np.testing.assert_allclose(held_out, 0, atol=1e-2)


def test_rows_stay_as_they_are_if_there_are_many() -> None:
    A = np.ones((50, 99), np.float32)
    assert row_space.basis(A) == (A, None)
