import numpy as np
import pytest

from classify.heatmaps import hiding


@pytest.mark.parametrize("size", [(224, 224), (128, 128), (90, 41)])
def test_the_hottest_fifth_is_a_fifth_and_lies_where_the_heat_is(size: tuple[int, int]) -> None:
    heat = np.zeros((14, 14))
    heat[:4, 9:] = 1
    mask = hiding.hottest(heat, size)
    assert mask.shape == size[::-1]
    assert mask.sum() == round(0.2 * mask.size)
    assert mask[0, -1]
    inside = mask[: size[1] // 2, size[0] // 2 :].sum()
    assert inside > 0.6 * mask.sum()


def test_the_random_fifth_has_the_same_shape_elsewhere_and_one_place_at_all_sizes() -> None:
    heat = np.zeros((14, 14))
    heat[2:8, 3:9] = 1
    places = set()
    for seed in range(20):
        small, large = (hiding.hottest(heat, (side, side)) for side in (100, 200))
        moved = [hiding.elsewhere(mask, seed) for mask in (small, large)]
        assert moved[0].sum() == small.sum()
        assert (moved[0] == moved[1][::2, ::2]).mean() > 0.97
        places.add(moved[0].tobytes())
    assert len(places) == 20


def test_what_is_hidden_gets_the_mean_colour_and_the_rest_stays() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    mask = np.zeros((20, 20), bool)
    mask[5:10, 5:10] = True
    hidden = hiding.hide(photo, mask)
    assert (hidden[~mask] == photo[~mask]).all()
    assert np.ptp(hidden[mask], axis=0).max() == 0
    np.testing.assert_allclose(hidden[5, 5], photo.mean((0, 1)), atol=1)
