"""A saved model: it answers as it did when it was tested, and refuses what is unsafe."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.base
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from classify import heads, results, train
from classify.arrays import TrainingData
from classify.calibration import Calibration
from classify.heads import HEADS, LeastSquaresSVC
from classify.novelty.detector import MEMBERS
from classify.search import Choice
from classify.serving import head_file
from classify.serving import model as serving
from classify.serving.head_file import load_head
from classify.serving.model import Answer, Model, load_model
from extract.compute import reading
from extract.compute.cached_vgg16 import CachedVGG16
from extract.engines import selection
from extract.store import shards
from extract.system import bounded
from extract.system.console import InputError
from extract.vgg16 import keras_model
from extract.vgg16 import weights as vgg16_files
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import joint_digest, recipe
from extract.vgg16.weights import Weights
from tests.conftest import write_keras_file, write_photos

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
    items = reading.read_squares_ahead(root, paths, known=model.known)
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
    assert model.known == {224: {}}
    found = probabilities(model, house / "pets", wanted.paths)
    np.testing.assert_allclose(found, wanted.probabilities, atol=1e-4)
    assert not list(tmp_path.rglob("*.h5"))


def test_a_photo_is_none_of_these_if_its_score_is_beyond_the_limit(
    load: Callable[..., Model], house: Path
) -> None:
    model = load("svm")
    paths = results.load_predictions(house / "runs/pets/svm").paths
    items = list(reading.read_squares_ahead(house / "pets", paths, known=model.known))
    assert model.novelty
    scores = model.outputs(items)[1]
    found: list[Any] = list(serving.answers(model, items, keep=0.5))
    limit = model.novelty.threshold(0.5)
    assert [one.none_of_these for one in found] == [score > limit for score in scores]
    everything: list[Any] = list(serving.answers(model, items, keep=None))
    assert [one.none_of_these for one in everything] == [None] * len(items)


def test_a_head_without_a_detector_or_with_a_foreign_one_is_noticed(
    house: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = house / "runs/pets/svm"
    result = results.load(source)
    members = bounded.members((source / "head.skops").read_bytes(), largest=10**9)
    folder = tmp_path / "svm"
    shutil.copytree(source, folder)
    old = {name: content for name, content in members.items() if "novelty" not in name}
    (folder / "head.skops").write_bytes(bounded.archive(old))
    head, novelty = head_file.load(folder, replace(result, model_digest=""))
    assert novelty is None
    assert result.novelty == {"keep": 0.95}
    serving.warn_without_novelty(folder, Model(result, {}, lambda _: _, {}, head))  # type: ignore[arg-type,return-value]
    assert "make heads trains it again" in capsys.readouterr().err
    for name in ("novelty/means.npy", "novelty/quantiles.npy"):
        foreign = {**members, name: members["novelty/counts.npy"]}
        (folder / "head.skops").write_bytes(bounded.archive(foreign))
        with pytest.raises(InputError, match="novelty detector"):
            head_file.load(folder, replace(result, model_digest=""))


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
    assert list(model.known) == [32]
    paths = results.load_predictions(house / "runs/pets/svm").paths
    trained = keras.models.load_model(network / "model.keras")
    photos = np.stack([reading.read(house / "pets", path, size=32).photo for path in paths])
    wanted = trained.predict(photos, verbose=0)
    np.testing.assert_allclose(probabilities(model, house / "pets", paths), wanted, atol=1e-5)


@pytest.fixture
def fine_tuned(house: Path, vgg16: Weights) -> Path:
    """Save a small network that begins with VGG16, and return its folder."""
    base = keras_model.convolutions(vgg16.arrays, size=32)
    maps = keras.layers.GlobalAveragePooling2D()(base.output)
    network = keras.Model(base.input, keras.layers.Dense(2, activation="softmax")(maps))
    heads = house / "runs/pets/svm"
    record = replace(
        results.load(heads),
        model="deep",
        stage="network",
        hyperparameters={"predicted_from": "block4_pool"},
    )
    results.save(
        house / "runs/pets/deep",
        record,
        results.load_predictions(heads),
        write_model=lambda folder: network.save(folder / "model.keras"),
    )
    return house / "runs/pets/deep"


@pytest.mark.parametrize("case", ["checked", "not checked", "other weights", "none at hand"])
def test_an_engine_that_was_checked_computes_the_frozen_layers_of_a_network(
    house: Path,
    fine_tuned: Path,
    vgg16: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    file = tmp_path / "weights.h5"
    sign = -1 if case == "other weights" else 1
    write_keras_file(file, [sign * array for array in vgg16.arrays])
    photos = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
    cached = CachedVGG16(tmp_path, weights_file=file, engine="ncnn")
    if case != "not checked":
        cached.activations("block4_pool", photos)
    chosen: list[Sequence[str]] = []
    choose = selection.choose

    def noted(*arguments: Any, outputs: Sequence[str], **options: Any) -> Any:
        chosen.append(outputs)
        return choose(*arguments, outputs=outputs, **options)

    monkeypatch.setattr(selection, "choose", noted)
    monkeypatch.setattr(vgg16_files, "are_at_hand", lambda cache: False)
    given = None if case == "none at hand" else file
    model = load_model(fine_tuned, cache=tmp_path, weights_file=given, engine="ncnn")
    squares = [{32: reading.LoadedPhoto("", "", photo, "")} for photo in photos]
    found = model.probabilities(squares)
    wanted = keras.models.load_model(fine_tuned / "model.keras").predict_on_batch(photos)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    # The heatmaps of the same model share the engine.
    assert model.split
    model.split().maps(photos)
    assert chosen == ([["block4_pool"]] if case == "checked" else [])


def make_old(folder: Path) -> None:
    """Make a result as earlier versions saved it: no card in the model, no digest in the record."""
    path, record = folder / "head.skops", json.loads((folder / "result.json").read_text())
    members = bounded.members(path.read_bytes(), largest=10**8)
    members.pop(results.CARD, None)
    path.write_bytes(bounded.archive(members))
    (folder / "result.json").write_text(json.dumps(record | {"model_digest": ""}))


def edited(house: Path, name: str, *, without: str = "", **changes: object) -> Path:
    """Copy the svm's result as an earlier version saved it, and change or remove fields."""
    shutil.copytree(house / "runs/pets/svm", house / "runs/pets" / name, dirs_exist_ok=True)
    make_old(house / "runs/pets" / name)
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
    digest = head.vgg16[224].weights.digest
    both = joint_digest([recipe(digest), recipe(digest, size=320)])
    edited(house, "both", recipe_digest=both, sizes=[224, 320])
    assert load("both").known == head.known
    edited(house, "both", recipe_digest=both, sizes=[224])
    with pytest.raises(InputError, match="make features heads"):
        load("both")


