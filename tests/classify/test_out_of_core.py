"""Data larger than memory: the same heads from a memory map, and a bound on memory."""

import subprocess
import sys

import numpy as np
import pytest
from joblib import Parallel, delayed

from classify import cross_validation, heads, out_of_core, search, search_space, train
from classify.arrays import Matrix, TrainingData
from classify.calibration import Calibration
from classify.search import SearchPlan
from extract.vgg16.recipe import TAPS
from tests.conftest import CHECKOUT

TRIED = search_space.tried(TAPS)

PROGRAM = """
from pathlib import Path
import numpy as np
from classify import cross_validation, out_of_core, search, train
from classify.arrays import TrainingData
from classify.search import SearchPlan
from classify.search_space import GRIDS, FeatureSet, SearchSpace
taps = {"block5_avg": 16}
sets = [FeatureSet(("block5_avg",), root) for root in (True, False)]
spaces = {name: SearchSpace(sets, GRIDS[name]) for name in ("logistic", "svm")}
out_of_core.IN_MEMORY = 10_000
random = np.random.default_rng(0)
labels = np.arange(200_000) % 3
X = out_of_core.matrix((200_000, 16))
assert not X.flags.owndata
X[:] = random.gamma(1.0, 1.0, X.shape)
X[np.arange(200_000), labels] += 2
is_val = np.arange(200_000) % 5 == 0
folds = cross_validation.folds(labels, [str(row) for row in range(len(labels))], is_val, seed=0)
cross_validation.PROCESSES = 1
data = TrainingData.weighted(X, taps, labels)
plan = SearchPlan(spaces, folds, 0)
choices = search.choose(search.search(data, plan))
for head in train.fit_heads(data, choices, plan):
    assert (head.pipeline.predict(X[:5000]) == labels[:5000]).mean() > 0.7, head.name
# Not ru_maxrss, which begins with the peak of the process that started this one.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) // 1024)
"""


def test_200_000_rows_are_fitted_from_a_memory_map_in_bounded_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1024


def test_rows_prepared_in_blocks_are_those_prepared_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taps = {"block5_avg": 512, "block4_avg": 512}
    X = np.random.default_rng(0).gamma(1.0, 1.0, (50, 1024)).astype(np.float32)
    expected = heads.preparation(taps, root=True).fit_transform(X)
    monkeypatch.setattr(out_of_core, "BLOCK", 7)
    monkeypatch.setattr(out_of_core, "IN_MEMORY", 100)
    prepare = heads.preparation(taps, root=True)
    found = out_of_core.fit_prepared(prepare, X)
    assert not found.flags.owndata
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(prepare.transform(X), expected, atol=1e-6)


def test_processes_read_a_matrix_that_lies_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(out_of_core, "IN_MEMORY", 100)
    X = out_of_core.matrix((300, 1000))
    X[:] = np.arange(300)[:, None]
    sums = Parallel(n_jobs=2)(delayed(_sum)(X, row) for row in (1, 299))
    assert sums == [1000, 299_000]


def _sum(X: Matrix, row: int) -> float:
    return float(X[row].sum())


def test_a_sample_keeps_the_classes_in_proportion_and_two_of_each() -> None:
    labels = np.repeat([0, 1, 2], [900, 98, 2])
    some = out_of_core.sample(labels, rows=100, seed=0)
    assert np.bincount(labels[some]).tolist() == [90, 10, 2]
    assert some.tolist() == sorted(set(some.tolist()))
    assert out_of_core.sample(labels, rows=1000, seed=0).tolist() == list(range(1000))


def test_heads_searched_on_a_sample_are_fitted_on_all_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(out_of_core, "SEARCH_ROWS", 60)
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    X = random.gamma(1.0, 1.0, (200, sum(TRIED.values()))).astype(np.float32)
    X[:, :40] += 2 * labels[:, None]
    folds = cross_validation.folds(labels, [str(row) for row in range(200)], seed=0)
    data = TrainingData.weighted(X, TRIED, labels)
    plan = SearchPlan(search_space.search_spaces(["svm"], labels, TRIED), folds, 0)
    outcome = search.search(data, plan)
    assert len(outcome.sample_weight) == 60
    (head,) = train.fit_heads(data, search.choose(outcome), plan)
    assert head.pipeline["centre"].n_samples_seen_ == 200
    own = heads.select(X, head.hyperparameters["taps"], among=TRIED)
    assert (head.pipeline.predict(own) == labels).mean() > 0.9


@pytest.mark.parametrize("name", heads.HEADS)
def test_the_temperature_of_a_head_searched_on_a_sample_is_that_of_its_size(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taps = {"block5_avg": 30}
    labels = np.arange(900) % 3
    X = np.random.default_rng(0).gamma(1.0, 1.0, (900, 30)).astype(np.float32)
    X[np.arange(900), labels] += 1
    folds = [(np.arange(600), np.arange(600, 900))]
    data = TrainingData.weighted(X, taps, labels)
    space = search_space.SearchSpace(
        [search_space.FeatureSet(("block5_avg",), True)], search_space.GRIDS[name][2:3]
    )
    plan = SearchPlan({name: space}, folds, 0)
    monkeypatch.setattr(cross_validation, "PROCESSES", 1)
    exact = search.choose(search.search(data, plan))[name]
    monkeypatch.setattr(out_of_core, "SEARCH_ROWS", 60)
    choice = search.choose(search.search(data, plan))
    assert abs(choice[name].calibration.temperature / exact.calibration.temperature - 1) > 0.1
    monkeypatch.setattr(out_of_core, "SEARCH_ROWS", 300)
    (head,) = train.fit_heads(data, choice, plan, train=np.arange(600))
    assert head.on_train is not None
    counts = [one["centre"].n_samples_seen_ for one in (head.pipeline, head.on_train)]
    assert counts == [900, 600]
    uncalibrated = train.fit_head(
        name, choice[name]._replace(calibration=Calibration()), data, seed=0
    )
    found = [heads.scores(one[-1], one[:-1].transform(X)) for one in (uncalibrated, head.pipeline)]
    found[0] = exact.calibration.scaled(found[0])
    spread = [np.ptp(scores, axis=1).sum() for scores in found]
    assert spread[0] / spread[1] == pytest.approx(1, rel=0.01)
