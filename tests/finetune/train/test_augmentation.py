"""Augmentation: what each variation does to a photo, and within which bounds it is drawn."""

import math

import numpy as np
import pytest

from finetune.train import augmentation
from finetune.train.augmentation import UNVARIED, Variation, draw, vary


def noise(size: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [1, 16, 41])
def test_a_photo_that_is_not_varied_stays_as_it_is(size: int) -> None:
    np.testing.assert_array_equal(vary(noise(size), UNVARIED), noise(size))


def test_a_mirrored_photo_has_left_and_right_swapped() -> None:
    np.testing.assert_array_equal(vary(noise(), UNVARIED._replace(mirrored=-1)), noise()[:, ::-1])


def test_a_shifted_photo_goes_on_with_its_reflection() -> None:
    varied = vary(noise(), UNVARIED._replace(right=0.1, down=-0.05))
    expected = np.pad(noise(), ((0, 2), (4, 0), (0, 0)), mode="symmetric")[2:, :40]
    np.testing.assert_array_equal(varied, expected)


def test_contrast_widens_the_differences_from_the_mean_and_stays_within_bounds() -> None:
    photo = np.full((8, 8, 3), 100, np.uint8)
    photo[:4] = 140
    varied = vary(photo, UNVARIED._replace(contrast=1.2))
    assert np.unique(varied).tolist() == [96, 144]
    assert np.unique(vary(noise(), UNVARIED._replace(contrast=1.2)))[[0, -1]].tolist() == [0, 255]


@pytest.mark.parametrize(("angle", "zoom"), [(math.radians(18), 1.0), (0.0, 1.2), (-0.2, 0.8)])
def test_a_slope_is_turned_and_zoomed(angle: float, zoom: float) -> None:
    y, x = np.mgrid[-20:20, -20:20] + 0.5
    photo = np.repeat((128 + 2 * x + y)[..., None], 3, axis=2).astype(np.uint8)
    varied = vary(photo, UNVARIED._replace(angle=angle, zoom=zoom)).astype(float)
    cosine, sine = zoom * math.cos(angle), zoom * math.sin(angle)
    expected = 128 + 2 * (cosine * x - sine * y) + (sine * x + cosine * y)
    # At the edges there are reflections.
    inside = slice(10, 30)
    np.testing.assert_allclose(varied[inside, inside, 0], expected[inside, inside], atol=1.5)


def test_the_strongest_variations_show_nothing_but_the_photo() -> None:
    white = np.full((32, 32, 3), 255, np.uint8)
    for corner in range(8):
        right, down, turned = (1 if corner >> bit & 1 else -1 for bit in range(3))
        strongest = Variation(
            mirrored=1,
            angle=turned * augmentation.LARGEST_ANGLE,
            zoom=1 + augmentation.LARGEST_ZOOM,
            right=right * augmentation.LARGEST_SHIFT,
            down=down * augmentation.LARGEST_SHIFT,
            contrast=1,
        )
        assert vary(white, strongest).min() == 255


def test_variations_are_drawn_evenly_within_their_bounds() -> None:
    drawn = draw(np.random.default_rng(0), 4000)
    assert sorted(set(drawn[:, 0])) == [-1, 1]
    np.testing.assert_allclose(drawn.mean(axis=0), [0, 0, 1, 0, 0, 1], atol=0.05)
    lowest, highest = drawn.min(axis=0), drawn.max(axis=0)
    angle = math.radians(18)
    np.testing.assert_allclose(lowest, [-1, -angle, 0.8, -0.1, -0.1, 0.8], atol=2e-3)
    np.testing.assert_allclose(highest, [1, angle, 1.2, 0.1, 0.1, 1.2], atol=2e-3)