@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_a_head_of_several_sizes_is_given_the_photo_at_each(
    load: Callable[..., Model], house: Path, gamma: float
) -> None:
    digest = load("svm").vgg16[224].weights.digest
    widths = {"block5_avg": 512, "block4_avg_96": 512}
    X = np.random.default_rng(0).gamma(1, 1, (8, 1024)).astype(np.float32)
    chosen = {"taps": list(widths), "root": False, "alpha": 0.1, "gamma": gamma}
    data = TrainingData.weighted(X, widths, np.arange(8) % 2)
    fitted = train.fit_head("svm", Choice(chosen, Calibration(0.5)), data, seed=0)
    result = replace(
        results.load(house / "runs/pets/svm"),
        hyperparameters=chosen,
        parameters=heads.parameters(fitted),
        recipe_digest=joint_digest([recipe(digest, size=size) for size in (224, 96)]),
        sizes=[224, 96],
    )
    predictions = results.load_predictions(house / "runs/pets/svm")
    write = partial(train._write, fitted)
    results.save(house / "runs/pets/sized", result, predictions, write_model=write)
    model = load("sized")
    assert list(model.known) == [224, 96]
    path = predictions.paths[0]
    squares = {size: reading.read(house / "pets", path, size=size).photo for size in (224, 96)}
    taps = [
        model.vgg16[size].compute(squares[size][None])[tap]  # type: ignore[index]
        for size, tap in ((224, "block5_avg"), (96, "block4_avg"))
    ]
    wanted = fitted.predict_proba(np.hstack(taps))
    found = probabilities(model, house / "pets", [path])
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_an_older_record_without_sizes_is_used_if_its_taps_tell_them(
    load: Callable[..., Model], house: Path
) -> None:
    head = load("svm")
    digest = head.vgg16[224].weights.digest
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
    members = bounded.members((OLD_HEAD / "head.skops").read_bytes(), largest=10**6)
    head = head_file.decode(members, columns=3)
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


@pytest.fixture
def head(house: Path, tmp_path: Path) -> Path:
    """Copy the svm's result, as an earlier version saved it: so nothing but its file is known."""
    shutil.copytree(house / "runs/pets/svm", tmp_path / "head")
    make_old(tmp_path / "head")
    return tmp_path / "head"


