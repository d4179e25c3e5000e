from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from extract.engines import keras_engine
from extract.engines.base import Engine, Taps
from extract.vgg16 import keras_model, weights
from extract.vgg16.architecture import CONVOLUTIONS
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import SIZE, TAPS
from extract.vgg16.weights import Weights
from tests.conftest import Arrays, picture

SMALL = 96
"""Side of the photos where the size is not what is tested: they take a sixth of the time."""

MEANS = np.array([103.939, 116.779, 123.68], np.float32)


@pytest.fixture(scope="module")
def network(vgg16_arrays: Arrays) -> keras.Model:
    return keras_model.convolutions(vgg16_arrays)


@pytest.fixture(scope="module")
def engine(vgg16_arrays: Arrays) -> Engine:
    return keras_engine.build(Weights(vgg16_arrays, weights.digest(vgg16_arrays), "test"))


@pytest.fixture(scope="module")
def small_engine(vgg16_arrays: Arrays) -> Engine:
    random = Weights(vgg16_arrays, weights.digest(vgg16_arrays), "test")
    return keras_engine.build(random, size=SMALL)


@pytest.fixture(scope="module")
def batch() -> NDArray[np.uint8]:
    """Return two photos that are not alike."""
    return np.stack([np.asarray(picture(i, size=(SIZE, SIZE))) for i in range(2)])


@pytest.fixture(scope="module")
def seven() -> NDArray[np.uint8]:
    """Return seven small photos, no two alike."""
    return np.stack([np.asarray(picture(i, size=(SMALL, SMALL))) for i in range(7)])


def outputs(
    network: keras.Model, photos: NDArray[np.uint8], *layers: str
) -> list[NDArray[np.float32]]:
    """Return the outputs of the named layers for some photos."""
    network = keras.Model(network.input, {name: network.get_layer(name).output for name in layers})
    found = network(photos)
    return [keras.ops.convert_to_numpy(found[name]) for name in layers]


def close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * scale)


def test_preprocessing_is_blue_green_red_minus_the_means(network: keras.Model) -> None:
    photo = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    photo[0, 0, 0] = 10, 20, 30
    photo[0, 0, 1] = 255, 255, 255
    photo[0, 0, 2] = 255, 0, 0
    (found,) = outputs(network, photo, "rgb_to_bgr_minus_means")
    expected = [[30, 20, 10], [255, 255, 255], [0, 0, 255]] - MEANS
    np.testing.assert_allclose(found[0, 0, :3], expected, atol=1e-4)
    np.testing.assert_allclose(found[0, 100, 100], -MEANS, atol=1e-4)
    by_keras = keras.applications.vgg16.preprocess_input(photo.astype(np.float32))
    np.testing.assert_allclose(found, by_keras, atol=1e-4)


def test_first_convolution_by_hand(
    network: keras.Model, vgg16_arrays: Arrays, batch: NDArray[np.uint8]
) -> None:
    (found,) = outputs(network, batch[:1], "block1_conv1")
    photo = batch[0, :, :, ::-1].astype(np.float64) - MEANS
    padded = np.pad(photo, ((1, 1), (1, 1), (0, 0)))
    for row, column in [(0, 0), (0, 223), (100, 57), (223, 223)]:
        patch = padded[row : row + 3, column : column + 3]
        sums = np.tensordot(patch, vgg16_arrays[0].astype(np.float64), 3) + vgg16_arrays[1]
        np.testing.assert_allclose(found[0, row, column], np.maximum(sums, 0), atol=1e-2, rtol=1e-4)


def test_convolutions_are_those_of_keras(
    network: keras.Model, vgg16_arrays: Arrays, batch: NDArray[np.uint8]
) -> None:
    reference = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
    reference.set_weights(vgg16_arrays)
    assert [layer.name for layer in network.layers[2:]] == [
        layer.name for layer in reference.layers[1:]
    ]
    inputs = keras.applications.vgg16.preprocess_input(batch.astype(np.float32))
    expected = keras.ops.convert_to_numpy(reference(inputs))
    close(keras.ops.convert_to_numpy(network(batch)), expected)
    assert expected.shape == (2, 7, 7, 512)
    assert (expected > 0).mean() > 0.1, "dead activations would agree in anything"


