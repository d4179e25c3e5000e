"""The description agrees with the networks that are built from it."""

import numpy as np
import pytest

from extract.vgg16 import keras_model
from extract.vgg16.architecture import TAP_LAYERS, output_shapes, weight_shapes, windows
from extract.vgg16.recipe import SIZES
from tests.conftest import Arrays


@pytest.mark.parametrize("size", [96, 224, 320])
def test_shapes_are_those_of_the_network(size: int, vgg16_arrays: Arrays) -> None:
    network = keras_model.convolutions(vgg16_arrays, size=size)
    for layer, shape in output_shapes(size).items():
        assert network.get_layer(layer).output.shape == (None, *shape)
    taps = keras_model.taps(network, [tap.name for tap in TAP_LAYERS])
    assert {tap.name: (None, tap.width) for tap in TAP_LAYERS} == {
        name: output.shape for name, output in taps.items()
    }


def test_weights_have_the_shapes_of_the_network(vgg16_arrays: Arrays) -> None:
    network = keras_model.convolutions(vgg16_arrays)
    variables = [tuple(variable.shape) for variable in network.trainable_variables]
    assert variables == weight_shapes()


@pytest.mark.parametrize(
    ("size", "window", "stride"), [(96, 1, 1), (160, 3, 1), (224, 3, 2), (320, 4, 3), (448, 6, 4)]
)
def test_windows_of_some_sizes(size: int, window: int, stride: int) -> None:
    assert windows(size) == (window, stride)


@pytest.mark.parametrize("size", SIZES)
def test_three_windows_cover_every_side_to_its_end(size: int) -> None:
    window, stride = windows(size)
    covered = np.add.outer(stride * np.arange(3), np.arange(window))
    assert sorted(set(covered.ravel().tolist())) == list(range(size // 32))
