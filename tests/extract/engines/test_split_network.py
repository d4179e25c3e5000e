import numpy as np
import pytest
from scipy.special import softmax

from extract.engines.split_network import split
from extract.vgg16.keras_backend import keras
from finetune.train import networks


def with_a_top() -> keras.Model:
    """Build a small network that ends like the fine-tuned one: with a network inside it."""
    taps = np.random.default_rng(0).random((20, 18), np.float32)
    photo = keras.Input((24, 24, 3))
    maps = keras.layers.Conv2D(2, 3, padding="same", activation="relu", name="last")(photo)
    pooled = keras.layers.AveragePooling2D(8)(keras.layers.MaxPooling2D(1)(maps))
    top = networks.top(taps, 3, logarithm=True)
    top.layers[-1].set_weights([taps[:18, :3], np.arange(3)])
    return keras.Model(photo, top(keras.layers.Flatten()(pooled)))


@pytest.mark.parametrize(
    ("build", "side"),
    [(with_a_top, 24), (lambda: networks.baseline(3, batch_norm=True), 12)],
    ids=["finetuned", "baseline"],
)
def test_the_parts_of_a_network_give_its_probabilities(build: object, side: int) -> None:
    network = build()  # type: ignore[operator]
    size = network.input_shape[1]
    photos = np.random.default_rng(1).integers(0, 256, (2, size, size, 3), np.uint8)
    parts = split(network)
    maps = parts.maps(photos)
    assert maps.shape[1:3] == (side, side)
    found = softmax(parts.scores(maps), axis=1)
    np.testing.assert_allclose(found, network.predict_on_batch(photos), atol=1e-5)
