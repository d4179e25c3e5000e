"""An exported file gives the probabilities of its model without needing this project."""

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from sklearn.pipeline import Pipeline

from classify import heads, results, train
from classify.arrays import TrainingData
from classify.calibration import Calibration
from classify.heads import HEADS
from classify.search import Choice
from classify.serving import neighbours
from classify.serving.head_file import load_head
from classify.serving.model import Model, load_model
from extract.compute.reading import LoadedPhoto
from extract.engines import selection
from extract.photos import decode
from extract.store import features_file
from extract.system import atomic
from extract.system.console import InputError, one_line
from extract.vgg16 import weights
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import TAPS, joint_digest, recipe
from finetune.export import dense, keras_format, litert_format, model_file, onnx_format
from finetune.export.file_formats import RECORD, ExportedFunction, append_record
from finetune.export.head import activation, final_scores
from tests import synthetic
from tests.conftest import CHECKOUT, HOSTILE


@pytest.fixture(scope="module")
def head(house: Path) -> Pipeline:
    run = house / "runs/pets/logistic"
    return load_head(run, results.load(run))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def probabilities(house: Path, weights_file: Path, name: str, photo: np.ndarray) -> np.ndarray:
    """Return the probabilities of the original model for a new photo."""
    Image.fromarray(photo).save(house / "one.png")
    cache = house / "features/cache"
    run = house / "runs/pets" / name
    model = load_model(run, cache=cache, weights_file=weights_file, engine="keras")
    square = decode.square(Image.fromarray(photo), size=224)
    return model.probabilities([{224: LoadedPhoto("one.png", "", square, "")}])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    ("name", "gamma", "floor"),
    [
        *((name, 0.0, np.inf) for name in HEADS),
        ("svm", 0.25, np.inf),
        ("svm", 0.0, 0.1),
        ("svm", 0.25, 0.1),
    ],
)
def test_a_folded_head_gives_the_same_probabilities(
    name: str, gamma: float, floor: float, classes: int, tmp_path: Path
) -> None:
    with features_file.open(synthetic.publish(tmp_path, classes=classes)) as opened:
        rows = opened.rows("train", "val")
        labels = opened.labels[rows]
        taps = ["block5_avg", "block4_max"]
        X = opened.read(taps, "train", "val")
        chosen = {"taps": taps, "root": True, "alpha": 0.1, "C": 10.0, "epochs": 5, "gamma": gamma}
        data = TrainingData.weighted(X, {tap: TAPS[tap] for tap in taps}, labels)
        fitted = train.fit_head(name, Choice(chosen, Calibration(0.5, floor)), data, seed=0)
    folded = dense.to_dense(fitted)
    assert (folded.taps, folded.root) == (taps, True)
    parts = np.split(X, [512], axis=1)
    x = np.hstack([np.sqrt(p) / np.linalg.norm(np.sqrt(p), axis=1, keepdims=True) for p in parts])
    for kernel, bias in folded.layers[:-1]:
        hidden = x @ kernel + bias
        x = np.asarray(activation(hidden, x, keras.ops, gamma=folded.gamma))
    last = x @ folded.layers[-1][0] + folded.layers[-1][1]
    found = np.exp(final_scores(last, keras.ops, floor=folded.floor, slope=folded.slope))
    found /= found.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, fitted.predict_proba(X), atol=1e-5)


def test_without_keras_and_onnx_runtime_a_head_is_exported_to_onnx_alone(
    house: Path, vgg16_weights: Path
) -> None:
    program = """
import sys
from importlib.util import find_spec
from finetune.__main__ import main
from finetune.export import onnx_format
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("keras", "tensorflow", "onnxruntime"):
            raise ImportError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
onnx_format.has_runtime = lambda: False
from extract.system import console
console.run(main)
"""
    run = house / "runs/pets/svm"
    words = ["export", run, "--to", "onnx", "--out", house, "--weights", vgg16_weights]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "comparing on 2 photos, which takes seconds for each" in done.stdout
    assert f"{run / 'exported.onnx'}: written, " in done.stdout


