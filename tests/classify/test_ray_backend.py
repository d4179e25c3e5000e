"""Heads trained on a cluster of two machines, both of which are this one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import ray
from joblib import Parallel, delayed, effective_n_jobs, parallel_config

from classify import (
    cross_validation,
    heads,
    out_of_core,
    ray_backend,
    results,
    search,
    search_space,
    train,
)
from classify.arrays import TrainingData
from classify.heads import HEADS
from classify.search import SearchOutcome, SearchPlan
from classify.search_space import FeatureSet, SearchSpace
from classify.train import FittedHead
from extract.store import features_file
from extract.vgg16.recipe import TAPS
from tests.conftest import CHECKOUT
from tests.synthetic import publish

TRIED = search_space.tried(TAPS)
MEGABYTES = 60


@pytest.fixture(scope="module")
def on_ray(machines: Any) -> Iterator[None]:
    """Let joblib run everything on the cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", machines.address)
        patch.setattr(cross_validation, "LEAST_WORK", 0)
        with ray_backend.parallel_on("ray"):
            yield


class Trained(NamedTuple):
    outcome: SearchOutcome
    fitted: list[FittedHead]
    probabilities: np.ndarray
    out_of_fold: np.ndarray


def trained(path: Path) -> Trained:
    with features_file.open(path) as features:
        labels = features.labels[features.rows("train", "val")]
        X = features.read(TRIED, "train", "val")
    digests = [str(row) for row in range(len(labels))]
    sets = [FeatureSet(("block5_avg",), True), FeatureSet(("block5_avg", "block4_avg"), False)]
    # Three candidates of each head show it as well as all do.
    spaces = {
        name: SearchSpace(sets, space.grid[:3])
        for name, space in search_space.search_spaces(list(HEADS), labels, TRIED).items()
    }
    data = TrainingData.weighted(X, TRIED, labels)
    plan = SearchPlan(spaces, cross_validation.folds(labels, digests, seed=0), 0)
    done: list[int] = []
    outcome = search.search(data, plan, advance=done.append)
    choices = search.choose(outcome)
    fitted = train.fit_heads(data, choices, plan, advance=done.append)
    assert sum(done) == plan.steps
    probabilities = [
        one.pipeline.predict_proba(heads.select(X, one.hyperparameters["taps"], among=TRIED))
        for one in fitted
    ]
    out_of_fold = cross_validation.out_of_fold(
        "svm", choices["svm"].hyperparameters, data, digests, seed=0
    )
    return Trained(outcome, fitted, np.array(probabilities), out_of_fold)


@pytest.mark.usefixtures("on_ray")
def test_the_heads_are_those_of_one_machine(tmp_path: Path) -> None:
    path = publish(tmp_path)
    with parallel_config("loky"):
        one = trained(path)
    assert effective_n_jobs(cross_validation.PROCESSES) == 2
    other = trained(path)
    for head, by_ray in zip(one.fitted, other.fitted, strict=True):
        assert head.hyperparameters == by_ray.hyperparameters
        tried = [candidate.record for candidate in one.outcome.candidates[head.name]]
        assert tried == [one.record for one in other.outcome.candidates[head.name]]
        assert other.outcome.seconds[head.name] > 0
    svm, by_ray = (two.fitted[list(HEADS).index("svm")].pipeline[-1] for two in (one, other))
    np.testing.assert_array_equal(svm.coef_, by_ray.coef_)
    np.testing.assert_array_equal(svm.intercept_, by_ray.intercept_)
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    np.testing.assert_array_equal(one.out_of_fold, other.out_of_fold)


def own_memory() -> float:
    """Return the megabytes of this process that it shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return int(dict(line.split(":") for line in lines)["Anonymous"].split()[0]) / 1024


def read(X: np.ndarray, labels: np.ndarray) -> tuple[float, bool, float]:
    return float(X.sum(dtype=np.float64)), X.flags.writeable, own_memory()


def read_data(data: TrainingData) -> tuple[float, bool, float]:
    return read(data.X, data.labels)


@pytest.mark.usefixtures("on_ray")
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_matrix_is_shared_once_and_read_without_a_copy(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out_of_core, "IN_MEMORY", 0 if place == "disk" else 2**28)
    X = out_of_core.matrix((1000, MEGABYTES * 2**18 // 1000))
    assert X.flags.owndata == (place == "memory")
    X[:] = np.arange(1000)[:, None]
    shared: list[Any] = []
    put = ray.put
    monkeypatch.setattr(ray, "put", lambda value: shared.append(value) or put(value))
    labels = np.arange(1000)
    data = TrainingData.weighted(X, {}, labels)
    first = data.subset(labels[:1])
    empty = Parallel(n_jobs=-1)(delayed(read_data)(first) for _ in range(8))
    assert shared == []
    found = Parallel(n_jobs=-1)(delayed(read_data)(data) for _ in range(8))
    assert len(shared) == 1
    assert shared[0] is X
    assert {total for total, _, _ in found} == {X.sum(dtype=np.float64)}
    assert not any(writeable for _, writeable, _ in found)
    growth = max(held for _, _, held in found) - max(held for _, _, held in empty)
    assert growth < MEGABYTES / 3


def once_lost(marker: Path) -> int:
    if not marker.exists():
        marker.touch()
        os._exit(1)
    return 7


def fail() -> None:
    raise ZeroDivisionError("on purpose")


@pytest.mark.usefixtures("on_ray")
def test_the_task_of_a_lost_process_is_run_by_another(tmp_path: Path) -> None:
    answers = Parallel(n_jobs=-1, return_as="generator")(
        delayed(once_lost)(tmp_path / name) for name in "ab"
    )
    assert list(answers) == [7, 7]


@pytest.mark.usefixtures("on_ray")
def test_an_error_in_a_task_is_raised_in_this_process() -> None:
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        Parallel(n_jobs=-1)(delayed(fail)() for _ in range(3))


def classify(address: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "classify", *map(str, arguments)]
    environment = {**os.environ, "RAY_ADDRESS": address}
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, env=environment)


def test_the_command_leaves_a_result(tmp_path: Path, machines: Any) -> None:
    # So many photos that it pays to have more than one process.
    path = publish(tmp_path, per_class=(32, 8, 4))
    done = classify(machines.address, path, "--out", tmp_path, "--heads", "svm", "--on", "ray")
    assert (done.returncode, done.stderr) == (0, "")
    assert results.load(tmp_path / "runs/synthetic/svm").metrics["accuracy"] > 0.8


def test_a_cluster_that_does_not_answer_is_one_line(tmp_path: Path, closed_port: int) -> None:
    where = f"ray://127.0.0.1:{closed_port}"
    done = classify("", publish(tmp_path), "--out", tmp_path, "--on", where)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: --on {where}: nobody answers")
    assert not (tmp_path / "runs").exists()
