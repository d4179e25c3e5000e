"""Keras gives the same taps on every backend and traces a network once for all batch sizes."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from extract.engines import keras_engine
from extract.engines.base import relative_difference
from extract.system import bounded
from extract.system.console import InputError
from extract.vgg16 import keras_backend, weights
from extract.vgg16.keras_backend import inference_function, keras
from extract.vgg16.weights import Weights
from tests.conftest import CHECKOUT, Arrays

FORWARD = """
import sys
import numpy as np
from extract.engines import keras_engine
from extract.vgg16 import weights
given = np.load(sys.argv[1])
arrays = [given[f"{i:02d}"] for i in range(26)]
engine = keras_engine.build(weights.Weights(arrays, weights.digest(arrays), "random"))
np.savez(sys.argv[2], name=engine.name, **engine.forward(given["photos"]))
import benchmarks.gpu
assert "tensorflow" not in sys.modules
"""


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_another_backend_gives_the_same_taps(
    backend: str, vgg16_arrays: Arrays, tmp_path: Path
) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    photos = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    arrays = {f"{i:02d}": array for i, array in enumerate(vgg16_arrays)}
    np.savez(tmp_path / "given.npz", photos=photos, **arrays)  # type: ignore[arg-type]
    subprocess.run(
        [sys.executable, "-c", FORWARD, tmp_path / "given.npz", tmp_path / "taps.npz"],
        cwd=CHECKOUT,
        env=os.environ | {"KERAS_BACKEND": backend},
        check=True,
    )
    found = dict(np.load(tmp_path / "taps.npz"))
    assert str(found.pop("name")).endswith(f" on {backend}")
    reference = Weights(vgg16_arrays, weights.digest(vgg16_arrays), "random")
    assert relative_difference(found, keras_engine.build(reference).forward(photos)) < 1e-5


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_another_backend_trains_and_resumes(backend: str) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    names = "best_epoch_on_val or killed_and_resumed or augmentation_varies"
    chosen = ["tests/finetune/train", "-k", names]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen],
        cwd=CHECKOUT,
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_a_smaller_batch_is_not_traced_again() -> None:
    photos = keras.Input((4, 4, 3))
    network = keras.Model(photos, {"sum": keras.layers.Flatten()(photos)})
    run = inference_function(network)
    for n in (32, 7, 1, 32):
        batch = np.full((n, 4, 4, 3), n, np.uint8)
        np.testing.assert_array_equal(run(batch)["sum"], np.full((n, 48), n, np.float32))
    assert run.experimental_get_tracing_count() == 1  # type: ignore[attr-defined]


# Saved networks that may come from strangers


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Save a small network and return its path."""
    photo = keras.Input((4, 4, 3))
    network = keras.Model(photo, keras.layers.Dense(2)(keras.layers.Flatten()(photo)))
    network.save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def changed(
    path: Path,
    config: Callable[[dict[str, Any]], None] = lambda layers: None,
    weights: Callable[[h5py.File], None] = lambda file: None,
) -> None:
    """Change the configuration of a saved network, or its weights."""
    with zipfile.ZipFile(path) as file:
        files = {name: file.read(name) for name in file.namelist()}
    about = json.loads(files["config.json"])
    config(about)
    files["config.json"] = json.dumps(about).encode()
    image = io.BytesIO(files["model.weights.h5"])
    with h5py.File(image, "r+") as hdf5:
        weights(hdf5)
    files["model.weights.h5"] = image.getvalue()
    with zipfile.ZipFile(path, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)


def load(path: Path) -> keras.Model:
    return keras_backend.load(path, bounded.members(path.read_bytes(), largest=10**7))


def refused(path: Path) -> str:
    with pytest.raises(InputError) as told:
        load(path)
    message = str(told.value)
    assert message.startswith(f"{path}: not a network that can be used (")
    assert len(message.splitlines()) == 1
    return message


