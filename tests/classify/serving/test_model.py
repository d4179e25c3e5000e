"""A saved model: it answers as it did when it was tested, and refuses what is unsafe."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn.base
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from classify import results
from classify.heads import HEADS, LeastSquaresSVC
from classify.serving import model as serving
from classify.serving.model import Answer, Model, load_head, load_model
from extract.compute import pipeline
from extract.engines import selection
from extract.store import shards
from extract.system.console import InputError
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import joint_digest, named, recipe
from tests.conftest import write_photos

OLD_HEAD = Path(__file__).parent / "head_of_an_earlier_version"
"""Saved at commit 55a0492 from 12 rows of 3 columns; alpha 0.3, temperature 1.5."""


@pytest.fixture(scope="module")
def network(house: Path) -> Path:
    """Save a small network beside the heads, and return its folder."""
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
        return load_model(
            house / "runs/pets" / name, cache=cache, weights_file=vgg16_weights, engine="keras"
        )

    return load


def answers(model: Model, root: Path, paths: Sequence[str]) -> list[Answer]:
    items = pipeline.read_ahead(root, paths, size=model.size, known=model.known)
    found = [answer for answer in serving.answers(model, items) if isinstance(answer, Answer)]
    assert [answer.path for answer in found] == list(paths)
    return found


def probabilities(model: Model, root: Path, paths: Sequence[str]) -> np.ndarray:
    ranked = [dict(answer.ranked) for answer in answers(model, root, paths)]
    return np.array([[p[name] for name in model.result.class_names] for p in ranked])


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


def test_a_new_photo_is_computed_and_not_kept(
    load: Callable[..., Model], house: Path, tmp_path: Path
) -> None:
    wanted = results.load_predictions(house / "runs/pets/svm")
    model = load("svm", tmp_path)
    assert model.known == {}
    found = probabilities(model, house / "pets", wanted.paths)
    np.testing.assert_allclose(found, wanted.probabilities, atol=1e-4)
    assert not list(tmp_path.rglob("*.h5"))


def test_known_and_new_photos_may_be_mixed(load: Callable[..., Model], house: Path) -> None:
    new = write_photos(house / "new", {"any": 3}, seed=7) / "any"
    known = results.load_predictions(house / "runs/pets/svm").paths
    paths = [str(new / "000.png"), known[0], str(new / "001.png"), known[1], str(new / "002.png")]
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


def edited(house: Path, name: str, *, without: str = "", **changes: object) -> Path:
    """Copy the svm's result, and change or remove fields of its record."""
    shutil.copytree(house / "runs/pets/svm", house / "runs/pets" / name, dirs_exist_ok=True)
    path = house / "runs/pets" / name / "result.json"
    record = json.loads(path.read_text()) | changes
    record.pop(without, None)
    path.write_text(json.dumps(record))
    return path.parent


def test_a_head_trained_on_features_of_another_recipe_is_refused(
    load: Callable[..., Model], house: Path
) -> None:
    edited(house, "other", recipe_digest="e" * 64)
    with pytest.raises(
        InputError, match=r"other: trained on features of recipe e{12}, but .*make features heads"
    ) as told:
        load("other")
    assert load("svm").result.recipe_digest[:12] in str(told.value)


def test_a_head_of_features_of_several_sizes_is_used_if_it_needs_no_tap_of_the_others(
    load: Callable[..., Model], house: Path
) -> None:
    head = load("svm")
    assert head.vgg16
    digest = head.vgg16.weights.digest
    both = joint_digest([recipe(digest), recipe(digest, size=320)])
    folder = edited(house, "both", recipe_digest=both, sizes=[224, 320])
    assert load("both").known == head.known
    edited(house, "both", recipe_digest=both, sizes=[224])
    with pytest.raises(InputError, match="make features heads"):
        load("both")
    edited(house, "both", recipe_digest=both, sizes=[224, 320])
    fitted = load_head(folder)
    taps = fitted[0].transformers_
    fitted[0].transformers_ = [(named(tap, 320), *rest) for tap, *rest in taps]
    skops.io.dump(fitted, folder / "head.skops")
    with pytest.raises(
        InputError, match=r"both: this head also needs photos of other sizes \(block.*_320"
    ):
        load("both")


