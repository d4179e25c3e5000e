"""The command that trains heads: its results, its errors, and that the test split stays unused."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import skops.io

from classify import results
from classify.__main__ import main
from classify.heads import HEADS, TRUSTED
from extract.store import features_file
from extract.system import machine
from extract.system.console import InputError
from extract.vgg16.recipe import TAPS
from tests import commands
from tests.conftest import CHECKOUT
from tests.synthetic import publish


def classify(*arguments: object) -> subprocess.CompletedProcess[str]:
    return commands.run(main, *arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    done = classify(publish(folder), "--out", folder)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        *HEADS,
        "none of these",
    ]
    assert done.stderr == ""
    return folder


@pytest.mark.parametrize("name", HEADS)
def test_a_result_is_whole_and_its_head_gives_its_predictions(trained: Path, name: str) -> None:
    folder = trained / "runs/synthetic" / name
    result, predictions = results.load(folder), results.load_predictions(folder)
    with features_file.open(trained / "synthetic.h5") as features:
        rows = features.rows("test")
        assert predictions.paths == [features.paths[row] for row in rows]
        np.testing.assert_array_equal(predictions.labels, features.labels[rows])
        X = features.read(result.hyperparameters["taps"], "test")
        assert result.data_digest == features.data_digest
        assert result.seconds["features"] == pytest.approx(10.0)
    head = skops.io.load(folder / "head.skops", trusted=list(TRUSTED))
    np.testing.assert_allclose(head.predict_proba(X), predictions.probabilities, atol=1e-5)
    assert result.metrics == results.metrics(predictions)
    assert result.metrics["accuracy"] > 0.8
    assert result.learned_from == ["train", "val"]
    on_train = predictions.on_train
    assert on_train is not None
    assert (on_train.argmax(axis=1) == predictions.labels).mean() > 0.7
    assert np.abs(on_train - predictions.probabilities).max() > 1e-3
    assert set(result.seconds) == {"features", "tune", "fit", "predict"}
    assert result.machine == machine.machine()
    assert result.asked == {"balanced": False}
    assert result.hyperparameters in [
        {key: value for key, value in candidate.items() if key not in ("score", "log_loss")}
        for candidate in result.tried
    ]


def test_what_the_test_rows_hold_changes_neither_choice_nor_model(
    trained: Path, tmp_path: Path
) -> None:
    path = publish(tmp_path)
    with h5py.File(path, "r+") as file:
        is_test = file["split"].asstr()[:] == "test"
        # The label itself is the first value of each tap, in the test rows alone.
        for tap in TAPS:
            values = file[f"taps/{tap}"][:]
            values[is_test, 0] = 1000 * (1 + file["label"][:][is_test])
            file[f"taps/{tap}"][:] = values
    assert classify(path, "--out", tmp_path, "--heads", "logistic").returncode == 0
    one, other = trained / "runs/synthetic/logistic", tmp_path / "runs/synthetic/logistic"
    assert results.load(one).tried == results.load(other).tried
    heads = [skops.io.load(f / "head.skops", trusted=list(TRUSTED)) for f in (one, other)]
    np.testing.assert_array_equal(heads[0][-1].coef_, heads[1][-1].coef_)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(
            results.load_predictions(one).probabilities,
            results.load_predictions(other).probabilities,
        )


@pytest.mark.parametrize(
    ("per_class", "said"),
    [((1, 0, 3), "class 'class 0' has 1 photo in train and val"), ((5, 2, 0), "no test photo")],
)
def test_splits_that_are_too_small_are_refused(
    tmp_path: Path, per_class: tuple[int, int, int], said: str
) -> None:
    done = classify(publish(tmp_path, per_class=per_class), "--out", tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "required: COMMAND"),
        (("train", "chess", "--repeats", 0), "--repeats: 0 is less than 1"),
        (("chess", "--heads", "tree"), "--heads: invalid choice"),
        (("serve", "runs/chess/svm", "--port", 70000), "--port: 70000 is more than 65535"),
        (("serve", "nowhere/svm"), "error: nowhere/svm: no result there; "),
        (("serve", "--model", "nowhere/svm"), "error: nowhere/svm: no result there; "),
        (("serve",), "error: give one model, as MODEL or --model, "),
        (("serve", "svm", "--model", "mlp"), "error: give one model, as MODEL or --model, "),
    ],
)
def test_a_wrong_command_line_is_an_error_of_one_line(
    arguments: tuple[object, ...], said: str
) -> None:
    done = classify(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_process_of_its_own_finds_the_users_home_and_says_nothing_of_few_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    # scikit-learn warns of as many classes as photos in the processes that joblib starts.
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    program = (
        "from classify import cross_validation; cross_validation.LEAST_WORK = 0;"
        "from classify.__main__ import main; from extract.system import console; console.run(main)"
    )
    publish(tmp_path, per_class=(1, 1, 1), classes=22)
    words = ["train", "~/synthetic.h5", "--out", "~/out", "--heads", "logistic"]
    command = [sys.executable, "-W", "always", "-c", program, *words]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("logistic: ")
    assert (tmp_path / "out/runs/synthetic/logistic/result.json").exists()


def test_a_head_of_two_sizes_says_so_and_refuses_features_of_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    plain = publish(one)
    path = publish(two, informative=("block4_avg_320",), signal=9, sizes=(224, 320))
    done = classify(path, "--out", two, "--heads", "svm")
    assert done.returncode == 0, done.stderr
    folder = two / "runs/synthetic/svm"
    result = results.load(folder)
    taps = result.hyperparameters["taps"]
    assert "block4_avg_320" in taps
    assert result.sizes == [224, 320]
    assert result.seconds["features"] == pytest.approx(20.0), "for both sizes"
    head = skops.io.load(folder / "head.skops", trusted=list(TRUSTED))
    with features_file.open(path) as features:
        found = head.predict_proba(features.read(taps, "test"))
        predicted = results.load_predictions(folder).probabilities
        np.testing.assert_allclose(found, predicted, atol=1e-5)
    with features_file.open(plain) as features:
        for use in (features.read, features.shape):
            with pytest.raises(InputError, match="it has no tap block5_avg3x3_320") as refused:
                use(taps, "test")
            assert str(plain) in str(refused.value)


def test_missing_features_name_the_command_that_makes_them(tmp_path: Path) -> None:
    done = classify("chess", "--out", tmp_path)
    assert done.returncode == 2
    assert "chess.h5: no such file; run make features" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_record_says_what_was_tried_and_with_what(trained: Path) -> None:
    record = json.loads((trained / "runs/synthetic/mlp/result.json").read_text())
    assert record["stage"] == "head"
    assert record["versions"]["scikit-learn"]
    assert 0 <= record["novelty"]["rejected"] <= 1
    assert record["novelty"]["strangers"] > 0
    assert record["epochs"] == record["hyperparameters"]["epochs"]
    assert {frozenset(candidate) for candidate in record["tried"]} == {
        frozenset({"taps", "root", "alpha", "epochs", "score", "log_loss"})
    }