def test_a_saved_network_is_read(saved: Path) -> None:
    changed(saved)
    photos = np.ones((2, 4, 4, 3), np.float32)
    wanted = keras.models.load_model(saved).predict(photos, verbose=0)
    np.testing.assert_array_equal(load(saved).predict(photos, verbose=0), wanted)


def test_a_network_with_a_lambda_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.keras"
    photo = keras.Input((4, 4, 3))
    hostile = keras.layers.Lambda(lambda x: (__import__("os").putenv("RAN", "1"), x)[1])
    keras.Model(photo, hostile(photo)).save(path)
    ran: list[object] = []
    monkeypatch.setattr(os, "putenv", lambda *given: ran.append(given))
    assert "keras.layers.Lambda, which networks here do not consist of" in refused(path)
    assert ran == []
    # Without safe mode it does run.
    keras.models.load_model(path, safe_mode=False)
    assert ran


@pytest.mark.parametrize(
    "layer",
    [
        {"module": "os", "class_name": "system", "config": "touch marker"},
        {"module": "builtins", "class_name": "function", "config": "exec"},
        {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/tmp"}},
        {"module": "kerasnot.layers", "class_name": "Dense", "config": {}},
    ],
)
def test_a_network_that_names_code_is_refused(
    saved: Path, layer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[object] = []
    monkeypatch.setattr(os, "system", ran.append)
    changed(saved, config=lambda about: about["config"]["layers"][1].update(layer))
    assert f"{layer['module']}.{layer['class_name']}, which networks here do not" in refused(saved)
    # It is also found deep inside the configuration.
    changed(saved, config=lambda about: about["config"].update(layers=[{"any": [layer]}]))
    assert "which networks here do not consist of" in refused(saved)
    assert ran == []


@pytest.mark.parametrize(
    ("number", "changes", "said"),
    [
        (2, {"units": 500_000_000}, "MB of weights, and fewer are stored"),
        (2, {"activation": "keras.utils.get_file"}, "the activation keras.utils.get_file"),
        (2, {"kernel_regularizer": {"any": 1}}, "the option kernel_regularizer"),
        (2, {"activity_regularizer": "l2"}, "the option activity_regularizer"),
        (0, {"batch_shape": [None, 100_000, 100_000, 3]}, "MB of weights, and fewer are stored"),
        (0, {"dtype": "float64"}, "the dtype float64"),
    ],
)
def test_options_that_networks_here_do_not_have_are_refused_before_anything_is_made(
    saved: Path, number: int, changes: dict[str, Any], said: str
) -> None:
    def change(about: dict[str, Any]) -> None:
        about["config"]["layers"][number]["config"].update(changes)
        about["config"]["layers"][1].pop("build_config", None)
        about["config"]["layers"][2].pop("build_config", None)

    changed(saved, config=change)
    assert said in refused(saved)


def test_the_optimizer_of_a_saved_network_is_left_out(saved: Path) -> None:
    hostile = {"optimizer": {"module": "os", "class_name": "system", "config": {}}}
    changed(saved, config=lambda about: about.update(compile_config=hostile))
    assert load(saved).output_shape == (None, 2)


def test_weights_that_expand_or_are_not_numbers_are_refused(saved: Path) -> None:
    whole = saved.read_bytes()

    def replace(**how: Any) -> Callable[[h5py.File], None]:
        def change(file: h5py.File) -> None:
            del file["layers/dense/vars/0"]
            file.create_dataset("layers/dense/vars/0", **how)

        return change

    zeros = np.zeros((48, 2), np.float32)
    for how, said in (
        ({"data": zeros, "compression": "gzip"}, "vars/0 is compressed"),
        ({"shape": (500_000, 1000), "dtype": "f4"}, "claims more than is stored"),
        ({"data": zeros + np.float32("nan")}, "not finite"),
    ):
        saved.write_bytes(whole)
        changed(saved, weights=replace(**how))
        assert said in refused(saved)


def test_weights_in_another_file_are_refused(saved: Path, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret"] = np.ones((48, 2), np.float32)

    def link(file: h5py.File) -> None:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "secret")

    changed(saved, weights=link)
    assert "ExternalLink" in refused(saved)
