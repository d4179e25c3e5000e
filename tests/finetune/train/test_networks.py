"""The networks: their layers, which of them are frozen, and what they compute."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from extract import build
from extract.store import features_file
from extract.store.features_file import Features
from extract.vgg16 import keras_model
from extract.vgg16.architecture import CONVOLUTIONS
from extract.vgg16.keras_backend import keras
from finetune.train import networks
from finetune.train.batches import PhotoBatches, one_hot
from finetune.train.hardware import Hardware
from finetune.train.loop import compile_network
from finetune.train.schedule import Schedule
from tests.conftest import Arrays, write_photos

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, vgg16_weights: Path) -> Iterator[Features]:
    """Features, with random weights, of 4 photos in each of 3 classes: 6 to train."""
    folder = tmp_path_factory.mktemp("networks")
    root = write_photos(folder / "pets", {"cats": 4, "dogs": 4, "owls": 4})
    build.build(str(root), build.Options(out=folder, weights=vgg16_weights, engine="keras"))
    with features_file.open(folder / "features/pets.h5") as opened:
        yield opened


@pytest.fixture(scope="module")
def finetuned(features: Features, vgg16_arrays: Arrays) -> keras.Model:
    top = networks.top(features.read((networks.TOP_TAP,), "train"), 3, logarithm=True)
    top.layers[-1].set_weights([w + 0.01 for w in top.layers[-1].get_weights()])
    return networks.vgg16_with(top, vgg16_arrays)


def photos_of_test(features: Features) -> np.ndarray:
    split = PhotoBatches(features, "test", size=224)
    return np.concatenate([split[number][0] for number in range(len(split))])


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_baseline_has_four_convolutions_dropout_and_softmax(batch_norm: bool) -> None:
    network = networks.baseline(5, batch_norm=batch_norm)
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds.count("BatchNormalization") == 4 * batch_norm
    assert kinds.count("Conv2D") == 4
    assert kinds.count("MaxPooling2D") == 4
    assert "Dropout" in kinds
    random = np.random.default_rng(0)
    photos = random.integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    untrained = keras.ops.convert_to_numpy(network(photos))
    np.testing.assert_allclose(untrained, np.full((3, 5), 1 / 5), rtol=1e-5)
    last = network.layers[-1]
    last.set_weights([random.normal(0, 0.1, weight.shape) for weight in last.get_weights()])
    probabilities = keras.ops.convert_to_numpy(network(photos))
    assert probabilities.shape == (3, 5)
    assert np.ptp(probabilities) > 0.1
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("logarithm", [True, False])
def test_the_top_gives_rows_one_norm_and_centres_them_by_the_training_photos(
    logarithm: bool,
) -> None:
    taps = np.random.default_rng(0).gamma(1.0, 1.0, (50, 8)).astype(np.float32)
    taps[:, 3] = 0
    top = networks.top(taps, 2, logarithm=logarithm)
    before = keras.Model(top.input, top.layers[-1].input)
    given = keras.ops.convert_to_numpy(before(taps))
    rows = np.log1p(taps) if logarithm else taps
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rows -= rows.mean(axis=0)
    np.testing.assert_allclose(given, rows / np.sqrt(rows.var(axis=0).mean()), atol=1e-4)
    assert given.var(axis=0).mean() == pytest.approx(1, rel=1e-3)
    assert np.isfinite(before(np.zeros((1, 8), np.float32))).all()


def test_at_first_only_the_top_is_trained(finetuned: keras.Model) -> None:
    dense = finetuned.get_layer("top").layers[-1]
    assert [id(w) for w in finetuned.trainable_weights] == [id(w) for w in dense.weights]


@pytest.mark.parametrize(("start", "layers"), [("block5", 3), ("block4", 6), ("all", 13)])
def test_unfreezing_frees_the_last_layers_and_no_other(
    finetuned: keras.Model, start: str, layers: int
) -> None:
    networks.unfreeze(finetuned, start)
    free = [name for name in CONVOLUTIONS if finetuned.get_layer(name).trainable]
    assert free == list(CONVOLUTIONS)[-layers:]
    assert not finetuned.get_layer("rgb_to_bgr_minus_means").trainable


def test_the_top_on_cached_features_is_the_network_on_photos(
    features: Features, finetuned: keras.Model
) -> None:
    photos = photos_of_test(features)
    from_photos = keras.ops.convert_to_numpy(finetuned(photos))
    taps = features.read((networks.TOP_TAP,), "test")
    from_taps = keras.ops.convert_to_numpy(finetuned.get_layer("top")(taps))
    np.testing.assert_allclose(from_photos, from_taps, atol=1e-4)


def test_a_saved_network_is_whole_and_loads_in_safe_mode(
    features: Features, finetuned: keras.Model, tmp_path: Path
) -> None:
    finetuned.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    photos = photos_of_test(features)
    expected = keras.ops.convert_to_numpy(finetuned(photos))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loaded(photos)), expected, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_the_learning_rate_falls_from_layer_to_layer(precision: str) -> None:
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((4,))
    for name in ("block1_conv1", "block5_conv2", "block5_conv3", "top"):
        x = keras.layers.Dense(4, name=name)(x)
    network = keras.Model(inputs, keras.layers.Softmax()(x))
    schedule = Schedule(0.01, 1, 1, layer_decay=0.5)
    compile_network(network, schedule, 1, hardware=Hardware(precision=precision))
    before = [layer.get_weights()[0] for layer in network.layers if layer.weights]
    rows = np.random.default_rng(0).random((8, 4), np.float32)
    network.train_on_batch(rows, one_hot(np.arange(8) % 4, 4))
    after = [layer.get_weights()[0] for layer in network.layers if layer.weights]
    # The first step of Adam is the learning rate, whatever the gradient.
    steps = [np.abs(new - old).max() for old, new in zip(before, after, strict=True)]
    np.testing.assert_allclose(steps, [0.01 * 0.5**depth for depth in (13, 2, 1, 0)], rtol=0.02)


def vgg16_that_trains(vgg16_arrays: Arrays, start: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    taps = np.random.default_rng(0).gamma(1.0, 1.0, (9, 4608)).astype(np.float32)
    top = networks.top(taps, 2, logarithm=True)
    # With a top of zeros the layers below it would have no gradient.
    top.layers[-1].set_weights([np.full((4608, 2), (0.01, -0.01)), np.zeros(2)])
    network = networks.vgg16_with(top, vgg16_arrays)
    networks.unfreeze(network, start)
    return network


@pytest.fixture(scope="module")
def step(vgg16_arrays: Arrays) -> Callable[[str, str, str], np.ndarray]:
    """Return a function that gives the change of all weights in one step, made once for each.

    The step is one from the cache, in a number format, or with the format "" end to end.
    """
    photos = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    labels = one_hot(np.array([0, 1]), 2)

    @cache
    def frozen(start: str) -> np.ndarray:
        network = keras_model.convolutions(vgg16_arrays)
        output = network.get_layer(networks.FROZEN_OUTPUT[start]).output
        return keras.ops.convert_to_numpy(keras.Model(network.input, output)(photos))

    @cache
    def change(start: str, optimizer: str, dtype: str) -> np.ndarray:
        network = vgg16_that_trains(vgg16_arrays, start)
        trained, inputs = network, photos
        if dtype:
            trained, inputs = networks.tail(network, start), frozen(start).astype(dtype)
        # A compiled step takes longer, and TensorFlow keeps a copy of the weights for good.
        trained.compile(optimizer=optimizer, loss="categorical_crossentropy", run_eagerly=True)
        before = network.get_weights()
        trained.train_on_batch(inputs.astype(np.float32), labels)
        pairs = zip(network.get_weights(), before, strict=True)
        return np.concatenate([(new - old).ravel() for new, old in pairs])

    return change


@pytest.mark.parametrize(
    # The first step of Adam has the sign of the gradient and no more, and rounding changes a few
    # signs. Rounding to 16 bits also changes a few maxima and ReLUs.
    ("start", "dtype", "optimizer", "tolerance"),
    [
        ("block5", "float32", "sgd", 1e-4),
        ("block5", "float16", "sgd", 3e-2),
        ("block4", "float32", "adamw", 1e-2),
        ("block4", "float16", "sgd", 3e-2),
    ],
)
def test_a_step_from_the_cache_is_the_step_end_to_end(
    start: str,
    dtype: str,
    optimizer: str,
    tolerance: float,
    step: Callable[[str, str, str], np.ndarray],
) -> None:
    end_to_end, from_cache = step(start, optimizer, ""), step(start, optimizer, dtype)
    assert np.count_nonzero(end_to_end) > 1_000_000
    difference = np.linalg.norm(end_to_end - from_cache) / np.linalg.norm(end_to_end)
    assert difference < tolerance
