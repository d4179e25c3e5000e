"""Training: what is kept, what is left alone, how long it goes on."""

from typing import Any

import numpy as np
import pytest

from extract.backend import keras
from extract.console import InputError
from finetune import batches, networks
from finetune.train import Schedule, fit, schedule
from tests.conftest import Arrays


class Given(keras.utils.PyDataset):
    """One batch of given inputs and labels."""

    def __init__(self, inputs: np.ndarray, labels: np.ndarray) -> None:
        super().__init__()
        self.batch = inputs, labels

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        return self.batch


def points(seed: int, *, wrong: bool = False) -> Given:
    """Return 2 classes on a line; with `wrong`, the labels are the other way round."""
    x = np.random.default_rng(seed).normal(size=(64, 1)).astype(np.float32)
    labels = batches.one_hot((x[:, 0] > 0).astype(int), 2)
    return Given(x, labels[:, ::-1] if wrong else labels)


def line() -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((1,))
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(inputs))


def test_the_weights_left_are_those_of_the_best_epoch_on_val() -> None:
    network = line()
    val = points(1)
    history = fit(network, points(0), val, phase="p", how=Schedule(0.5, 30, 30))
    left = network.evaluate(val, verbose=0, return_dict=True)["loss"]
    assert left == pytest.approx(min(history["val_loss"]), rel=1e-4)
    assert left < history["val_loss"][0]
    assert history["phase"] == ["p"] * 30
    assert {len(values) for values in history.values()} == {30}
    assert all(seconds > 0 for seconds in history["seconds"])


def test_training_that_never_helps_on_val_changes_nothing_and_stops() -> None:
    network = line()
    fit(network, points(0), points(1), phase="first", how=Schedule(0.5, 30, 30))
    before = network.get_weights()
    history = fit(network, points(2, wrong=True), points(1), phase="harm", how=Schedule(0.5, 30, 3))
    assert len(history["val_loss"]) == 3 + 1
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_loss_that_is_no_number_stops_with_advice_and_the_weights_it_had() -> None:
    network = line()
    before = network.get_weights()
    broken = points(0)
    broken.batch[0][:] = np.nan
    with pytest.raises(InputError, match=r"phase x: .*no longer a number.*--learning-rate"):
        fit(network, broken, points(1), phase="phase x", how=Schedule(0.5, 5, 5))
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_frozen_layers_stay_bit_equal_and_thawed_ones_change(vgg16_arrays: Arrays) -> None:
    random = np.random.default_rng(0)
    photos = random.integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    labels = batches.one_hot(np.array([0, 1, 0, 1]), 2)
    top = networks.top(random.gamma(1.0, 1.0, (9, 512 + 4608 + 512)).astype(np.float32), 2)
    network = networks.vgg16_with(top, vgg16_arrays)
    networks.unfreeze(network, "block5")
    before = {layer.name: layer.get_weights() for layer in network.layers}
    # A val split that training must improve on, so that the new weights are kept.
    given = Given(photos, labels)
    fit(network, given, given, phase="block5", how=Schedule(1e-6, 3, 3))
    changed = {
        layer.name
        for layer in network.layers
        for old, new in zip(before[layer.name], layer.get_weights(), strict=True)
        if not np.array_equal(old, new)
    }
    assert changed == {"block5_conv1", "block5_conv2", "block5_conv3", "top"}


def test_augmentation_varies_training_and_nothing_else() -> None:
    photos = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.float32)
    augmentation = batches.augmentation(0)
    np.testing.assert_array_equal(np.asarray(augmentation(photos, training=False)), photos)
    varied = np.asarray(augmentation(photos, training=True))
    assert not np.allclose(varied, photos)
    assert varied.shape == photos.shape
    assert varied.min() >= 0
    assert varied.max() <= 255


@pytest.mark.parametrize("phase", ["scratch", "top", "block5", "block4", "all"])
def test_schedules_grow_shorter_with_more_photos_and_stay_sensible(phase: str) -> None:
    sizes = [1, 10, 100, 300, 1_000, 3_000, 10_000, 1_000_000]
    epochs = [schedule(phase, photos).epochs for photos in sizes]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[-1] >= 1
    for photos in sizes:
        how = schedule(phase, photos)
        assert how.patience < how.epochs
        assert 0 < how.learning_rate <= 1e-3
