"""Heads searched on a cluster of two machines, both of them this one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from joblib import Parallel, delayed, effective_n_jobs, parallel_config

from classify import heads, out_of_core, ray_backend, results, search
from classify.heads import HEADS
from extract.store import features_file
from extract.vgg16.recipe import TAPS
from tests.conftest import CHECKOUT
from tests.synthetic import publish

TRIED = heads.tried(TAPS)
MEGABYTES = 60


@pytest.fixture(scope="module")
def on_ray(machines: Any) -> Iterator[None]:
    """Run all that joblib runs on the cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", machines.address)
        with ray_backend.spread("ray"):
            yield


def choose(path: Path) -> tuple[dict[str, search.Tuned], np.ndarray, np.ndarray]:
    """Return heads, their probabilities and those of one of them out of fold."""
    with features_file.open(path) as features:
        labels = features.labels[features.rows("train", "val")]
        X = features.read(TRIED, "train", "val")
    digests = [str(row) for row in range(len(labels))]
    the_folds = search.folds(labels, digests, seed=0)
    views = [(("block5_avg",), True), (("block5_avg", "block4_avg"), False)]
    the_spaces = {
        name: heads.Space(views, space.values)
        for name, space in search.spaces(list(HEADS), labels, TRIED).items()
    }
    done: list[int] = []
    tuned = search.tune(the_spaces, X, labels, the_folds, taps=TRIED, seed=0, advance=done.append)
    assert sum(done) == search.steps(the_spaces)
    probabilities = [
        one.head.predict_proba(heads.select(X, one.chosen["taps"], among=TRIED))
        for one in tuned.values()
    ]
    unseen = search.out_of_fold("svm", tuned["svm"].chosen, X, labels, digests, taps=TRIED, seed=0)
    return tuned, np.array(probabilities), unseen


@pytest.mark.usefixtures("on_ray")
def test_the_heads_are_those_of_one_machine(tmp_path: Path) -> None:
    path = publish(tmp_path)
    with parallel_config("loky"):
        one, probabilities, unseen = choose(path)
    assert effective_n_jobs(search.PROCESSES) == 2
    other, other_probabilities, other_unseen = choose(path)
    for name in HEADS:
        assert one[name].chosen == other[name].chosen
        assert one[name].tried == other[name].tried
        assert other[name].seconds["tune"] > 0
    for coefficients in ("coef_", "intercept_"):
        np.testing.assert_array_equal(
            getattr(one["svm"].head[-1], coefficients), getattr(other["svm"].head[-1], coefficients)
        )
    np.testing.assert_array_equal(probabilities, other_probabilities)
    np.testing.assert_array_equal(unseen, other_unseen)


def own_memory() -> float:
    """Return the megabytes that this process alone holds."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return int(dict(line.split(":") for line in lines)["Anonymous"].split()[0]) / 1024


def read(X: np.ndarray, labels: np.ndarray) -> tuple[float, bool, float]:
    return float(X.sum(dtype=np.float64)), X.flags.writeable, own_memory()


@pytest.mark.usefixtures("on_ray")
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_matrix_is_placed_once_and_read_without_a_copy(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out_of_core, "IN_MEMORY", 0 if place == "disk" else 2**28)
    X = out_of_core.matrix((1000, MEGABYTES * 2**18 // 1000))
    assert X.flags.owndata == (place == "memory")
    X[:] = np.arange(1000)[:, None]
    placed: list[Any] = []
    put = ray.put
    monkeypatch.setattr(ray, "put", lambda value: placed.append(value) or put(value))
    labels = np.arange(1000)
    empty = Parallel(n_jobs=-1)(delayed(read)(X[:1], labels) for _ in range(8))
    assert placed == []
    found = Parallel(n_jobs=-1)(delayed(read)(X, labels) for _ in range(8))
    assert len(placed) == 1
    assert placed[0] is X
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
def test_what_a_lost_process_was_at_is_done_by_another(tmp_path: Path) -> None:
    answers = Parallel(n_jobs=-1, return_as="generator")(
        delayed(once_lost)(tmp_path / name) for name in "ab"
    )
    assert list(answers) == [7, 7]


@pytest.mark.usefixtures("on_ray")
def test_what_a_task_raises_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        Parallel(n_jobs=-1)(delayed(fail)() for _ in range(3))


def classify(address: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "classify", *map(str, arguments)]
    environment = {**os.environ, "RAY_ADDRESS": address}
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, env=environment)


def test_the_command_leaves_a_result(tmp_path: Path, machines: Any) -> None:
    path = publish(tmp_path)
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
