"""The commands train, compare and export: their inputs, messages, errors and files."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from classify import results
from extract import build
from extract.engines import selection
from extract.store import features_file
from extract.system import machine
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import digest_without_pairs
from finetune.__main__ import main
from finetune.train import estimate, run
from finetune.train.batches import PhotoBatches
from tests import commands
from tests.conftest import CHECKOUT, write_photos

pytestmark = pytest.mark.long


def finetune(*arguments: object) -> subprocess.CompletedProcess[str]:
    return commands.run(main, *arguments)


def make_features(out: Path, weights: Path, *, sizes: tuple[int, ...]) -> None:
    options = build.Options(out=out, weights=weights, engine="keras", sizes=sizes)
    build.build(str(out / "pets"), options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, vgg16_weights: Path) -> Path:
    """A folder with features of 2 x 4 photos by random weights, and both networks trained."""
    out = tmp_path_factory.mktemp("finetune")
    root = write_photos(out / "pets", {"cats": 4, "dogs": 4})
    # Networks do not use the features of the second size.
    make_features(out, vgg16_weights, sizes=(224, 96))
    with pytest.MonkeyPatch.context() as patch:
        # Keras has been imported already, and other engines would have to be converted and timed.
        patch.setattr(selection, "PACKAGES", {})
        patch.setattr(machine, "has_gpu", lambda: False)
        patch.setattr(estimate, "_seconds_per_photo", lambda network, schedule: 60.0)
        done = finetune("train", root, "--out", out, "--weights", vgg16_weights, "--epochs", 2)
    assert done.returncode == 0, done.stderr
    maps = ["engine", "block4_pool, plain", "engine", "block4_pool, mirrored"]
    said = ["baseline", *maps, "finetuned", "finetuned-all"]
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == said
    assert done.stdout.endswith(
        "finetuned-all: not trained, because there is no GPU, where it would take 9.3 min at most "
        "(2 epochs of 4.7 min, as one step measured); train it with --models finetuned-all (make "
        "finetune MODELS=finetuned-all)\n"
    )
    # The checkpoint is gone.
    for name in ("baseline", "finetuned"):
        left = {path.name for path in (out / "runs/pets" / name).iterdir()}
        files = {"README.md", "result.json", "predictions.h5", "history.json", "model.keras"}
        assert left == files | {"tensorboard"}
    return out


@pytest.mark.parametrize(
    ("name", "phases"), [("baseline", {"scratch"}), ("finetuned", {"top", "block5"})]
)
def test_a_network_leaves_a_whole_result(made: Path, name: str, phases: set[str]) -> None:
    folder = made / "runs/pets" / name
    result, predictions = results.load(folder), results.load_predictions(folder)
    with features_file.open(made / "features/pets.h5") as features:
        rows = features.rows("test")
        assert predictions.paths == [features.paths[row] for row in rows]
        np.testing.assert_array_equal(predictions.labels, features.labels[rows])
        assert result.data_digest == features.data_digest
    history = json.loads((folder / "history.json").read_text())
    assert set(history["phase"]) == phases
    assert {len(values) for values in history.values()} == {result.epochs}
    assert result.metrics == results.metrics(predictions)
    assert (folder / "model.keras").stat().st_size > 100_000
    cached = {"features", "activations"} if name == "finetuned" else set()
    assert set(result.seconds) == {*cached, "fit", "predict"}
    assert min(result.seconds.values()) > 0
    assert result.machine == machine.machine()


def test_the_predictions_of_cached_activations_are_those_of_the_saved_network_for_the_photos(
    made: Path,
) -> None:
    folder = made / "runs/pets/finetuned"
    network = keras.models.load_model(folder / "model.keras")
    with features_file.open(made / "features/pets.h5") as features:
        photos = PhotoBatches(features, "test", size=network.input_shape[1])
        expected = network.predict(photos, verbose=0)
    found = results.load_predictions(folder).probabilities
    np.testing.assert_allclose(found, expected, atol=2e-3)
    # Otherwise any network would pass.
    assert np.ptp(expected) > 0.02
    assert results.load(folder).hyperparameters["predicted_from"] == "block4_pool"


def test_nothing_is_trained_again_when_nothing_changed(made: Path, vgg16_weights: Path) -> None:
    folder = made / "runs/pets/baseline"
    before = (folder / "model.keras").stat().st_mtime_ns
    arguments = ["train", made / "pets", "--out", made, "--epochs", 2, "--models", "baseline"]
    code = "import sys, runpy; runpy.run_module('finetune', run_name='__main__')"
    command = [sys.executable, "-X", "importtime", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert "nothing to do" in done.stdout
    assert " keras" not in done.stderr
    assert " tensorflow" not in done.stderr
    assert (folder / "model.keras").stat().st_mtime_ns == before
    options = ("--balanced", "--label-smoothing", 0.1, "--batch-norm")
    done = finetune(*arguments[:-3], 1, "--models", "baseline", *options)
    asked = results.load(folder).hyperparameters["asked"]
    assert asked == {
        **{"learning_rate": None, "epochs": 1, "batch_size": None},
        **{"label_smoothing": 0.1, "balanced": True, "batch_norm": True},
    }
    assert "2 epochs" not in done.stdout
    assert "1 epochs" in done.stdout


def test_a_network_of_every_layer_starts_from_the_other_and_has_a_result_of_its_own(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []

    def fit(network: Any, data: Any, phase: Any, **_: Any) -> dict[str, list[Any]]:
        begun.append((len(network.trainable_weights), phase.schedule))
        losses = {key: [0.5] for key in ("loss", "val_loss", "accuracy", "val_accuracy")}
        return {**losses, "seconds": [100.0], "phase": [phase.name]}

    # A step of VGG16 takes long; other tests take steps.
    monkeypatch.setattr(run, "fit", fit)
    before = (made / "runs/pets/finetuned/model.keras").read_bytes()
    arguments = ("train", made / "pets", "--out", made, "--models", "finetuned-all")
    done = finetune(*arguments)
    assert done.returncode == 0, done.stderr
    assert (made / "runs/pets/finetuned/model.keras").read_bytes() == before
    assert "nothing to do" in finetune(*arguments).stdout
    ((trainable, schedule),) = begun
    assert trainable == 2 * 13 + 2
    assert schedule.layer_decay < 1
    folders = [made / "runs/pets" / name for name in ("finetuned", "finetuned-all")]
    last, every = map(results.load, folders)
    # Nothing was learned, so the network is the one that it started from.
    probabilities = [results.load_predictions(folder).probabilities for folder in folders]
    np.testing.assert_allclose(*probabilities, atol=1e-2)
    assert every.hyperparameters["started_from"] == last.model_digest
    assert {"top", "block5", "all"} <= every.hyperparameters.keys()
    assert every.epochs == (last.epochs or 0) + 1
    assert every.seconds["fit"] == pytest.approx(last.seconds["fit"] + 100)
    assert every.seconds["activations"] == last.seconds["activations"]
    shutil.rmtree(folders[1])


def test_networks_do_not_depend_on_further_sizes_of_the_features(
    made: Path, vgg16_weights: Path
) -> None:
    with features_file.open(made / "features/pets.h5") as both:
        assert both.sizes == [224, 96]
        of_two = both.recipe_digest
    make_features(made, vgg16_weights, sizes=(224,))
    try:
        options = ("--epochs", 2, "--models", "finetuned")
        done = finetune("train", made / "pets", "--out", made, *options)
        assert "nothing to do" in done.stdout
        result = results.load(made / "runs/pets/finetuned")
        with features_file.open(made / "features/pets.h5") as plain:
            assert result.recipe_digest == digest_without_pairs(plain.recipes[224]) != of_two
            assert result.seconds["features"] == plain.seconds < both.seconds
    finally:
        make_features(made, vgg16_weights, sizes=(224, 96))


def test_other_weights_than_the_features_were_made_with_are_refused(
    made: Path, vgg16_arrays: list[np.ndarray], tmp_path: Path
) -> None:
    from tests.conftest import write_keras_file

    write_keras_file(tmp_path / "other.h5", [array + 1 for array in vgg16_arrays])
    done = finetune(
        *("train", made / "pets", "--out", made, "--models", "finetuned", "--again"),
        *("--weights", tmp_path / "other.h5"),
    )
    assert done.returncode == 2
    assert "other.h5: not the weights the features were made with" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_compare_writes_the_report_and_prints_the_table(made: Path) -> None:
    done = finetune("compare", made / "pets", "--out", made)
    assert done.returncode == 0, done.stderr
    assert "baseline" in done.stdout
    assert "finetuned" in done.stdout
    assert {path.name for path in (made / "reports/pets").iterdir()} == {
        "index.html",
        "compare.md",
        "compare.json",
        "compare.svg",
    }
    page = (made / "reports/pets/index.html").read_text()
    assert page.count("without the hottest fifth") >= 2
    assert re.search("as (finetuned|baseline) saw them", page)


def test_compare_so_far_says_only_where_the_report_is(made: Path, tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    shutil.copy(made / "features/pets.h5", tmp_path / "features")
    shutil.copytree(made / "runs/pets/baseline", tmp_path / "runs/pets/baseline")
    # An earlier network is trained anew, so the user is not told to do that.
    shutil.copytree(made / "runs/pets/finetuned", old := tmp_path / "runs/pets/finetuned")
    record = json.loads((old / "result.json").read_text())
    (old / "result.json").write_text(json.dumps(record | {"data_digest": "f" * 64}))
    done = finetune("compare", "pets", "--so-far", "--out", tmp_path)
    page = tmp_path / "reports/pets/index.html"
    said = f"the report so far: {page}; it is written again after the networks\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    assert "baseline" in page.read_text()


def test_compare_puts_several_data_sets_side_by_side_and_opens_the_page(
    made: Path, tmp_path: Path
) -> None:
    for folder in ("features", "runs"):
        shutil.copytree(made / folder, tmp_path / folder, ignore=shutil.ignore_patterns("cache"))
    shutil.copytree(tmp_path / "runs/pets", tmp_path / "runs/zoo")
    shutil.copy(tmp_path / "features/pets.h5", tmp_path / "features/zoo.h5")
    with h5py.File(tmp_path / "features/zoo.h5", "r+") as file:
        file.attrs["data"] = "zoo"
    shown = tmp_path / "shown"
    opener = tmp_path / "opener"
    opener.write_text(f'#!/bin/sh\necho "$1" >> {shown}\n')
    opener.chmod(0o755)
    # Without a home, Matplotlib tells where it keeps its fonts instead.
    environment = os.environ | {"BROWSER": str(opener), "HOME": "/dev/null"}
    words = ["compare", "pets", "zoo", "pets", "--open", "--out", str(tmp_path)]
    words += ["--heatmaps", "off"]
    command = [sys.executable, "-m", "finetune", *words]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    page = tmp_path / "reports/pets+zoo/index.html"
    assert done.stdout.splitlines()[-1] == f"all of them: {page}"
    assert shown.read_text().split() == [page.as_uri()]
    for name in ("pets", "zoo", "pets+zoo"):
        assert (tmp_path / "reports" / name / "compare.json").exists()


def test_compare_refuses_a_result_of_other_data_by_name(made: Path) -> None:
    record = made / "runs/pets/baseline/result.json"
    kept = record.read_text()
    changed = json.loads(kept) | {"data_digest": "f" * 64}
    record.write_text(json.dumps(changed))
    done = finetune("compare", made / "pets", "--heatmaps", "off", "--out", made)
    record.write_text(kept)
    assert done.returncode == 0
    assert "baseline: made from other photos or another split" in done.stderr
    assert "baseline" not in done.stdout


def test_compare_without_features_or_results_says_what_to_run(made: Path, tmp_path: Path) -> None:
    done = finetune("compare", "chess", "--out", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "run make features" in done.stderr
    (tmp_path / "features").mkdir()
    (tmp_path / "features/pets.h5").write_bytes((made / "features/pets.h5").read_bytes())
    done = finetune("compare", "pets", "--out", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "run `make heads`" in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--variants", "-1", "-1 is less than 0"),
        ("--batch-size", "0", "0 is less than 1"),
        ("--epochs", "0", "0 is less than 1"),
        ("--learning-rate", "0", "0 is not a finite number greater than 0"),
        ("--learning-rate", "nan", "nan is not a finite number greater than 0"),
        ("--learning-rate", "inf", "inf is not a finite number greater than 0"),
        ("--label-smoothing", "1", "1 is not at least 0 and less than 1"),
        ("--label-smoothing", "-0.1", "-0.1 is not at least 0 and less than 1"),
        ("--label-smoothing", "nan", "nan is not at least 0 and less than 1"),
        ("--unfreeze", "block3", "invalid choice: 'block3'"),
        ("--unfreeze", "all", "all: a network of its own trains every layer; choose it with"),
        ("--models", "svm", "invalid choice: 'svm'"),
    ],
)
def test_values_that_make_no_sense_are_refused(
    option: str,
    value: str,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", "train", "pets", f"{option}={value}"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"error: argument {option}: {problem}")


def test_paths_may_begin_with_the_home_folder(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(made))
    words = ["train", "~/features/pets.h5", "--out", "~", "--epochs", "2", "--models", "finetuned"]
    monkeypatch.setattr(sys, "argv", ["finetune", *words])
    main()
    assert capsys.readouterr().out.startswith(f"{made / 'runs/pets/finetuned'}: nothing to do")
