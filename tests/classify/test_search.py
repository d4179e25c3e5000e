"""Choosing heads: nothing leaks, nothing is left out, sizes at both ends."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classify import heads, search
from classify.heads import HEADS, TAP_SETS
from extract.store import features_file
from extract.vgg16.recipe import TAPS
from tests.synthetic import publish

TRIED = heads.tried(TAPS)


def choose(
    names: list[str], X: np.ndarray, labels: np.ndarray, folds: list[search.Fold], **options: Any
) -> dict[str, search.Tuned]:
    the_spaces = search.spaces(names, labels, TRIED)
    return search.tune(the_spaces, X, labels, folds, taps=TRIED, seed=0, **options)


def own(tuned: search.Tuned, X: np.ndarray) -> np.ndarray:
    return heads.select(X, tuned.chosen["taps"], among=TRIED)


def load(path: Path) -> tuple[np.ndarray, np.ndarray, list[search.Fold]]:
    with features_file.open(path) as features:
        rows = features.rows("train", "val")
        labels = features.labels[rows]
        digests = [features.digests[row] for row in rows]
        folds = search.folds(labels, digests, features.splits[rows] == "val", seed=0)
        return features.read(TRIED, "train", "val"), labels, folds


def test_few_rows_are_all_held_out_once_and_copies_stay_together() -> None:
    labels = np.repeat([0, 1], 20)
    digests = [f"photo {row // 2}" for row in range(40)]
    found = search.folds(labels, digests, np.zeros(40, bool), seed=0)
    assert len(found) == 5
    assert sorted(np.concatenate([out for _, out in found])) == list(range(40))
    for fitted, out in found:
        assert not set(fitted) & set(out)
        assert not {digests[row] for row in fitted} & {digests[row] for row in out}


@pytest.mark.parametrize(("rows", "in_smallest"), [(1000, 500), (40, 4)])
def test_many_rows_or_a_tiny_class_are_chosen_by_on_val(rows: int, in_smallest: int) -> None:
    labels = (np.arange(rows) < in_smallest).astype(int)
    is_val = np.arange(rows) % 5 == 0
    [(fitted, out)] = search.folds(labels, [str(row) for row in range(rows)], is_val, seed=0)
    assert list(out) == list(np.flatnonzero(is_val))
    assert sorted([*fitted, *out]) == list(range(rows))


@pytest.mark.parametrize(("each", "expected"), [(1, 0), (2, 2), (3, 3), (9, 5), (600, 1)])
def test_without_a_val_split_there_are_as_many_folds_as_the_smallest_class_allows(
    each: int, expected: int
) -> None:
    labels = np.arange(2 * each) % 2
    assert len(search.folds(labels, [str(row) for row in range(2 * each)], seed=0)) == expected


def test_taps_are_added_only_when_they_help(tmp_path: Path) -> None:
    shallow = publish(tmp_path / "a", informative=("block5_avg",), per_class=(30, 10, 4))
    deep = publish(tmp_path / "b", informative=("block3_max",), per_class=(30, 10, 4), signal=9)
    chosen = []
    for path in (shallow, deep):
        X, labels, folds = load(path)
        done: list[int] = []
        tuned = choose(["svm"], X, labels, folds, advance=done.append)["svm"]
        spaces = search.spaces(["svm"], labels, TRIED)
        assert sum(done) == search.steps(spaces)
        space = spaces["svm"]
        assert len(tuned.tried) == len(space.views) * len(space.values)
        chosen.append(tuned.chosen["taps"])
    assert chosen == [["block5_avg"], list(TAP_SETS[-1])]


@pytest.mark.parametrize("informative", ["block5_avg3x3", "block4_max_96"])
def test_a_further_size_is_taken_where_it_pays(informative: str, tmp_path: Path) -> None:
    path = publish(
        tmp_path, informative=(informative,), per_class=(30, 10, 4), signal=9, sizes=(224, 96)
    )
    with features_file.open(path) as features:
        labels = features.labels[features.rows("train", "val")]
        taps = heads.tried(features.taps)
        X = features.read(taps, "train", "val")
    folds = search.folds(labels, [str(row) for row in range(len(labels))], seed=0)
    the_spaces = search.spaces(["logistic", "svm"], labels, taps)
    assert len(the_spaces["svm"].views) == 12
    for name, one in search.tune(the_spaces, X, labels, folds, taps=taps, seed=0).items():
        assert informative in one.chosen["taps"]
        if informative.startswith("block5"):
            assert one.chosen["taps"] == ["block5_avg3x3"], name
        found = one.head.predict(heads.select(X, one.chosen["taps"], among=taps))
        assert (found == labels).mean() > 0.9, name


def test_permuted_labels_give_chance(tmp_path: Path) -> None:
    X, labels, folds = load(publish(tmp_path, per_class=(40, 10, 4)))
    permuted = np.random.default_rng(0).permutation(labels)
    for these, low, high in ((permuted, 0.0, 1 / 3 + 0.15), (labels, 0.9, 1.0)):
        tuned = choose(["logistic", "svm"], X, these, folds)
        for one in tuned.values():
            # 150 rows of three classes: four standard errors are 0.15.
            assert low <= max(candidate["score"] for candidate in one.tried) <= high


def test_choices_do_not_depend_on_the_number_of_processes_or_on_company(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, labels, folds = load(publish(tmp_path))
    alone = choose(["mlp"], X, labels, folds)["mlp"]
    monkeypatch.setattr(search, "PROCESSES", 1)
    among = choose(list(HEADS), X, labels, folds)["mlp"]
    assert alone.tried == among.tried
    np.testing.assert_array_equal(
        alone.head.predict_proba(own(alone, X)), among.head.predict_proba(own(among, X))
    )


def test_the_scale_of_the_features_changes_nothing(tmp_path: Path) -> None:
    X, labels, folds = load(publish(tmp_path))
    one, other = (choose(["svm"], A, labels, folds)["svm"] for A in (X, X * 16))
    assert one.tried == other.tried
    probabilities = (
        one.head.predict_proba(own(one, X)),
        other.head.predict_proba(own(other, X * 16)),
    )
    np.testing.assert_allclose(*probabilities, atol=1e-3)


def test_balanced_heads_hear_the_rare_class() -> None:
    random = np.random.default_rng(0)
    labels = (np.arange(420) >= 400).astype(int)
    X = random.gamma(1.0, 1.0, (420, sum(TRIED.values()))).astype(np.float32)
    X[labels == 1, :20] += 0.7
    folds = search.folds(labels, [str(row) for row in range(420)], seed=0)
    recalls = []
    for balanced in (False, True):
        tuned = choose(["svm"], X, labels, folds, balanced=balanced)["svm"]
        scores = np.random.default_rng(1).gamma(1.0, 1.0, (200, X.shape[1])).astype(np.float32)
        scores[:, :20] += 0.7
        recalls.append(tuned.head.predict(own(tuned, scores)).mean())
    assert recalls[1] > recalls[0] + 0.1


@pytest.mark.parametrize(("classes", "each"), [(2, 2), (60, 2), (30, 1)])
def test_few_photos_of_many_classes_are_learned(classes: int, each: int) -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    centres = random.gamma(0.3, 1.0, (classes, sum(TRIED.values())))
    X = (centres[labels] + random.gamma(1.0, 0.1, (len(labels), centres.shape[1]))).astype("f4")
    folds = search.folds(labels, [str(row) for row in range(len(labels))], seed=0)
    unseen = (centres + random.gamma(1.0, 0.1, centres.shape)).astype(np.float32)
    for name, tuned in choose(["logistic", "svm"], X, labels, folds).items():
        assert (tuned.head.predict(own(tuned, unseen)) == np.arange(classes)).mean() > 0.8, name


def test_a_class_that_only_val_has_is_no_obstacle() -> None:
    random = np.random.default_rng(0)
    X = random.gamma(1.0, 1.0, (24, sum(TRIED.values()))).astype(np.float32)
    labels = np.array([0, 1] * 10 + [2] * 4)
    is_val = np.arange(24) >= 16
    folds = search.folds(labels, [str(row) for row in range(24)], is_val, seed=0)
    assert set(labels[folds[0][0]]) == {0, 1}
    for tuned in choose(list(HEADS), X, labels, folds).values():
        probabilities = tuned.head.predict_proba(own(tuned, X))
        assert probabilities.shape == (24, 3)
        assert np.isfinite(probabilities).all()


def test_fewer_rows_than_a_batch_are_learned_without_a_word(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    X, labels, folds = load(publish(tmp_path, per_class=(4, 2, 1)))
    choose(["mlp"], X, labels, folds)
    assert [str(warning.message) for warning in recwarn] == []


def test_the_simplest_candidate_wins_that_is_worse_by_chance_alone() -> None:
    even = np.ones(4)
    best = np.ones(4)
    # Worse by 0.2 on average, give or take 0.07.
    clearly = np.array([1.0, 1.4, 1.2, 1.2])
    # Worse by 0.1 on average, give or take 0.2.
    hardly = np.array([0.5, 1.7, 1.2, 1.0])
    assert search.simplest([clearly, best], even) == 1
    assert search.simplest([clearly, hardly, best], even) == 1
    assert search.simplest([best, hardly], even) == 0
    # The photo on which it is no worse counts for more.
    assert search.simplest([clearly, best], np.array([30.0, 1.0, 1.0, 1.0])) == 0


ONE = {"block5_avg": TAPS["block5_avg"]}


@pytest.mark.parametrize(("name", "value"), [("svm", {"alpha": 0.3}), ("logistic", {"C": 100.0})])
def test_out_of_fold_probabilities_are_of_photos_that_were_not_fitted(
    name: str, value: dict[str, float]
) -> None:
    # Labels are drawn at random: only a head that has seen a photo could know its label.
    random = np.random.default_rng(0)
    X = random.gamma(1.0, 1.0, (200, TAPS["block5_avg"])).astype(np.float32)
    X = np.repeat(X, 2, axis=0)
    labels = np.repeat(random.integers(2, size=200), 2)
    digests = [str(row // 2) for row in range(400)]
    chosen = {"taps": ["block5_avg"], "root": True, **value}
    found = search.out_of_fold(name, chosen, X, labels, digests, taps=ONE, seed=0)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert np.mean(found.argmax(axis=1) == labels) < 0.6
    # Were copies not kept together, nearly every label would be known.
    apart = [str(row) for row in range(400)]
    leaky = search.out_of_fold(name, chosen, X, labels, apart, taps=ONE, seed=0)
    assert np.mean(leaky.argmax(axis=1) == labels) > 0.7


def test_out_of_fold_of_a_class_with_one_photo_knows_nothing_of_it() -> None:
    random = np.random.default_rng(0)
    X = random.random((41, TAPS["block5_avg"])).astype(np.float32)
    labels = np.array([0, 1] * 20 + [2])
    chosen = {"taps": ["block5_avg"], "root": False, "alpha": 0.3}
    digests = [str(row) for row in range(41)]
    found = search.out_of_fold("svm", chosen, X, labels, digests, taps=ONE, seed=0)
    assert found[40, 2] == 0
    assert np.isfinite(found).all()
