"""Data that outgrow memory: the same heads from a memory map, and a bound on memory."""

import subprocess
import sys

import numpy as np
import pytest
from joblib import Parallel, delayed

from classify import heads, large, tune
from extract.recipe import TAPS
from tests.conftest import CHECKOUT

TRIED = heads.tried(TAPS)

PROGRAM = """
import numpy as np
from classify import heads, large, tune
taps = {"block5_avg": 16}
views = [(("block5_avg",), root) for root in (True, False)]
spaces = {name: heads.Space(views, heads.HEADS[name].values) for name in ("logistic", "svm")}
large.IN_MEMORY = 10_000
random = np.random.default_rng(0)
labels = np.arange(200_000) % 3
X = large.matrix((200_000, 16))
assert not X.flags.owndata
X[:] = random.gamma(1.0, 1.0, X.shape)
X[np.arange(200_000), labels] += 2
is_val = np.arange(200_000) % 5 == 0
folds = tune.folds(labels, [], is_val, seed=0)
tune.PROCESSES = 1
for name, tuned in tune.tune(spaces, X, labels, folds, taps=taps, seed=0).items():
    assert (tuned.head.predict(X[:5000]) == labels[:5000]).mean() > 0.7, name
# Unlike ru_maxrss, this peak leaves out what the process that started this one had reached.
status = open("/proc/self/status").read()
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
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
    monkeypatch.setattr(large, "BLOCK", 7)
    monkeypatch.setattr(large, "IN_MEMORY", 100)
    prepare = heads.preparation(taps, root=True)
    found = large.fit_prepared(prepare, X)
    assert not found.flags.owndata
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(prepare.transform(X), expected, atol=1e-6)


def test_processes_read_a_matrix_that_lies_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "IN_MEMORY", 100)
    X = large.matrix((300, 1000))
    X[:] = np.arange(300)[:, None]
    sums = Parallel(n_jobs=2)(delayed(_sum)(X, row) for row in (1, 299))
    assert sums == [1000, 299_000]


def _sum(X: large.Matrix, row: int) -> float:
    return float(X[row].sum())


def test_a_sample_keeps_the_classes_in_proportion_and_two_of_each() -> None:
    labels = np.repeat([0, 1, 2], [900, 98, 2])
    some = large.sample(labels, rows=100, seed=0)
    assert np.bincount(labels[some]).tolist() == [90, 10, 2]
    assert some.tolist() == sorted(set(some.tolist()))
    assert large.sample(labels, rows=1000, seed=0).tolist() == list(range(1000))


def test_heads_searched_on_a_sample_are_fitted_on_all_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(large, "SEARCH_ROWS", 60)
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    X = random.gamma(1.0, 1.0, (200, sum(TRIED.values()))).astype(np.float32)
    X[:, :40] += 2 * labels[:, None]
    folds = tune.folds(labels, [str(row) for row in range(200)], seed=0)
    the_spaces = tune.spaces(["svm"], labels, TRIED)
    tuned = tune.tune(the_spaces, X, labels, folds, taps=TRIED, seed=0)["svm"]
    assert tuned.head["centre"].n_samples_seen_ == 200
    own = heads.select(X, tuned.chosen["taps"], among=TRIED)
    assert (tuned.head.predict(own) == labels).mean() > 0.9
