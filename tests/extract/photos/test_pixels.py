"""Features of other pixels never lie among those of the expected ones."""

from collections.abc import Iterator

import numpy as np
import pytest

from extract.photos import decode, pixels
from extract.vgg16.recipe import joint_digest, pixels_note, recipe, recipe_digest


@pytest.fixture
def other_pixels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Pillow scale photos as another version might."""
    square = decode.square
    monkeypatch.setattr(decode, "square", lambda *a, **k: square(*a, **k) ^ np.uint8(1))
    pixels.differences.cache_clear()
    yield
    pixels.differences.cache_clear()


def test_this_pillow_makes_the_pixels_of_the_caches_that_exist() -> None:
    assert pixels.differences() == {}
    assert pixels_note() == ""
    expected = "02f206808a0861edfe23a43bd168d53022ce184ab09abf1077deed28f02eb8e4"
    assert recipe_digest(recipe("0" * 64)) == expected


def test_other_pixels_make_another_recipe_and_are_told(
    other_pixels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = recipe("0" * 64)
    assert set(other["pixels_differ"]) == set(pixels.EXPECTED)
    assert "kept apart from earlier ones; to go on with those, run pip install" in pixels_note()
    monkeypatch.undo()
    pixels.differences.cache_clear()
    assert recipe_digest(other) != recipe_digest(recipe("0" * 64))
    assert joint_digest([other]) == recipe_digest(other)


def test_an_image_that_this_pillow_cannot_read_makes_no_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(data: bytes, *, size: int) -> None:
        raise decode.Unreadable("no WebP")

    monkeypatch.setattr(decode, "decode_photo", refuse)
    pixels.differences.cache_clear()
    assert pixels.differences() == {}
    pixels.differences.cache_clear()
