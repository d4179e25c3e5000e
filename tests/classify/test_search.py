"""Search: what helps is chosen, nothing leaks, and small and large data both work."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from classify import cross_validation, heads, search, search_space, train
from classify.arrays import TrainingData
from classify.cross_validation import Fold
from classify.heads import HEADS
from classify.search import SearchPlan
from classify.search_space import TAP_SETS
from extract.store import features_file
from extract.vgg16.recipe import TAPS
from tests.synthetic import publish

TRIED = search_space.tried(TAPS)


class Trained(NamedTuple):
    """A head, and every candidate for it as a result records it."""

    head: train.FittedHead
    tried: list[dict[str, object]]
    taps: Mapping[str, int]

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.head.pipeline.predict(self.chosen(X))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return self.head.pipeline.predict_proba(self.chosen(X))

    def chosen(self, X: np.ndarray) -> np.ndarray:
        return heads.select(X, self.head.hyperparameters["taps"], among=self.taps)


def choose(
    names: list[str],
    X: np.ndarray,
    labels: np.ndarray,
    folds: list[Fold],
    *,
    taps: Mapping[str, int] = TRIED,
    balanced: bool = False,
) -> dict[str, Trained]:
    data = TrainingData.weighted(X, taps, labels, balanced=balanced)
    plan = SearchPlan(search_space.search_spaces(names, labels, taps), folds, 0)
    done: list[int] = []
    outcome = search.search(data, plan, advance=done.append)
    fitted = train.fit_heads(data, search.choose(outcome), plan, advance=done.append)
    assert sum(done) == plan.steps
    tried = {
        name: [candidate.record for candidate in candidates]
        for name, candidates in outcome.candidates.items()
    }
    return {head.name: Trained(head, tried[head.name], taps) for head in fitted}


def load(path: Path) -> tuple[np.ndarray, np.ndarray, list[Fold]]:
    with features_file.open(path) as features:
        rows = features.rows("train", "val")
        labels = features.labels[rows]
        digests = [features.digests[row] for row in rows]
        is_val = features.splits[rows] == "val"
        folds = cross_validation.folds(labels, digests, is_val, seed=0)
        return features.read(TRIED, "train", "val"), labels, folds


def test_taps_are_added_only_when_they_help(tmp_path: Path) -> None:
    shallow = publish(tmp_path / "a", informative=("block5_avg",), per_class=(30, 10, 4))
    deep = publish(tmp_path / "b", informative=("block3_max",), per_class=(30, 10, 4), signal=9)
    chosen = []
    for path in (shallow, deep):
        X, labels, folds = load(path)
        trained = choose(["svm"], X, labels, folds)["svm"]
        space = search_space.search_spaces(["svm"], labels, TRIED)["svm"]
        assert len(trained.tried) == sum(len(space.values(one)) for one in space.feature_sets)
        chosen.append(trained.head.hyperparameters["taps"])
    assert chosen == [["block5_avg"], list(TAP_SETS[-1])]


@pytest.mark.parametrize("informative", ["block5_avg3x3", "block4_max_96"])
def test_a_further_size_is_taken_where_it_pays(informative: str, tmp_path: Path) -> None:
    path = publish(
        tmp_path, informative=(informative,), per_class=(30, 10, 4), signal=9, sizes=(224, 96)
    )
    with features_file.open(path) as features:
        labels = features.labels[features.rows("train", "val")]
        taps = search_space.tried(features.taps)
        X = features.read(taps, "train", "val")
    folds = cross_validation.folds(labels, [str(row) for row in range(len(labels))], seed=0)
    for name, trained in choose(["logistic", "svm"], X, labels, folds, taps=taps).items():
        assert len({(*one["taps"], one["root"]) for one in trained.tried}) == 12
        chosen = trained.head.hyperparameters["taps"]
        assert informative in chosen
        if informative.startswith("block5"):
            assert chosen == ["block5_avg3x3"], name
        assert (trained.predict(X) == labels).mean() > 0.9, name


def test_permuted_labels_give_chance(tmp_path: Path) -> None:
    X, labels, folds = load(publish(tmp_path, per_class=(40, 10, 4)))
    permuted = np.random.default_rng(0).permutation(labels)
    for these, low, high in ((permuted, 0.0, 1 / 3 + 0.15), (labels, 0.9, 1.0)):
        for trained in choose(["logistic", "svm"], X, these, folds).values():
            # For 150 rows of three classes, four standard errors are 0.15.
            assert low <= max(candidate["score"] for candidate in trained.tried) <= high


def test_choices_depend_neither_on_the_number_of_processes_nor_on_the_other_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three numbers of epochs show it as well as eight do.
    monkeypatch.setitem(search_space.GRIDS, "mlp", search_space.GRIDS["mlp"][:3])
    X, labels, folds = load(publish(tmp_path))
    monkeypatch.setattr(cross_validation, "PROCESSES", 2)
    # A few photos are left to one process.
    among = choose(list(HEADS), X, labels, folds)["mlp"]
    monkeypatch.setattr(cross_validation, "LEAST_WORK", 0)
    alone = choose(["mlp"], X, labels, folds)["mlp"]
    assert alone.tried == among.tried
    np.testing.assert_array_equal(alone.predict_proba(X), among.predict_proba(X))


def test_the_scale_of_the_features_changes_nothing(tmp_path: Path) -> None:
    X, labels, folds = load(publish(tmp_path))
    one, other = (choose(["svm"], A, labels, folds)["svm"] for A in (X, X * 16))
    assert one.tried == other.tried
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X * 16), atol=1e-3)


def test_balanced_heads_find_the_rare_class_more_often() -> None:
    random = np.random.default_rng(0)
    labels = (np.arange(420) >= 400).astype(int)
    X = random.gamma(1.0, 1.0, (420, sum(TRIED.values()))).astype(np.float32)
    X[labels == 1, :20] += 0.7
    folds = cross_validation.folds(labels, [str(row) for row in range(420)], seed=0)
    recalls = []
    for balanced in (False, True):
        trained = choose(["svm"], X, labels, folds, balanced=balanced)["svm"]
        unseen = np.random.default_rng(1).gamma(1.0, 1.0, (200, X.shape[1])).astype(np.float32)
        unseen[:, :20] += 0.7
        recalls.append(trained.predict(unseen).mean())
    assert recalls[1] > recalls[0] + 0.1


@pytest.mark.parametrize(("classes", "each"), [(2, 2), (60, 2), (30, 1)])
def test_few_photos_of_many_classes_are_learned(classes: int, each: int) -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    centres = random.gamma(0.3, 1.0, (classes, sum(TRIED.values())))
    X = (centres[labels] + random.gamma(1.0, 0.1, (len(labels), centres.shape[1]))).astype("f4")
    folds = cross_validation.folds(labels, [str(row) for row in range(len(labels))], seed=0)
    unseen = (centres + random.gamma(1.0, 0.1, centres.shape)).astype(np.float32)
    for name, trained in choose(["logistic", "svm"], X, labels, folds).items():
        assert (trained.predict(unseen) == np.arange(classes)).mean() > 0.8, name


def test_a_class_may_have_photos_in_val_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(search_space.GRIDS, "mlp", search_space.GRIDS["mlp"][:3])
    random = np.random.default_rng(0)
    X = random.gamma(1.0, 1.0, (24, sum(TRIED.values()))).astype(np.float32)
    labels = np.array([0, 1] * 10 + [2] * 4)
    is_val = np.arange(24) >= 16
    folds = cross_validation.folds(labels, [str(row) for row in range(24)], is_val, seed=0)
    assert set(labels[folds[0][0]]) == {0, 1}
    for trained in choose(list(HEADS), X, labels, folds).values():
        probabilities = trained.predict_proba(X)
        assert probabilities.shape == (24, 3)
        assert np.isfinite(probabilities).all()


def test_fewer_rows_than_a_batch_are_learned_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(search_space.GRIDS, "mlp", search_space.GRIDS["mlp"][:1])
    # What another process warns of would not be recorded.
    monkeypatch.setattr(cross_validation, "PROCESSES", 1)
    X, labels, folds = load(publish(tmp_path, per_class=(4, 2, 1)))
    choose(["mlp"], X, labels, folds)
    assert [str(warning.message) for warning in recwarn] == []


def test_a_kernel_is_chosen_where_no_linear_head_can_tell_the_classes_apart() -> None:
    random = np.random.default_rng(0)
    X = random.gamma(1.0, 1.0, (160, sum(TRIED.values()))).astype(np.float32)
    first, second = random.integers(0, 2, (2, 160))
    # The classes are the two diagonals of a square.
    X[:, :512] *= np.repeat(np.stack([first, 1 - first, second, 1 - second], axis=1), 128, axis=1)
    labels = (first == second).astype(np.int64)
    folds = cross_validation.folds(labels[:120], [str(row) for row in range(120)], seed=0)
    trained = choose(["svm"], X[:120], labels[:120], folds)["svm"]
    assert trained.head.hyperparameters["gamma"] > 0
    assert (trained.predict(X[120:]) == labels[120:]).mean() > 0.9
    kernels = [one["gamma"] > 0 for one in trained.tried]  # type: ignore[operator]
    assert kernels == sorted(kernels)


def test_the_simplest_candidate_that_is_worse_by_chance_alone_is_chosen() -> None:
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