@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_onnx_runs_without_keras_and_agrees_with_the_head(
    house: Path, vgg16_weights: Path, name: str
) -> None:
    run = house / "runs/pets" / name
    path, difference = model_file.write(run, to="onnx", out=house, weights_file=vgg16_weights)
    assert difference <= 1e-3
    photo = noise(553, 388)
    np.save(house / "photo.npy", photo)
    program = f"""
import json, sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession({str(path)!r}, providers=["CPUExecutionProvider"])
photo = numpy.load({str(house / "photo.npy")!r})
found = session.run(None, {{session.get_inputs()[0].name: photo[None]}})[0]
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
assert not {{"keras", "tensorflow", "sklearn", "extract"}} & set(sys.modules)
print(json.dumps([names, found.tolist()]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, found = json.loads(done.stdout)
    assert names == ["cats", "dogs"]
    wanted = probabilities(house, vgg16_weights, name, photo)
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_keras_and_litert_files_agree_with_the_head(
    house: Path, vgg16_weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, photo = house / "runs/pets/logistic", noise(300, 700)
    wanted = probabilities(house, vgg16_weights, "logistic", photo)
    for to, read in (("keras", keras_format.load), ("litert", litert_format.load)):
        path, difference = model_file.write(run, to=to, out=house, weights_file=vgg16_weights)
        assert difference <= 1e-3
        found = read(path.read_bytes())(photo[None])
        np.testing.assert_allclose(found, wanted, atol=1e-3)
        with zipfile.ZipFile(path) as file:
            record = json.loads(file.read(RECORD))
            assert file.read("labels.txt").decode().split() == record["class_names"]
        assert record["class_names"] == ["cats", "dogs"]
    # Nothing from the C++ part of TensorFlow either.
    assert capfd.readouterr().err == ""


def test_every_class_has_one_line_in_the_labels(house: Path) -> None:
    names = [*HOSTILE, "a\x0bb\u2028c\x85d"]
    result = replace(results.load(house / "runs/pets/logistic"), class_names=names)
    with zipfile.ZipFile(io.BytesIO(append_record(b"", result))) as file:
        assert file.read("labels.txt").decode().splitlines() == [one_line(name) for name in names]
        assert json.loads(file.read(RECORD))["class_names"] == names


def test_an_exported_network_takes_photos_of_any_size(house: Path) -> None:
    photo = keras.Input((32, 32, 3))
    pixels = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(photo))
    network = keras.Model(photo, keras.layers.Dense(2, activation="softmax")(pixels))
    heads = house / "runs/pets/logistic"
    run = house / "runs/pets/network"
    results.save(
        run,
        replace(results.load(heads), model="network", stage="network"),
        results.load_predictions(heads),
        write_model=lambda folder: network.save(folder / "model.keras"),
    )
    path, difference = model_file.write(run, to="keras", out=house)
    assert difference <= 1e-5
    assert path.name == "exported.keras"
    with pytest.raises(InputError, match="only heads are exported to ONNX"):
        model_file.write(run, to="onnx", out=house)


def test_a_file_that_differs_from_the_original_is_not_written(
    house: Path, vgg16_weights: Path, head: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = house / "runs/pets/logistic"
    (run / "exported.onnx").unlink(missing_ok=True)
    exact = dense.to_dense(head)
    moved = exact._replace(
        layers=[(kernel, bias + np.array([0, 1])) for kernel, bias in exact.layers]
    )
    monkeypatch.setattr(dense, "to_dense", lambda head: moved)
    with pytest.raises(InputError, match=r"logistic: as onnx it differs from the original by 0\."):
        model_file.write(run, to="onnx", out=house, weights_file=vgg16_weights)
    assert not (run / "exported.onnx").exists()


def test_photos_to_compare_on_may_be_named_and_no_killed_export_leaves_a_file(
    house: Path, vgg16_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare(model: Model, exported: ExportedFunction, root: Path, paths: list[str]) -> float:
        compared.append((root, len(paths)))
        return 0.0

    monkeypatch.setattr(model_file, "compare", compare)
    run = house / "runs/pets/logistic"
    left = atomic.temporary(run / "of an export that was killed")
    left.touch()
    model_file.write(run, to="onnx", out=house, weights_file=vgg16_weights, photos=house / "pets")
    assert compared == [(house / "pets", 13)]
    assert not left.exists()


def test_a_folder_without_photos_to_compare_on_is_an_input_error(
    house: Path, vgg16_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    run = house / "runs/pets/logistic"
    with pytest.raises(InputError, match="name another folder with --photos"):
        model_file.write(run, to="onnx", out=house, weights_file=vgg16_weights, photos=tmp_path)


def test_the_command_says_where_the_file_is_and_reports_nothing_to_others(
    house: Path, vgg16_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    # Libraries that report what is done keep the number of this machine in the home folder.
    monkeypatch.setenv("HOME", str(tmp_path))
    run = house / "runs/pets/mlp"
    words = ["finetune", "export", run, "--to", "onnx", "--out", house, "--weights", vgg16_weights]
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"{run / 'exported.onnx'}: written, " in done.stdout
    assert done.stderr == ""
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name]


def test_a_tap_of_zeros_gives_probabilities_and_not_nan(
    vgg16_arrays: list[np.ndarray],
) -> None:
    silent = [array * 0 for array in vgg16_arrays]
    layers = [(np.ones((512, 2), np.float32), np.array([0, 1], np.float32))]
    head = dense.DenseHead(["block5_avg"], True, layers)
    model = onnx_format.build(head, silent)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(None, {"rgb": noise(20, 30)[None]})[0]
    np.testing.assert_allclose(found, [[1 / (1 + np.e), np.e / (1 + np.e)]], atol=1e-6)


def test_photos_to_compare_on_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder; .* --photos"):
        model_file.write(tmp_path, to="onnx", out=tmp_path, photos=tmp_path / "nowhere")


def test_a_file_of_several_sizes_has_vgg16_once_and_agrees_with_the_head(
    house: Path, vgg16_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Keras computes the original, so that no other engine is compared with it at two sizes.
    monkeypatch.setattr(selection, "PACKAGES", {})
    widths = {"block5_avg": 512, "block4_avg_96": 512, "block5_avg3x3_96": 4608}
    assert set(heads.block_norms(widths).values()) != {1.0}
    X = np.random.default_rng(0).gamma(1, 1, (8, sum(widths.values()))).astype(np.float32)
    chosen = {"taps": list(widths), "root": True, "by_block": True, "alpha": 0.1, "gamma": 0.25}
    data = TrainingData.weighted(X, widths, np.arange(8) % 2)
    fitted = train.fit_head("svm", Choice(chosen, Calibration(0.5, 0.1)), data, seed=0)
    one_size = results.load(house / "runs/pets/svm")
    digest = weights.load(vgg16_weights, cache=tmp_path).digest
    result = replace(
        one_size,
        hyperparameters=chosen,
        parameters=heads.parameters(fitted),
        recipe_digest=joint_digest([recipe(digest, size=size) for size in (224, 96)]),
        sizes=[224, 96],
    )
    run = tmp_path / "both"
    predictions = results.load_predictions(house / "runs/pets/svm")
    results.save(run, result, predictions, write_model=partial(train._write, fitted))
    for to in ("onnx", "keras"):
        path, difference = model_file.write(run, to=to, out=house, weights_file=vgg16_weights)
        assert difference <= 1e-4
        assert path.stat().st_size < 65_000_000


def test_features_of_other_photos_are_not_compared_on(
    house: Path, vgg16_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "is_of", lambda features, result: False)
    run = house / "runs/pets/logistic"
    with pytest.raises(InputError, match=r"pets\.h5: of other photos, classes or splits than"):
        model_file.write(run, to="onnx", out=house, weights_file=vgg16_weights)
