"""Engines: the same numbers whatever the batch, and the reference whenever there is doubt."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from extract import engines, graph, keras_engine, mnn_engine, weights
from extract.console import InputError
from extract.engines import TOLERANCE, Engine, Taps, choose, relative_difference
from extract.recipe import TAPS
from extract.weights import Weights
from tests.conftest import Arrays


@pytest.fixture(scope="module")
def vgg16(vgg16_arrays: Arrays) -> Weights:
    return Weights(vgg16_arrays, weights.digest(vgg16_arrays), "random")


@pytest.fixture(scope="module")
def keras(vgg16: Weights) -> Engine:
    return keras_engine.build(vgg16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipe")


@pytest.fixture(scope="module")
def mnn(vgg16: Weights, folder: Path) -> Engine:
    return mnn_engine.build(vgg16, folder)


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 224, 224, 3), dtype=np.uint8)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "has_gpu", lambda: False)


def test_the_graph_is_valid_and_says_its_shapes(vgg16_arrays: Arrays) -> None:
    model = graph.vgg16(vgg16_arrays)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        output.name: [d.dim_value for d in output.type.tensor_type.shape.dim][1:]
        for output in model.graph.output
    }
    assert shapes == {tap: [width] for tap, width in TAPS.items()}


@pytest.mark.parametrize("n", [1, 2, 7, 32])
def test_mnn_gives_the_taps_of_keras_in_every_batch_size(
    n: int, keras: Engine, mnn: Engine
) -> None:
    photos = noise(n)
    found, expected = mnn.forward(photos), keras.forward(photos)
    assert relative_difference(found, expected) < TOLERANCE
    for tap, width in TAPS.items():
        assert found[tap].shape == (n, width)
        assert found[tap].dtype == np.float32
        # Photo by photo, so that no row can stand in the place of another.
        for row in range(n):
            norm = np.linalg.norm(expected[tap][row])
            assert np.linalg.norm(found[tap][row] - expected[tap][row]) < TOLERANCE * norm


@pytest.mark.parametrize("value", [0, 255])
def test_mnn_agrees_on_black_and_white(value: int, keras: Engine, mnn: Engine) -> None:
    photos = np.full((2, 224, 224, 3), value, np.uint8)
    assert relative_difference(mnn.forward(photos), keras.forward(photos)) < TOLERANCE


def test_mnn_keeps_no_result_of_an_earlier_batch(mnn: Engine) -> None:
    first = mnn.forward(noise(3))
    copy = {tap: values.copy() for tap, values in first.items()}
    mnn.forward(noise(5))
    for tap in TAPS:
        np.testing.assert_array_equal(first[tap], copy[tap])


def test_colours_are_not_exchanged(mnn: Engine) -> None:
    photos = noise(2)
    red, blue = mnn.forward(photos), mnn.forward(photos[..., ::-1])
    assert relative_difference(red, blue) > TOLERANCE


def test_auto_takes_mnn_and_remembers_that_it_agrees(
    vgg16: Weights,
    folder: Path,
    no_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "engines.json").unlink(missing_ok=True)
    engine = choose("auto", vgg16, noise(9), folder=folder)
    assert engine.name.startswith("MNN ")
    [difference] = json.loads((folder / "engines.json").read_text()).values()
    assert 0 < difference < TOLERANCE
    assert f"within {difference:.0e} of keras" in engine.name
    assert engine.name in capsys.readouterr().out

    def compared_again(weights: Weights) -> Engine:
        raise AssertionError("compared again")

    monkeypatch.setattr(keras_engine, "build", compared_again)
    assert choose("auto", vgg16, noise(9), folder=folder).name == engine.name
    monkeypatch.setattr(engines, "_processor", lambda: "another machine")
    with pytest.raises(AssertionError, match="compared again"):
        choose("auto", vgg16, noise(9), folder=folder)


def test_an_engine_that_differs_is_refused_with_its_figure(
    vgg16: Weights,
    mnn: Engine,
    tmp_path: Path,
    no_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def wrong(photos: np.ndarray) -> Taps:
        return {tap: values * np.float32(1.01) for tap, values in mnn.forward(photos).items()}

    monkeypatch.setattr(mnn_engine, "build", lambda weights, folder: Engine("MNN x", wrong))
    engine = choose("auto", vgg16, noise(2), folder=tmp_path)
    assert engine.name.startswith("keras")
    assert "MNN x differs from it by 0.01" in capsys.readouterr().out


def test_an_engine_that_gives_no_numbers_is_refused(
    vgg16: Weights, mnn: Engine, tmp_path: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(photos: np.ndarray) -> Taps:
        return {tap: values * np.float32(np.nan) for tap, values in mnn.forward(photos).items()}

    monkeypatch.setattr(mnn_engine, "build", lambda weights, folder: Engine("MNN x", wrong))
    assert choose("mnn", vgg16, noise(2), folder=tmp_path).name.startswith("keras")


@pytest.mark.parametrize(
    ("convert", "reason"),
    [
        ("import sys; sys.exit(3)", "converter failed with 3"),
        ("pass", "converter failed with 0"),
        (
            "import sys; open(sys.argv[sys.argv.index('--MNNModel') + 1], 'w').write('no')",
            "MNN cannot be used",
        ),
    ],
)
def test_a_converter_that_fails_falls_back_with_the_reason(
    convert: str,
    reason: str,
    vgg16: Weights,
    tmp_path: Path,
    no_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mnn_engine, "CONVERT", convert)
    assert choose("auto", vgg16, noise(1), folder=tmp_path).name.startswith("keras")
    assert reason in capsys.readouterr().out
    assert not list(tmp_path.glob("*.mnn"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.setattr(engines, "find_spec", lambda name: None), "MNN is not installed"),
        (lambda m: m.setattr(engines, "has_gpu", lambda: True), "there is a GPU"),
    ],
)
def test_auto_falls_back_to_keras_and_says_why(
    change: Callable[[pytest.MonkeyPatch], None],
    reason: str,
    vgg16: Weights,
    tmp_path: Path,
    no_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(monkeypatch)
    assert choose("auto", vgg16, noise(1), folder=tmp_path).name.startswith("keras")
    assert reason in capsys.readouterr().out


def test_mnn_asked_for_and_not_installed_is_an_input_error(
    vgg16: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="--engine mnn: MNN is not installed"):
        choose("mnn", vgg16, noise(1), folder=tmp_path)
