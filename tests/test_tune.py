"""Choosing a head: nothing leaks, nothing is left out, the shortcut changes nothing."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from classify import tune
from classify.heads import HEADS
from extract import store
from extract.recipe import TAPS
from tests.synthetic import publish


def load(path: Path) -> tuple[np.ndarray, np.ndarray, list[tune.Fold]]:
    with store.open(path) as features:
        rows = features.rows("train", "val")
        labels = features.labels[rows]
        digests = [features.digests[row] for row in rows]
        folds = tune.folds(labels, digests, features.splits[rows] == "val", seed=0)
        return features.read(TAPS, "train", "val"), labels, folds


def test_few_rows_are_all_held_out_once_and_copies_stay_together() -> None:
    labels = np.repeat([0, 1], 20)
    digests = [f"photo {row // 2}" for row in range(40)]
    found = tune.folds(labels, digests, np.zeros(40, bool), seed=0)
    assert len(found) == 5
    assert sorted(np.concatenate([out for _, out in found])) == list(range(40))
    for fitted, out in found:
        assert not set(fitted) & set(out)
        assert not {digests[row] for row in fitted} & {digests[row] for row in out}


@pytest.mark.parametrize(("rows", "in_smallest"), [(1000, 500), (40, 4)])
def test_many_rows_or_a_tiny_class_are_chosen_by_on_val(rows: int, in_smallest: int) -> None:
    labels = (np.arange(rows) < in_smallest).astype(int)
    is_val = np.arange(rows) % 5 == 0
    [(fitted, out)] = tune.folds(labels, [str(row) for row in range(rows)], is_val, seed=0)
    assert list(out) == list(np.flatnonzero(is_val))
    assert sorted([*fitted, *out]) == list(range(rows))


@pytest.mark.parametrize(
    "model",
    [LogisticRegression(C=0.01, max_iter=1000, tol=1e-8), SVC(kernel="linear", C=0.01, tol=1e-6)],
)
def test_a_linear_model_in_the_span_of_the_rows_is_the_same_model(model) -> None:
    random = np.random.default_rng(0)
    A = random.standard_normal((40, 300)).astype(np.float32)
    B = random.standard_normal((25, 300)).astype(np.float32)
    labels = np.arange(40) % 3
    direct = model.fit(A, labels).decision_function(B)
    fitted, held_out = tune.rotate(A, B)
    assert fitted.shape == (40, 40)
    rotated = model.fit(fitted, labels).decision_function(held_out)
    np.testing.assert_allclose(rotated, direct, atol=2e-3)


def test_rows_of_less_than_full_rank_are_rotated_too() -> None:
    A = np.ones((10, 50), np.float32) * np.arange(10, dtype=np.float32)[:, None]
    fitted, held_out = tune.rotate(A, A[:3])
    assert fitted.shape == (10, 1)
    np.testing.assert_allclose(fitted @ held_out.T, A @ A[:3].T, rtol=1e-4)


def test_more_rows_than_columns_are_left_alone() -> None:
    A = np.ones((50, 10), np.float32)
    assert tune.rotate(A, A)[0] is A


def test_taps_are_added_only_when_they_help(tmp_path: Path) -> None:
    shallow = publish(tmp_path / "a", informative=("block5_avg",), per_class=(30, 10, 4))
    deep = publish(tmp_path / "b", informative=("block3_max",), per_class=(30, 10, 4), signal=9)
    chosen = []
    for path in (shallow, deep):
        X, labels, folds = load(path)
        fits = []
        tuned = tune.tune("svm", X, labels, folds, seed=0, advance=fits.append)
        assert sum(fits) == tune.fits("svm", folds)
        assert len(tuned.tried) == len(tune.TAP_SETS) * len(HEADS["svm"].values)
        chosen.append(tuned.chosen["taps"])
    assert chosen == [["block5_avg"], list(TAPS)]


def test_permuted_labels_give_chance(tmp_path: Path) -> None:
    X, labels, folds = load(publish(tmp_path, per_class=(40, 10, 4)))
    permuted = np.random.default_rng(0).permutation(labels)
    tuned = tune.tune("svm", X, permuted, folds, seed=0, advance=lambda n: None)
    scores = [candidate["score"] for candidate in tuned.tried]
    # 150 rows of three classes: four standard errors are 0.15.
    assert max(scores) < 1 / 3 + 0.15
    tuned = tune.tune("svm", X, labels, folds, seed=0, advance=lambda n: None)
    assert max(candidate["score"] for candidate in tuned.tried) > 0.9
