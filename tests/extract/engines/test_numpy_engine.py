"""Where Keras is not installed, NumPy is the reference, and the engine of last resort."""

from pathlib import Path

import numpy as np
import pytest

from extract.engines import keras_engine, numpy_engine, selection
from extract.engines.base import relative_difference
from extract.system import machine
from extract.vgg16.recipe import ALL_TAPS
from extract.vgg16.weights import Weights
from tests.conftest import Arrays

PHOTOS = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)


@pytest.fixture
def weights(vgg16_arrays: Arrays) -> Weights:
    return Weights(vgg16_arrays, "f" * 64, "random")


def test_every_tap_is_that_of_keras(weights: Weights) -> None:
    outputs = tuple(ALL_TAPS)
    found = numpy_engine.build(weights, outputs=outputs).forward(PHOTOS)
    expected = keras_engine.build(weights, outputs=outputs, size=96).forward(PHOTOS)
    assert relative_difference(found, expected) < 1e-4


def test_without_keras_engines_are_compared_with_numpy(
    weights: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(selection, "has_keras", lambda: False)
    # A GPU is of no use without Keras.
    monkeypatch.setattr(machine, "has_gpu", lambda: True)
    engine = selection.choose("ncnn", weights, PHOTOS, folder=tmp_path)
    assert engine.name.endswith("of numpy")
    monkeypatch.setattr(selection, "find_spec", lambda name: None)
    engine = selection.choose("auto", weights, PHOTOS, folder=tmp_path)
    assert engine.name == f"numpy {np.__version__}"
    assert "neither MNN nor ncnn is installed" in capsys.readouterr().out
