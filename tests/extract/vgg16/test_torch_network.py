"""VGG16 in PyTorch alone gives what Keras gives."""

from functools import partial

import numpy as np
import pytest

from extract.engines import keras_engine
from extract.engines.base import TOLERANCE, relative_difference
from extract.vgg16 import weights
from extract.vgg16.recipe import TAPS
from extract.vgg16.weights import Weights
from tests.conftest import Arrays

pytest.importorskip("torch")


def test_taps_and_maps_are_those_of_keras(vgg16_arrays: Arrays) -> None:
    from extract.vgg16.torch_network import Network

    vgg16 = Weights(vgg16_arrays, weights.digest(vgg16_arrays), "random")
    photos = np.random.default_rng(1).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    network = partial(Network, vgg16_arrays)
    expected = keras_engine.build(vgg16, size=96).forward(photos)
    found = network(TAPS)(photos)
    assert {tap: values.dtype for tap, values in found.items()} == dict.fromkeys(TAPS, "float32")
    assert relative_difference(found, expected) < 1e-5
    # The maps are in another format, the taps are not.
    rounded = relative_difference(network(TAPS, dtype="bfloat16")(photos), expected)
    assert TOLERANCE / 10 < rounded < 0.1
    photos = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    expected = keras_engine.build(vgg16, outputs=["block4_pool"]).forward(photos)
    found = network(["block4_pool"])(photos)
    assert relative_difference(found, expected) < 1e-5
