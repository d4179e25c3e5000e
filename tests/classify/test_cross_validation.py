"""Cross-validation: what is held out, and that nothing leaks between the two parts of a fold."""

import numpy as np
import pytest

from classify import cross_validation
from classify.arrays import TrainingData
from extract.vgg16.recipe import TAPS

ONE = {"block5_avg": TAPS["block5_avg"]}


def test_few_rows_are_all_held_out_once_and_copies_stay_together() -> None:
    labels = np.repeat([0, 1], 20)
    digests = [f"photo {row // 2}" for row in range(40)]
    found = cross_validation.folds(labels, digests, np.zeros(40, bool), seed=0)
    assert len(found) == 5
    assert sorted(np.concatenate([out for _, out in found])) == list(range(40))
    for fitted, out in found:
        assert not set(fitted) & set(out)
        assert not {digests[row] for row in fitted} & {digests[row] for row in out}


@pytest.mark.parametrize(("rows", "in_smallest"), [(1000, 500), (40, 4)])
def test_with_many_rows_or_a_tiny_class_val_is_held_out(rows: int, in_smallest: int) -> None:
    labels = (np.arange(rows) < in_smallest).astype(int)
    is_val = np.arange(rows) % 5 == 0
    [(fitted, out)] = cross_validation.folds(
        labels, [str(row) for row in range(rows)], is_val, seed=0
    )
    assert list(out) == list(np.flatnonzero(is_val))
    assert sorted([*fitted, *out]) == list(range(rows))


@pytest.mark.parametrize(("each", "expected"), [(1, 0), (2, 2), (3, 3), (9, 5), (600, 1)])
def test_without_a_val_split_there_are_as_many_folds_as_the_smallest_class_allows(
    each: int, expected: int
) -> None:
    labels = np.arange(2 * each) % 2
    assert (
        len(cross_validation.folds(labels, [str(row) for row in range(2 * each)], seed=0))
        == expected
    )


@pytest.mark.parametrize(("name", "value"), [("svm", {"alpha": 0.3}), ("logistic", {"C": 100.0})])
def test_out_of_fold_probabilities_are_of_photos_that_were_not_fitted(
    name: str, value: dict[str, float]
) -> None:
    # The labels are random: only a head that was fitted on a photo can know its label.
    random = np.random.default_rng(0)
    X = random.gamma(1.0, 1.0, (200, TAPS["block5_avg"])).astype(np.float32)
    X = np.repeat(X, 2, axis=0)
    labels = np.repeat(random.integers(2, size=200), 2)
    digests = [str(row // 2) for row in range(400)]
    hyperparameters = {"taps": ["block5_avg"], "root": True, **value}
    data = TrainingData.weighted(X, ONE, labels)
    found = cross_validation.out_of_fold(name, hyperparameters, data, digests, seed=0)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert np.mean(found.argmax(axis=1) == labels) < 0.6
    # If copies are in different folds, nearly every label is known.
    apart = [str(row) for row in range(400)]
    leaky = cross_validation.out_of_fold(name, hyperparameters, data, apart, seed=0)
    assert np.mean(leaky.argmax(axis=1) == labels) > 0.7


def test_out_of_fold_of_a_class_with_one_photo_knows_nothing_of_it() -> None:
    random = np.random.default_rng(0)
    X = random.random((41, TAPS["block5_avg"])).astype(np.float32)
    labels = np.array([0, 1] * 20 + [2])
    hyperparameters = {"taps": ["block5_avg"], "root": False, "alpha": 0.3}
    digests = [str(row) for row in range(41)]
    data = TrainingData.weighted(X, ONE, labels)
    found = cross_validation.out_of_fold("svm", hyperparameters, data, digests, seed=0)
    assert found[40, 2] == 0
    assert np.isfinite(found).all()


def test_no_group_lies_on_both_sides_of_a_fold() -> None:
    labels = np.repeat(np.arange(2), 40)
    units = [f"group {i % 16}" for i in range(80)]
    for fitted, held_out in cross_validation.folds(labels, units, seed=0):
        assert not {units[row] for row in fitted} & {units[row] for row in held_out}
