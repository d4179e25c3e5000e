"""Frozen layers: what an engine computes of them gives what the whole network gives."""

from collections.abc import Callable

import numpy as np
import pytest

from extract.engines.frozen_layers import FEWEST, FrozenLayers, begins_with, function
from extract.engines.split_network import split
from extract.vgg16 import keras_model
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import MAPS
from extract.vgg16.weights import Weights
from finetune.train import networks

SIDE = 32


def photos(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, SIDE, SIDE, 3), np.uint8)


def fine_tuned(vgg16: Weights) -> keras.Model:
    """Build VGG16 with a top, and with other weights in its last block."""
    base = keras_model.convolutions(vgg16.arrays, size=SIDE)
    kernel, bias = base.get_layer("block5_conv2").get_weights()
    base.get_layer("block5_conv2").set_weights([-kernel, bias + 1])
    x = keras.layers.GlobalAveragePooling2D()(base.output)
    dense = keras.layers.Dense(3, activation="softmax", kernel_initializer="zeros")
    network = keras.Model(base.input, dense(x))
    means = keras.Model(base.input, x).predict_on_batch(photos(20))
    spread = np.random.default_rng(0).normal(size=(512, 3)) / means.std() / 20
    dense.set_weights([spread.astype(np.float32), np.zeros(3, np.float32)])
    return network


def frozen_layers(vgg16: Weights, last: str) -> tuple[FrozenLayers, list[int]]:
    """Return the layers up to `last`, and a list that is told how many photos they were given."""
    whole = keras_model.convolutions(vgg16.arrays, size=SIDE)
    part = keras.Model(whole.input, whole.get_layer(last).output)
    given: list[int] = []

    def maps(photos: np.ndarray) -> np.ndarray:
        given.append(len(photos))
        return np.asarray(part.predict_on_batch(photos))

    return FrozenLayers(last, vgg16.arrays, maps), given


@pytest.mark.parametrize("last", MAPS)
def test_the_probabilities_are_those_of_the_whole_network(vgg16: Weights, last: str) -> None:
    network = fine_tuned(vgg16)
    frozen, given = frozen_layers(vgg16, last)
    assert begins_with(network, frozen)
    computed = function(network, lambda: frozen)
    for n, computed_by_engine in ((FEWEST, [FEWEST]), (FEWEST - 1, []), (12, [12])):
        given.clear()
        wanted = network.predict_on_batch(photos(n))
        np.testing.assert_allclose(computed(photos(n)), wanted, atol=1e-4)
        assert np.ptp(wanted, axis=0).max() > 0.01
        assert given == computed_by_engine


@pytest.mark.parametrize("there_are", [True, False])
def test_a_network_that_does_not_begin_with_them_is_computed_as_a_whole(
    vgg16: Weights, there_are: bool
) -> None:
    frozen, given = frozen_layers(vgg16, "block4_pool")
    network = with_another("block4_conv1")(vgg16)
    found = function(network, lambda: frozen if there_are else None)(photos(FEWEST))
    np.testing.assert_allclose(found, network.predict_on_batch(photos(FEWEST)), atol=1e-5)
    assert given == []


def test_the_maps_of_a_heatmap_are_those_of_the_whole_network(vgg16: Weights) -> None:
    network = fine_tuned(vgg16)
    frozen, given = frozen_layers(vgg16, "block4_pool")
    wanted = split(network).maps(photos(FEWEST))
    found = split(network, lambda: frozen).maps(photos(FEWEST))
    np.testing.assert_allclose(found, wanted, atol=1e-3 * wanted.max())
    assert given == [FEWEST]


def with_another(name: str) -> Callable[[Weights], keras.Model]:
    def build(vgg16: Weights) -> keras.Model:
        network = fine_tuned(vgg16)
        kernel, bias = network.get_layer(name).get_weights()
        network.get_layer(name).set_weights([kernel * 1.01, bias])
        return network

    return build


@pytest.mark.parametrize(
    ("build", "last", "is_alike"),
    [
        (with_another("block5_conv1"), "block4_pool", True),
        (with_another("block4_conv1"), "block3_pool", True),
        (with_another("block4_conv1"), "block4_pool", False),
        (with_another("block1_conv1"), "block3_pool", False),
        (with_another(keras_model.PREPROCESSING), "block3_pool", False),
        (lambda vgg16: networks.baseline(3), "block3_pool", False),
    ],
    ids=["5", "4", "4 was trained", "1 was trained", "other means", "baseline"],
)
def test_a_network_with_other_first_layers_does_not_begin_with_them(
    vgg16: Weights, build: Callable[[Weights], keras.Model], last: str, is_alike: bool
) -> None:
    frozen, _ = frozen_layers(vgg16, last)
    assert begins_with(build(vgg16), frozen) == is_alike