def test_an_older_record_without_sizes_is_used_if_its_taps_tell_them(
    load: Callable[..., Model], house: Path
) -> None:
    head = load("svm")
    assert head.vgg16
    digest = head.vgg16.weights.digest
    edited(house, "older", without="sizes")
    assert load("older").known == head.known
    both = joint_digest([recipe(digest), recipe(digest, size=320)])
    tried = [*head.result.tried, {"taps": ["block4_avg", "block4_avg_320"]}]
    edited(house, "older", without="sizes", recipe_digest=both, tried=tried)
    assert load("older").known == head.known
    edited(house, "older", without="sizes", recipe_digest=both)
    with pytest.raises(InputError, match="make features heads"):
        load("older")


def test_a_head_that_an_earlier_version_saved_is_loaded() -> None:
    head = load_head(OLD_HEAD)
    assert type(head[-1]) is LeastSquaresSVC
    X = np.array([[1, 2, 3], [4, 1, 1]], np.float32)
    expected = [[0.4944069, 0.50559306], [0.6308384, 0.3691616]]
    np.testing.assert_allclose(head.predict_proba(X), expected, atol=1e-5)


def test_the_most_probable_class_comes_first_and_a_low_probability_is_unsure() -> None:
    for probability, sure in ((0.59, False), (0.6, True), (0.7, True)):
        probabilities = np.array([1 - probability, probability], np.float64)
        found = serving.answer("p.png", probabilities, ["a", "b"], unsure=0.6)  # type: ignore[arg-type]
        assert found == Answer("p.png", [("b", probability), ("a", 1 - probability)], sure)


# Files from elsewhere


def _naming_os_system(house: Path, path: Path, step: int) -> None:
    """Write a real head in which one step claims to be os.system."""
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
        load_head(tmp_path)
    assert len(str(told.value).splitlines()) == 1
    skops.io.dump(make_pipeline(FunctionTransformer(shutil.rmtree)), tmp_path / "head.skops")
    with pytest.raises(InputError, match=r"head\.skops: not a head.*'shutil\.rmtree'"):
        load_head(tmp_path)
    assert ran == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x80\x04\x95 a pickle"])
def test_a_damaged_head_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "head.skops").write_bytes(content)
    with pytest.raises(InputError, match=r"head\.skops: not a head"):
        load_head(tmp_path)


def test_another_type_that_skops_trusts_is_not_a_head(tmp_path: Path) -> None:
    skops.io.dump(LogisticRegression(), tmp_path / "head.skops")
    with pytest.raises(InputError, match="a LogisticRegression, not a head"):
        load_head(tmp_path)


def test_a_warning_names_the_version_of_scikit_learn_that_saved_a_head(
    house: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    head = load_head(house / "runs/pets/logistic")
    assert capsys.readouterr().err == ""
    here = sklearn.__version__
    monkeypatch.setattr(sklearn.base, "__version__", "1.2.3")
    skops.io.dump(head, tmp_path / "head.skops")
    monkeypatch.undo()
    load_head(tmp_path)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert f"saved by scikit-learn 1.2.3, and this is {here}" in told[0]


def test_shards_that_disappear_meanwhile_are_an_error_of_one_line(
    load: Callable[..., Model], house: Path, tmp_path: Path
) -> None:
    shutil.copytree(house / "features/cache", tmp_path / "cache")
    model = load("svm", tmp_path / "cache")
    paths = results.load_predictions(house / "runs/pets/svm").paths
    for shard in shards.files(next((tmp_path / "cache").glob("*/"))):
        shard.unlink()
    with pytest.raises(InputError, match="try again"):
        answers(model, house / "pets", paths)