def test_taps_are_the_pooled_activations(
    network: keras.Model, engine: Engine, batch: NDArray[np.uint8]
) -> None:
    names = ["block3_conv3", "block4_conv3", "block5_conv3", "block5_pool"]
    third, fourth, fifth, pooled = outputs(network, batch, *names)
    found = engine.forward(batch)
    close(found["block3_avg"], third.mean((1, 2)))
    close(found["block3_max"], third.max((1, 2)))
    close(found["block4_avg"], fourth.mean((1, 2)))
    close(found["block4_max"], fourth.max((1, 2)))
    close(found["block5_avg"], fifth.mean((1, 2)))
    close(found["block5_max"], fifth.max((1, 2)))
    assert pooled.shape[1:3] == (7, 7)
    starts = (0, 2, 4)
    parts = [pooled[:, r : r + 3, c : c + 3].mean((1, 2)) for r in starts for c in starts]
    close(found["block5_avg3x3"], np.hstack(parts))


def test_taps_of_a_larger_photo(vgg16_arrays: Arrays) -> None:
    network = keras_model.convolutions(vgg16_arrays, size=320)
    photo = np.asarray(picture(1, size=(320, 320)))[None]
    found = keras.Model(network.input, keras_model.taps(network))(photo)
    fifth, pooled = outputs(network, photo, "block5_conv3", "block5_pool")
    assert pooled.shape == (1, 10, 10, 512)
    starts = (0, 3, 6)
    parts = [pooled[:, r : r + 4, c : c + 4].mean((1, 2)) for r in starts for c in starts]
    close(keras.ops.convert_to_numpy(found["block5_avg3x3"]), np.hstack(parts))
    close(keras.ops.convert_to_numpy(found["block5_max"]), fifth.max((1, 2)))
    assert {tap: values.shape[1] for tap, values in found.items()} == TAPS


def test_every_tap_of_the_recipe_in_float32(engine: Engine, batch: NDArray[np.uint8]) -> None:
    found = engine.forward(batch[:1])
    assert {tap: values.shape for tap, values in found.items()} == {
        tap: (1, width) for tap, width in TAPS.items()
    }
    assert {values.dtype for values in found.values()} == {np.dtype("float32")}
    for tap, values in found.items():
        assert np.isfinite(values).all(), tap
        assert (values >= 0).all(), f"{tap} is not ReLU'd"
        assert values.any(), tap


@pytest.fixture(scope="module")
def whole(small_engine: Engine, seven: NDArray[np.uint8]) -> Taps:
    """Return the taps of all photos, computed at once."""
    return small_engine.forward(seven)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_size_of_the_batch_does_not_matter(
    size: int, small_engine: Engine, seven: NDArray[np.uint8], whole: Taps
) -> None:
    parts = [small_engine.forward(seven[start : start + size]) for start in range(0, 7, size)]
    assert len(parts[-1]["block5_avg"]) == 1, "the last batch is a ragged one"
    for tap in TAPS:
        close(np.vstack([part[tap] for part in parts]), whole[tap])


def test_rows_are_in_the_order_of_the_photos(
    small_engine: Engine, seven: NDArray[np.uint8], whole: Taps
) -> None:
    order = [4, 0, 6, 2]
    some = small_engine.forward(seven[order])
    for tap in TAPS:
        close(some[tap], whole[tap][order])
    assert len(np.unique(whole["block5_avg"].round(3), axis=0)) == 7


def test_channels_matter(small_engine: Engine, seven: NDArray[np.uint8]) -> None:
    turned = np.ascontiguousarray(seven[:1, :, :, ::-1])
    difference = (
        small_engine.forward(seven[:1])["block5_avg"] - small_engine.forward(turned)["block5_avg"]
    )
    assert np.abs(difference).max() > 1e-2


def test_engine_names_itself(engine: Engine) -> None:
    assert engine.name == f"keras {keras.__version__} on {keras.backend.backend()}"


def test_saved_network_is_read_in_safe_mode_and_gives_the_same(
    network: keras.Model, batch: NDArray[np.uint8], tmp_path: Path
) -> None:
    taps = keras.Model(network.input, keras_model.taps(network))
    taps.save(tmp_path / "vgg16.keras")
    again = keras.models.load_model(tmp_path / "vgg16.keras", safe_mode=True)
    before, after = taps(batch), again(batch)
    assert set(after) == set(TAPS)
    for tap in TAPS:
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(after[tap]), keras.ops.convert_to_numpy(before[tap])
        )


def test_preprocessing_is_never_trained(network: keras.Model) -> None:
    trained = {variable.path.split("/")[0] for variable in network.trainable_variables}
    assert trained == set(CONVOLUTIONS)
    frozen = {variable.path.split("/")[0] for variable in network.non_trainable_variables}
    assert frozen == {"rgb_to_bgr_minus_means"}
