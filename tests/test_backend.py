"""Keras: the same taps on every backend, and one trace for batches of any size."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from extract import keras_engine, weights
from extract.backend import compiled, keras
from extract.engines import relative_difference
from extract.weights import Weights
from tests.conftest import Arrays

CHECKOUT = Path(__file__).parent.parent
FORWARD = """
import sys
import numpy as np
from extract import keras_engine, weights
given = np.load(sys.argv[1])
arrays = [given[f"{i:02d}"] for i in range(26)]
engine = keras_engine.build(weights.Weights(arrays, weights.digest(arrays), "random"))
np.savez(sys.argv[2], name=engine.name, **engine.forward(given["photos"]))
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
    chosen = ["tests/test_train.py", "-k", "best_epoch or resumed or augmentation"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen],
        cwd=CHECKOUT,
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_a_smaller_batch_is_not_traced_anew() -> None:
    photos = keras.Input((4, 4, 3))
    network = keras.Model(photos, {"sum": keras.layers.Flatten()(photos)})
    run = compiled(network)
    for n in (32, 7, 1, 32):
        batch = np.full((n, 4, 4, 3), n, np.uint8)
        np.testing.assert_array_equal(run(batch)["sum"], np.full((n, 48), n, np.float32))
    assert run.experimental_get_tracing_count() == 1  # type: ignore[attr-defined]
