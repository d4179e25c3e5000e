"""Values of 8 to 16 bits in files of 16 bits come out at their own brightness."""

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extract.photos.decode import decode_photo

SIDE = 8

LEVELS = np.linspace(0, 255, SIDE * SIDE * 3).round().reshape(SIDE, SIDE, 3)
"""From black to white in three colours, as 8 bits."""

Values = NDArray[np.uint16]


def values(bits: int, channels: int = 3) -> Values:
    """Return LEVELS in more bits."""
    many: Values = (LEVELS * (2**bits - 1) / 255).round().astype(np.uint16)
    return many if channels == 3 else many[..., 0] if channels == 1 else many[..., :channels]


def png(pixels: Values, *, significant: int = 0) -> bytes:
    """Write a PNG file of 16 bits; Pillow writes only grey ones."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, kind, 0, 0, 0))]
    if significant:
        chunks.append((b"sBIT", bytes([significant] * channels)))
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def tiff(pixels: Values, *, order: str = "<", packed: bool = False, largest: int = 0) -> bytes:
    """Write a TIFF file of 16 bits, with MaxSampleValue if `largest` is given."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    content = pixels.astype(f"{order}u2").tobytes()
    content = zlib.compress(content) if packed else content
    after = 8 + 2 + 12 * (10 + bool(largest)) + 4
    entries = [
        *((256, 3, 1, SIDE), (257, 3, 1, SIDE), (258, 3, channels, 16)),
        *((259, 3, 1, 8 if packed else 1), (262, 3, 1, 2 if channels > 1 else 1)),
        *((273, 4, 1, after + 6), (277, 3, 1, channels), (278, 3, 1, SIDE)),
        (279, 4, 1, len(content)),
        *([(281, 3, 1, largest)] if largest else []),
        (284, 3, 1, 1),
    ]
    directory = b""
    for tag, kind, count, value in entries:
        # Three values of BitsPerSample lie after the directory.
        far = (tag, count) == (258, 3)
        stored = ("I", after) if far else ("HH", value, 0) if kind == 3 else ("I", value)
        directory += struct.pack(f"{order}HHI", tag, kind, count)
        directory += struct.pack(order + stored[0], *stored[1:])
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return head + directory + bytes(4) + struct.pack(f"{order}HHH", 16, 16, 16) + content


def grey(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.repeat(levels[..., :1], 3, axis=2)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_fewer_bits_in_sixteen_are_scaled(bits: int) -> None:
    brightest = values(bits, 1)
    brightest[0, 0] = 2**bits - 1
    expected = grey(LEVELS)
    expected[0, 0] = 255
    for content in (png(brightest), tiff(brightest), tiff(brightest, order=">")):
        np.testing.assert_array_equal(decode_photo(content, size=SIDE), expected)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_fewer_bits_in_sixteen_are_scaled_in_colour_and_not_cut_to_a_few_levels(bits: int) -> None:
    colours = values(bits)
    for content in (
        png(colours),
        tiff(colours),
        tiff(colours, order=">"),
        tiff(colours, packed=True),
    ):
        np.testing.assert_array_equal(decode_photo(content, size=SIDE), LEVELS)


@pytest.mark.parametrize("opaque", [2**12 - 1, 65535])
def test_fewer_bits_in_sixteen_with_transparency(opaque: int) -> None:
    alpha = np.full((SIDE, SIDE, 1), opaque, np.uint16)
    found = decode_photo(png(np.dstack([values(12), alpha])), size=SIDE)
    np.testing.assert_array_equal(found, LEVELS)
    clear = decode_photo(png(np.dstack([values(12), alpha * 0])), size=SIDE)
    assert clear.min() == 255
    two = decode_photo(png(np.dstack([values(12, 1), alpha])), size=SIDE).astype(int)
    assert np.abs(two - grey(LEVELS)).max() <= 16


def test_sixteen_bits_are_scaled_as_ever() -> None:
    high = values(16) >> 8
    np.testing.assert_array_equal(decode_photo(png(values(16)), size=SIDE), high)
    np.testing.assert_array_equal(decode_photo(tiff(values(16)), size=SIDE), high)
    just = np.full((SIDE, SIDE, 3), 2**14, np.uint16)
    assert np.unique(decode_photo(png(just), size=SIDE)) == [64]
    assert np.unique(decode_photo(png(just[..., 0]), size=SIDE)) == [64]


@pytest.mark.parametrize("channels", [1, 3])
def test_what_the_file_says_of_its_bits_counts_more_than_its_largest_value(channels: int) -> None:
    dark = np.full((SIDE, SIDE) if channels == 1 else (SIDE, SIDE, channels), 1000, np.uint16)
    for content, expected in [
        (png(dark), 249),
        (png(dark, significant=12), 62),
        (png(dark, significant=16), 1000 / 257),
        (png(dark, significant=9), 1000 / 257),
        (tiff(dark), 249),
        (tiff(dark, largest=4000), 62),
        (tiff(dark, largest=65535), 1000 / 257),
    ]:
        found = np.unique(decode_photo(content, size=SIDE))
        assert abs(int(found[0]) - expected) < 1
        assert len(found) == 1


def test_a_black_picture_stays_black() -> None:
    black = np.zeros((SIDE, SIDE, 3), np.uint16)
    for content in (png(black), tiff(black), png(black[..., 0])):
        assert decode_photo(content, size=SIDE).max() == 0


def test_thirty_two_bits_are_cut_at_sixteen() -> None:
    for value, expected in [(-5, 0), (128 * 257, 128), (1_000_000, 255)]:
        file = io.BytesIO()
        Image.fromarray(np.full((4, 4), value, np.int32)).save(file, "TIFF")
        assert np.unique(decode_photo(file.getvalue(), size=4)) == [expected]


def test_a_format_that_states_its_largest_value_is_left_to_it() -> None:
    content = b"P5\n2 2\n4095\n" + np.full((2, 2), 100, ">u2").tobytes()
    assert np.unique(decode_photo(content, size=2)) == [6]
