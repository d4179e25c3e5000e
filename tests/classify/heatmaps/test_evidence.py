import numpy as np
import pytest

from classify.heatmaps import evidence
from classify.heatmaps.evidence import Map
from extract.vgg16 import pooling
from extract.vgg16.architecture import output_shapes
from extract.vgg16.recipe import ALL_TAPS, PAIRS, TAPS

SIDES = {"block5_conv3": 1, "block4_conv3": 2, "block3_conv3": 4}


def maps(side: int, seed: int = 0) -> dict[str, Map]:
    random = np.random.default_rng(seed)
    channels = {name: output_shapes(96)[name][2] for name in SIDES}
    return {
        name: random.standard_normal((side * each, side * each, channels[name]), np.float32).clip(0)
        for name, each in SIDES.items()
    }


@pytest.mark.parametrize("side", [6, 14])
def test_taps_without_a_place_are_those_of_maps_with_zeros_there(side: int) -> None:
    whole = maps(side)
    found = evidence.taps_without(whole, ALL_TAPS)
    for row, column in [(0, 0), (side - 1, 1), (2, side - 1), (side // 2, side // 2)]:
        zeroed = {name: values.copy() for name, values in whole.items()}
        for name, each in SIDES.items():
            rows = slice(row * each, (row + 1) * each)
            zeroed[name][rows, column * each : (column + 1) * each] = 0
        for name, values in pooling.taps(zeroed, ALL_TAPS).items():
            place = found[name][row * side + column]
            np.testing.assert_allclose(place, values[0], rtol=1e-4, atol=1e-6)


def test_no_tap_falls_below_zero_if_a_channel_is_active_at_one_place_only() -> None:
    whole = maps(6)
    for values in whole.values():
        values[1:] = values[:, 1:] = 0
    found = evidence.taps_without(whole, ALL_TAPS)
    assert all((found[name] >= 0).all() for name in TAPS)
    assert all(np.isfinite(found[name]).all() for name in PAIRS)


def test_maps_without_zero_each_place_once() -> None:
    values = np.ones((2, 3, 4), np.float32)
    without = np.concatenate([*evidence.maps_without(values)])
    assert without.shape == (6, 2, 3, 4)
    zeros = np.argwhere((without == 0).all(-1))
    assert zeros.tolist() == [[i, i // 3, i % 3] for i in range(6)]
    assert values.all()


def test_log_odds_are_those_of_the_softmax_and_never_stand_still() -> None:
    scores = np.array([[1.0, 2.0, 0.5], [60.0, 0.0, 0.0], [61.0, 0.0, 0.0]], np.float32)
    p = np.exp(scores[0]) / np.exp(scores[0]).sum()
    odds = evidence.log_odds(scores, 0)
    assert odds[0] == pytest.approx(np.log(p[0] / (1 - p[0])))
    assert odds[2] - odds[1] == pytest.approx(1)


def test_evidence_is_positive_where_a_class_loses_without_the_place() -> None:
    without = np.array([[0, 0], [2, 0], [3, 0], [2, 0]], np.float32)
    found = evidence.evidence(np.array([[2, 0]], np.float32), without, 0)
    np.testing.assert_allclose(found, [[2, 0], [-1, 0]])