def refusal(folder: Path) -> str:
    """Return the line that refuses a head."""
    with pytest.raises(InputError) as told:
        load_head(folder, results.load(folder))
    assert len(str(told.value).splitlines()) == 1
    assert str(folder) in str(told.value)
    return str(told.value)


def change(folder: Path, **members: Callable[[bytes], bytes]) -> None:
    """Change members of a head; `array` is that of its coefficients, `schema` its description."""
    path = folder / "head.skops"
    files = bounded.members(path.read_bytes(), largest=10**8)
    names = {"schema": "schema.json", "array": max(files, key=_length_of_array(files))}
    for name, function in members.items():
        files[names[name]] = function(files[names[name]])
    path.write_bytes(bounded.archive(files))


def _length_of_array(files: dict[str, bytes]) -> Callable[[str], int]:
    def length(name: str) -> int:
        return len(files[name]) if name.endswith(".npy") and not name.startswith(MEMBERS) else 0

    return length


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_head_that_names_os_system_is_refused_and_runs_nothing(
    head: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[object] = []
    monkeypatch.setattr(os, "system", ran.append)

    def naming(schema: bytes) -> bytes:
        found = json.loads(schema)
        steps = found["content"]["content"]["steps"]["content"]
        steps[step]["content"][1] |= {"__module__": "os", "__class__": "system"}
        return json.dumps(found).encode()

    change(head, schema=naming)
    assert "'os.system', which heads do not consist of" in refusal(head)
    skops.io.dump(make_pipeline(FunctionTransformer(shutil.rmtree)), head / "head.skops")
    assert "'shutil.rmtree'" in refusal(head)
    assert ran == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x80\x04\x95 a pickle"])
def test_a_damaged_head_is_refused(head: Path, content: bytes) -> None:
    (head / "head.skops").write_bytes(content)
    assert "not a model that can be used" in refusal(head)


def test_another_type_that_skops_trusts_is_not_a_head(head: Path) -> None:
    skops.io.dump(LogisticRegression(), head / "head.skops")
    assert "a LogisticRegression, not a head" in refusal(head)


def test_a_head_that_expands_is_refused_before_it_is_read(head: Path) -> None:
    whole = (head / "head.skops").read_bytes()
    with zipfile.ZipFile(head / "head.skops", "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros.npy", bytes(100_000_000))
    assert "it expands to 1" in refusal(head)
    (head / "head.skops").write_bytes(whole)
    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (1, 2_000_000_000)}
    np.lib.format.write_array_header_1_0(header, shape)
    change(head, array=lambda array: header.getvalue() + bytes(100))
    assert "claims more than it holds" in refusal(head)
    (head / "head.skops").write_bytes(whole)
    change(head, schema=lambda schema: b"[" * 100_000)
    assert "nested too deeply" in refusal(head)
    with (head / "head.skops").open("r+b") as file:
        file.truncate(500_000_000)
    assert "it has more than" in refusal(head)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_coefficients_that_are_not_finite_are_refused(head: Path, value: float) -> None:
    change(head, array=lambda array: array[:-8] + np.float64(value).tobytes())
    assert "not finite" in refusal(head)


@pytest.mark.parametrize("name", ["temperature_", "floor_"])
@pytest.mark.parametrize("value", ["0.0", "-1.0", "NaN", '"1"'])
def test_a_calibration_that_is_none_is_refused(head: Path, name: str, value: str) -> None:
    def changed(schema: bytes) -> bytes:
        found = json.loads(schema)
        classifier = found["content"]["content"]["steps"]["content"][-1]["content"][1]
        classifier["content"]["content"][name]["content"] = value
        return json.dumps(found).encode()

    assert load_head(head, results.load(head))
    change(head, schema=changed)
    assert "not a head that can be used" in refusal(head)


