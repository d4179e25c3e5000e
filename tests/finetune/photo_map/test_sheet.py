import io

import numpy as np
import pytest
from PIL import Image

from finetune.photo_map import sheet
from tests.conftest import picture


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_each_picture_lies_in_the_corner_of_its_square() -> None:
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]
    shapes = [(400, 200), (30, 60), (5, 5)]
    pictures = [png(Image.new("RGB", *given)) for given in zip(shapes, colours, strict=True)]
    made = sheet.sheet([*pictures[:2], None, *[pictures[2]] * 30])
    side = made.side
    assert made.shapes[:4] == [(1, 0.5), (0.5, 1), None, (1, 1)]
    assert made.rows == 2
    with Image.open(io.BytesIO(made.webp)) as whole:
        assert whole.size == (32 * side, 2 * side)
        pixels = np.asarray(whole.convert("RGB"), int)
    for square, colour in ((0, colours[0]), (1, colours[1]), (3, colours[2])):
        width, height = (round(share * side) for share in made.shapes[square] or ())
        part = pixels[4 : height - 4, square * side + 4 : square * side + width - 4]
        assert np.abs(part - colour).max() < 25
    assert np.abs(pixels[side + 4 : side + 9, 4:9] - colours[2]).max() < 25


def test_squares_become_smaller_until_the_file_is_small_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures = [png(picture(i, size=(96, 96))) for i in range(4)]
    large = sheet.sheet(pictures)
    assert large.side == sheet.SIDES[0]
    monkeypatch.setattr(sheet, "MOST_BYTES", len(large.webp) // 3)
    small = sheet.sheet(pictures)
    assert small.side < large.side
    assert len(small.webp) <= sheet.MOST_BYTES
