import base64
import io

import numpy as np
import pytest
from PIL import Image

from classify.heatmaps import picture


@pytest.mark.parametrize("size", [(300, 60), (60, 300)])
def test_colour_lies_where_the_heat_is_in_photos_of_any_shape(size: tuple[int, int]) -> None:
    heat = np.full((14, 14), -1.0)
    heat[:7, 7:] = 1
    shown = picture.overlaid(Image.new("RGB", size, (200, 100, 50)), heat)
    assert shown.size == size
    colours = np.asarray(shown).astype(int)
    width, height = size
    hot = colours[height // 4, 3 * width // 4]
    assert hot[0] - hot[2] > 50
    for x, y in [(width // 4, height // 4), (width // 4, 3 * height // 4), (3 * width // 4, -3)]:
        assert np.ptp(colours[y, x]) == 0


def test_a_photo_without_any_heat_stays_grey() -> None:
    shown = picture.overlaid(Image.new("RGB", (50, 50), (10, 20, 30)), -np.ones((14, 14)))
    greys = np.ptp(np.asarray(shown).astype(int), axis=-1) == 0
    # The line is there all the same, because some fifth is the hottest.
    assert greys.mean() > 0.6


def test_a_data_uri_holds_the_picture() -> None:
    uri = picture.as_uri(Image.new("RGB", (40, 30)))
    head, data = uri.split(",")
    assert head == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (40, 30)