def test_a_changed_byte_of_a_head_is_noticed(head: Path) -> None:
    content = bytearray((head / "head.skops").read_bytes())
    content[len(content) // 4] ^= 1
    (head / "head.skops").write_bytes(content)
    assert "Bad CRC-32" in refusal(head)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"class_names": ["dogs", "cats"]}, "differ in class_names"),
        ({"class_names": ["cats", "cats"]}, "named twice"),
        ({"class_names": ["cats"]}, "it knows 2 classes"),
        ({"class_names": ["a", "b", "c"]}, "it knows 2 classes"),
        ({"class_names": [1, 2]}, "class_names is not"),
        ({"class_names": None}, "class_names is not"),
        ({"model": "logistic"}, "not the logistic of result.json"),
        ({"hyperparameters": {}}, "taps are not those"),
        ({"hyperparameters": {"taps": ["block9_avg"]}}, "taps are not those"),
        ({"hyperparameters": {"gamma": 0.25}}, "its gamma is not that"),
        ({"parameters": 3}, "coefficients"),
        ({"stage": "else"}, "stage is not"),
        ({"metrics": {"accuracy": float("nan")}}, "metrics is not"),
        ({"sizes": [225]}, "sizes"),
    ],
)
def test_a_record_that_contradicts_an_older_head_is_refused(
    head: Path, changes: dict[str, Any], said: str
) -> None:
    path = head / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=said):
        load_head(head, results.load(head))


def test_a_record_of_other_norms_than_those_of_its_head_is_refused(head: Path) -> None:
    path = head / "result.json"
    record = json.loads(path.read_text())
    record["hyperparameters"]["by_block"] = not record["hyperparameters"].get("by_block")
    path.write_text(json.dumps(record))
    assert "the norms of its taps are not those of result.json" in refusal(head)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("class_names", ["cows", "pigs"]),
        ("class_names", ["dogs", "cats"]),
        ("data_digest", "0" * 64),
        ("recipe_digest", "0" * 64),
        ("hyperparameters", {"taps": ["block3_avg", "block3_max"]}),
        ("sizes", [224, 320]),
        ("stage", "network"),
    ],
)
def test_a_record_that_was_changed_does_not_belong_to_its_head(
    house: Path, tmp_path: Path, field: str, value: object
) -> None:
    folder = tmp_path / "svm"
    shutil.copytree(house / "runs/pets/svm", folder)
    assert load_head(folder, results.load(folder))
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    said = refusal(folder)
    assert field in said.replace("taps", "hyperparameters") or "model.keras: not there" in said


def test_a_head_and_a_record_of_two_runs_do_not_belong_together(
    house: Path, tmp_path: Path
) -> None:
    for record, model in (("svm", "logistic"), ("logistic", "svm")):
        folder = tmp_path / record
        shutil.copytree(house / "runs/pets" / record, folder)
        shutil.copy(house / "runs/pets" / model / "head.skops", folder)
        assert "not the file that result.json describes" in refusal(folder)
        assert "run make heads" in refusal(folder)


def test_a_warning_names_the_version_of_scikit_learn_that_saved_a_head(
    head: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = results.load(head)
    fitted = load_head(head, result)
    assert capsys.readouterr().err == ""
    here = sklearn.__version__
    monkeypatch.setattr(sklearn.base, "__version__", "1.2.3")
    skops.io.dump(fitted, head / "head.skops")
    monkeypatch.undo()
    load_head(head, result)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert f"saved by scikit-learn 1.2.3, and this is {here}" in told[0]


def test_fuzzed_models_and_records_give_the_same_answer_or_are_refused(
    house: Path, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    source = house / "runs/pets/svm"
    record = json.loads((source / "result.json").read_text())
    X = np.ones((1, 7168), np.float32)
    wanted = load_head(source, results.load(source))
    X = X[:, : wanted.n_features_in_]
    refused = 0
    for number in range(60):
        folder = tmp_path / f"{number}"
        shutil.copytree(source, folder)
        if number % 3 == 0:
            content = bytearray((folder / "head.skops").read_bytes())
            for position in random.integers(0, len(content), 1 + number % 5):
                content[position] ^= 1 << int(random.integers(8))
            (folder / "head.skops").write_bytes(content)
        elif number % 3 == 1:
            content = bytearray((folder / "result.json").read_bytes())
            content[random.integers(len(content))] ^= 1 << int(random.integers(7))
            (folder / "result.json").write_bytes(content)
        else:
            name = list(record)[int(random.integers(len(record)))]
            wrong: list[Any] = [None, [], {}, "x", -1, 1.5, [[]], True]
            value = wrong[int(random.integers(len(wrong)))]
            (folder / "result.json").write_text(json.dumps(record | {name: value}))
        try:
            result = results.load(folder)
            head = load_head(folder, result)
        except InputError:
            refused += 1
            continue
        assert result.class_names == record["class_names"]
        np.testing.assert_array_equal(head.predict_proba(X), wanted.predict_proba(X))
    assert refused > 25


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
