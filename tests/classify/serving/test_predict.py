"""A saved model on new photos: the answers it gave when it was tested, and what it refuses."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sklearn.base
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from classify import __main__ as command
from classify import results
from classify.heads import HEADS
from classify.serving import predict
from classify.serving.predict import Answer, Model
from extract.compute import pipeline
from extract.engines import selection
from extract.store import shards
from extract.system.console import InputError
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import joint_digest, named, recipe
from tests.conftest import CHECKOUT, write_photos


@pytest.fixture(scope="module")
def network(house: Path) -> Path:
    """Return the result of a small network beside the heads."""
    photo = keras.Input((32, 32, 3))
    pixels = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(photo))
    network = keras.Model(photo, keras.layers.Dense(2, activation="softmax")(pixels))
    heads = house / "runs/pets/svm"
    results.save(
        house / "runs/pets/tiny",
        replace(results.load(heads), model="tiny", stage="network"),
        results.load_predictions(heads),
        write_model=lambda folder: network.save(folder / "model.keras"),
    )
    return house / "runs/pets/tiny"


@pytest.fixture
def load(house: Path, vgg16_weights: Path) -> Callable[..., Model]:
    def load(name: str, cache: Path = house / "features/cache") -> Model:
        return predict.load(
            house / "runs/pets" / name, cache=cache, weights_file=vgg16_weights, engine="keras"
        )

    return load


def answers(model: Model, root: Path, paths: Sequence[str]) -> list[Answer]:
    items = pipeline.read_ahead(root, paths, size=model.size, known=model.known)
    found = [answer for answer in predict.answers(model, items) if isinstance(answer, Answer)]
    assert [answer.path for answer in found] == list(paths)
    return found


def probabilities(model: Model, root: Path, paths: Sequence[str]) -> np.ndarray:
    ranked = [dict(answer.ranked) for answer in answers(model, root, paths)]
    return np.array([[p[name] for name in model.result.class_names] for p in ranked])


def run(house: Path, weights: Path, *arguments: object, given: bytes = b"") -> tuple[str, str, int]:
    options = ["--out", house, "--weights", weights, "--engine", "keras"]
    words = [sys.executable, "-m", "classify", "predict", *map(str, [*arguments, *options])]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, input=given)
    return done.stdout.decode(), done.stderr.decode(), done.returncode


@pytest.mark.parametrize("name", HEADS)
def test_a_head_repeats_its_predictions_from_the_cache(
    load: Callable[..., Model], house: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def computed(*_: object, **__: object) -> None:
        raise AssertionError("a photo that is in the cache was computed")

    monkeypatch.setattr(selection, "choose", computed)
    wanted = results.load_predictions(house / "runs/pets" / name)
    found = probabilities(load(name), house / "pets", wanted.paths)
    np.testing.assert_allclose(found, wanted.probabilities, atol=1e-6)
    assert np.ptp(wanted.probabilities[:, 0]) > 1e-4


def test_a_photo_that_was_never_seen_is_computed_and_not_kept(
    load: Callable[..., Model], house: Path, tmp_path: Path
) -> None:
    wanted = results.load_predictions(house / "runs/pets/svm")
    model = load("svm", tmp_path)
    assert model.known == {}
    found = probabilities(model, house / "pets", wanted.paths)
    np.testing.assert_allclose(found, wanted.probabilities, atol=1e-4)
    assert not list(tmp_path.rglob("*.h5"))


def test_seen_and_new_photos_may_be_mixed(load: Callable[..., Model], house: Path) -> None:
    new = write_photos(house / "new", {"any": 3}, seed=7) / "any"
    seen = results.load_predictions(house / "runs/pets/svm").paths
    paths = [str(new / "000.png"), seen[0], str(new / "001.png"), seen[1], str(new / "002.png")]
    model = load("svm")
    together = probabilities(model, house / "pets", paths)
    alone = np.concatenate([probabilities(model, house / "pets", [path]) for path in paths])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert len(np.unique(together[:, 0].round(6))) == len(paths)


def test_a_network_is_given_the_photo_at_its_own_size(
    load: Callable[..., Model], house: Path, network: Path
) -> None:
    model = load("tiny")
    assert model.size == 32
    paths = results.load_predictions(house / "runs/pets/svm").paths
    trained = keras.models.load_model(network / "model.keras")
    photos = np.stack([pipeline.read(house / "pets", path, size=32).photo for path in paths])
    wanted = trained.predict(photos, verbose=0)
    np.testing.assert_allclose(probabilities(model, house / "pets", paths), wanted, atol=1e-5)


def test_a_head_refuses_features_of_another_recipe_by_name(
    load: Callable[..., Model], house: Path
) -> None:
    shutil.copytree(house / "runs/pets/svm", house / "runs/pets/older", dirs_exist_ok=True)
    record = house / "runs/pets/older/result.json"
    record.write_text(record.read_text().replace(load("svm").result.recipe_digest, "e" * 64))
    with pytest.raises(
        InputError, match=r"older: trained on features of recipe e{12}, and"
    ) as told:
        load("older")
    assert load("svm").result.recipe_digest[:12] in str(told.value)


def test_sizes_that_a_head_does_not_look_at_do_not_matter(
    load: Callable[..., Model], house: Path
) -> None:
    head = load("svm")
    assert head.lookup
    the_recipe, digest = head.lookup.recipe, head.lookup.weights.digest
    both = joint_digest([the_recipe, recipe(digest, size=320)])
    shutil.copytree(house / "runs/pets/svm", house / "runs/pets/both", dirs_exist_ok=True)
    record = house / "runs/pets/both/result.json"
    record.write_text(record.read_text().replace(head.result.recipe_digest, both))
    assert load("both").known == head.known
    fitted = predict.load_head(house / "runs/pets/both")
    taps = fitted[0].transformers_
    fitted[0].transformers_ = [(named(tap, 320), *rest) for tap, *rest in taps]
    skops.io.dump(fitted, house / "runs/pets/both/head.skops")
    with pytest.raises(
        InputError, match=r"both: looks at photos of other sizes, too \(block.*_320"
    ):
        load("both")


def test_the_likeliest_class_comes_first_and_a_low_one_is_unsure() -> None:
    for probability, sure in ((0.59, False), (0.6, True), (0.7, True)):
        answer = predict._answer(
            _says("a", "b"),
            pipeline.Read("p.png", "", None, ""),
            np.array([1 - probability, probability], np.float64),  # type: ignore[arg-type]
            0.6,
        )
        assert answer == Answer("p.png", [("b", probability), ("a", 1 - probability)], sure)
    told = predict.lines([Answer("p", [("b", 0.5), ("a", 0.5)], False)], top=1)
    assert told == ["p: unsure: b 50.0%"]


def _says(*names: str) -> Model:
    result: Any = SimpleNamespace(class_names=list(names))
    return Model(result, 224, (), lambda items: np.empty((0, 2), np.float32))


def test_csv_and_json_hold_any_name() -> None:
    found = [Answer('a,"b"\n.png', [("x;y", 0.75), ("z", 0.25)], True)]
    rows = list(csv.reader(io.StringIO(predict.as_csv(found, top=2))))
    assert rows[1] == ['a,"b"\n.png', "true", "x;y", "0.750000", "z", "0.250000"]
    assert len(rows[0]) == len(rows[1])


def test_the_command_prints_answers_and_nothing_else(house: Path, vgg16_weights: Path) -> None:
    folder = write_photos(house / "mixed", {"of": 2}, seed=3)
    (folder / "of/broken.jpg").write_bytes(b"\xff\xd8 broken")
    (folder / ".hidden").write_bytes(b"")
    (folder / os.fsdecode(b"n\xff.png")).write_bytes(b"")
    photo = next((house / "pets/cats").iterdir()).read_bytes()
    run_folder = house / "runs/pets/svm"
    out, err, code = run(house, vgg16_weights, run_folder, folder, "-", "--json", given=photo)
    assert code == 0, err
    record = json.loads(out)
    assert [Path(p["path"]).name for p in record["photos"]] == ["-", "000.png", "001.png"]
    assert {Path(s["path"]).name: s["reason"].split(":")[0] for s in record["skipped"]} == {
        "broken.jpg": "not an image file that Pillow can read",
        ".hidden": "hidden or system file",
        "n\\udcff.png": "file or folder name is not UTF-8; rename it",
    }
    assert sum(record["photos"][0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    told = err.splitlines()
    assert sum(line.startswith("skipped: ") for line in told) == 3
    assert told[-1].startswith("svm of pets: 3 photos, ")
    assert told[-1].endswith("unsure (below 60%), 3 skipped")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("runs/pets/svm", "nowhere.png"), "nowhere.png: no such file or folder"),
        (("runs/pets/svm", "features/pets.h5"), "features/pets.h5: no photo there"),
        (("runs/pets", "pets"), "result.json: not there"),
        (("runs/pets/svm", "pets", "--top", "0"), "--top: 0 is less than 1"),
    ],
)
def test_what_cannot_be_predicted_is_said_in_a_line(
    house: Path,
    vgg16_weights: Path,
    arguments: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(house)
    words = ["classify", "predict", *arguments, "--weights", str(vgg16_weights)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises((InputError, SystemExit)) as told:
        command.main()
    assert said in str(told.value) + capsys.readouterr().err


# Files that were not made here


def _naming_os_system(house: Path, path: Path, step: int) -> None:
    """Write a real head of which one step claims to be os.system."""
    with zipfile.ZipFile(house / "runs/pets/svm/head.skops") as file:
        files = {name: file.read(name) for name in file.namelist()}
    schema = json.loads(files["schema.json"])
    steps = schema["content"]["content"]["steps"]["content"]
    steps[step]["content"][1] |= {"__module__": "os", "__class__": "system"}
    files["schema.json"] = json.dumps(schema).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_head_that_names_os_system_is_refused_and_runs_nothing(
    house: Path, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[object] = []
    _naming_os_system(house, tmp_path / "head.skops", step)
    monkeypatch.setattr(os, "system", ran.append)
    with pytest.raises(InputError, match=r"head\.skops: not a head.*'os\.system'") as told:
        predict.load_head(tmp_path)
    assert len(str(told.value).splitlines()) == 1
    skops.io.dump(make_pipeline(FunctionTransformer(shutil.rmtree)), tmp_path / "head.skops")
    with pytest.raises(InputError, match=r"head\.skops: not a head.*'shutil\.rmtree'"):
        predict.load_head(tmp_path)
    assert ran == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x80\x04\x95 a pickle"])
def test_a_damaged_head_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "head.skops").write_bytes(content)
    with pytest.raises(InputError, match=r"head\.skops: not a head"):
        predict.load_head(tmp_path)


def test_something_else_that_skops_trusts_is_no_head(tmp_path: Path) -> None:
    skops.io.dump(LogisticRegression(), tmp_path / "head.skops")
    with pytest.raises(InputError, match="a LogisticRegression, not a head"):
        predict.load_head(tmp_path)


def test_another_version_of_scikit_learn_is_named_and_so_is_this_one(
    house: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    head = predict.load_head(house / "runs/pets/logistic")
    assert capsys.readouterr().err == ""
    here = sklearn.__version__
    monkeypatch.setattr(sklearn.base, "__version__", "1.2.3")
    skops.io.dump(head, tmp_path / "head.skops")
    monkeypatch.undo()
    predict.load_head(tmp_path)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert f"saved by scikit-learn 1.2.3, and this is {here}" in told[0]


def test_shards_that_went_meanwhile_are_told_in_a_line(
    load: Callable[..., Model], house: Path, tmp_path: Path
) -> None:
    shutil.copytree(house / "features/cache", tmp_path / "cache")
    model = load("svm", tmp_path / "cache")
    paths = results.load_predictions(house / "runs/pets/svm").paths
    for shard in shards.files(next((tmp_path / "cache").glob("*/"))):
        shard.unlink()
    with pytest.raises(InputError, match="try again"):
        answers(model, house / "pets", paths)
