"""Heatmaps: each is what its model loses without each place, whatever the model is."""

from typing import Any

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from classify import heads
from classify.heads import LeastSquaresSVC
from classify.heatmaps import evidence
from classify.serving import heatmaps
from classify.serving.model import Model, joined
from extract.engines.split_network import split
from extract.system.console import InputError
from extract.vgg16 import pooling
from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import TAPS, named, plain, size_of

SIZES = (224, 96)
USED = [("block5_avg3x3", 224), ("block4_max", 224), ("block3_avg", 96)]
CHANNELS = {"block5_conv3": 512, "block4_conv3": 512, "block3_conv3": 256}


class Fake:
    """Takes the place of VGG16: its maps are random, and the same for the same photo."""

    def __init__(self, size: int) -> None:
        self.size = size

    def maps(self, photos: np.ndarray) -> dict[str, np.ndarray]:
        found = []
        for photo in photos:
            random = np.random.default_rng(int(photo.sum()))
            side = self.size // 16
            maps = {
                name: random.random((side * each, side * each, channels), np.float32)
                for (name, channels), each in zip(CHANNELS.items(), (1, 2, 4), strict=True)
            }
            found.append(maps)
        return {name: np.stack([maps[name] for maps in found]) for name in CHANNELS}


def head_of_two_sizes() -> Pipeline:
    widths = {named(tap, size): TAPS[tap] for tap, size in USED}
    random = np.random.default_rng(1)
    X = random.random((12, sum(widths.values())), np.float32)
    preparation = heads.preparation(widths, root=True)
    rows = preparation.fit_transform(X)
    classifier = LeastSquaresSVC(0.01).fit(rows, np.arange(12) % 3)
    return Pipeline([*preparation.steps, ("svm", classifier)])


def scores(head: Pipeline, maps: dict[int, dict[str, np.ndarray]]) -> np.ndarray:
    taps = {
        tap: pooling.taps(maps[size_of(tap)], [plain(tap)])[plain(tap)]
        for tap in heads.tap_columns(head)
    }
    return heads.scores(head[-1], head[:-1].transform(joined(head, taps)))


def test_the_heat_of_a_head_of_two_sizes_is_what_it_loses_at_both() -> None:
    head = head_of_two_sizes()
    result: Any = None
    vgg16: Any = {size: Fake(size) for size in SIZES}

    def probabilities(photos: list[Any]) -> np.ndarray:
        return np.full((len(photos), 3), 1 / 3, np.float32)

    model = Model(result, dict.fromkeys(SIZES, ()), probabilities, vgg16, head)
    photo = {size: np.full((size, size, 3), 7, np.uint8) for size in SIZES}
    (found,) = heatmaps.heatmaps(model, [photo], [0])
    assert found.heat.shape == (14, 14)

    maps = {
        size: {name: values[0] for name, values in one.maps(photo[size][None]).items()}
        for size, one in vgg16.items()
    }
    whole = scores(head, maps)
    assert found.label == whole.argmax()
    odds = evidence.log_odds(whole, found.label)[0]
    lost = {}
    for size, (row, column) in [(224, (3, 8)), (96, (1, 4))]:
        zeroed = {one: dict(layers) for one, layers in maps.items()}
        for name, each in zip(CHANNELS, (1, 2, 4), strict=True):
            values = zeroed[size][name].copy()
            rows = slice(row * each, (row + 1) * each)
            values[rows, column * each : (column + 1) * each] = 0
            zeroed[size][name] = values
        lost[size] = odds - evidence.log_odds(scores(head, zeroed), found.label)[0]
    ((_, without),) = heatmaps.looks(model, [photo])
    large, small = (evidence.evidence(whole, rows, found.label) for rows in without)
    assert large[3, 8] == pytest.approx(lost[224], abs=1e-4)
    assert small[1, 4] == pytest.approx(lost[96], abs=1e-4)
    assert found.heat.sum() == pytest.approx(large.sum() + small.sum(), rel=0.05, abs=0.05)


@pytest.fixture
def corner() -> keras.Model:
    """Return a network whose second class is a bright upper left corner."""
    photo = keras.Input((32, 32, 3))
    maps = keras.layers.Conv2D(1, 4, strides=4, activation="relu")(photo)
    rows = keras.layers.Dropout(0.5)(keras.layers.Flatten()(maps))
    network = keras.Model(photo, keras.layers.Dense(2, activation="softmax")(rows))
    kernel = np.zeros((8, 8, 2), np.float32)
    kernel[:3, :3, 1] = 1
    network.layers[1].set_weights([np.full((4, 4, 3, 1), 1 / 48 / 255), np.zeros(1)])
    network.layers[-1].set_weights([kernel.reshape(64, 2), np.array([2.0, 0.0])])
    return network


def of_network(network: keras.Model) -> Model:
    result: Any = type("Result", (), {"model": "tiny"})()

    def probabilities(photos: list[Any]) -> np.ndarray:
        pixels = np.stack([photo[32].photo for photo in photos])
        return np.asarray(network.predict_on_batch(pixels))

    return Model(result, {32: ()}, probabilities, split=lambda: split(network))


def test_a_network_that_reads_a_corner_is_shown_to_look_there(corner: keras.Model) -> None:
    photo = np.zeros((32, 32, 3), np.uint8)
    photo[:16, :16] = 255
    (found,) = heatmaps.heatmaps(of_network(corner), [{32: photo}], [3])
    expected = np.zeros((8, 8))
    expected[:3, :3] = 1
    np.testing.assert_allclose(found.heat, expected, atol=1e-4)
    assert found.label == 1
    assert found.probability == pytest.approx(1 / (1 + np.exp(2 - 9)), abs=1e-4)
    # Hidden, the corner has the mean brightness of the photo, a quarter.
    assert found.without_hottest < 0.7
    assert found.without_random > 0.9


def test_a_network_that_ends_in_no_softmax_has_no_heatmap(corner: keras.Model) -> None:
    cut = keras.Model(corner.input, corner.layers[-2].output)
    with pytest.raises(InputError, match="tiny: no heatmap of this network"):
        list(heatmaps.heatmaps(of_network(cut), [{32: np.zeros((32, 32, 3), np.uint8)}], [0]))
