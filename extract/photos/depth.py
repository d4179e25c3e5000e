"""Pixels of more than 8 bits, scaled to 8.

A file of 16 bits per value often holds the 10, 12 or 14 bits of a camera or a scanner. Shown as 16
bits, such a photo is nearly black.
"""

import math
import sys
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from extract.photos import containers

DEPTHS = (8, 10, 12, 14, 16)
"""The bits of a value that a file of 16 bits may hold, if it does not say how many they are."""

SCALED = ("JPEG2000", "PPM")
"""Formats that say their largest value, and whose values Pillow scales to 16 bits by it."""

OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
"""Pillow keeps the high byte of a 16-bit colour. In the other order of bytes, that is the low."""

BAND = 500_000
"""Pixels that are converted at once, at least one row of them."""

BITS_PER_SAMPLE, SAMPLES_PER_PIXEL, ROWS_PER_STRIP, MAX_SAMPLE_VALUE = 258, 277, 278, 281
TILE_WIDTH, TILE_LENGTH = 322, 323


def grey(image: Image.Image, data: bytes) -> Image.Image:
    """Scale an image of integers, one for each pixel, to 8 bits of grey.

    The file says how many bits its values have: a TIFF file by BitsPerSample or MaxSampleValue, a
    PNG file by sBIT. If it says nothing, or its values are larger than it says, the fewest bits of
    `DEPTHS` count that hold the largest value. So a 16-bit photo that says nothing and is dark
    everywhere becomes brighter. Negative values are black, and those beyond 16 bits are white.

    Parameters
    ----------
    image : Image
        Of mode I or of one that begins with ``I;16``.
    data : bytes
        The file that it comes from.
    """
    largest = max(int(_values(band).max()) for band in _bands(image))
    bits = _bits(largest, _declared(image, data))
    return in_bands(image, lambda band: Image.fromarray(_scaled(_values(band), bits)), "L")


def scale_colour(image: Image.Image, data: bytes, reopened: Callable[[], Image.Image]) -> None:
    """Scale an image of 16 bits per colour in place if it holds fewer bits, which `grey` explains.

    Pillow has kept the high byte of each value, so that 12 bits leave 16 levels. The low byte comes
    from decoding the file once more. In other images the high bytes are what is wanted.

    Parameters
    ----------
    image : Image
        As Pillow loaded it.
    data : bytes
        The file that it comes from.
    reopened : callable
        Opens the file once more.
    """
    if image.mode not in ("RGB", "RGBA", "LA") or not _is_sixteen_bit(image, data):
        return
    declared = _declared(image, data)
    colours = 1 if image.mode == "LA" else 3
    brightest = max(most for _, most in _extrema(image)[:colours])
    if declared == 16 or brightest >= 2 ** (DEPTHS[-2] - 8):
        return
    low = _low(reopened())
    most = np.max([_sixteen(image, low, box).max((0, 1)) for box in _boxes(image)], 0)
    bits = _bits(int(most[:colours].max()), declared)
    for box in _boxes(image):
        values = _sixteen(image, low, box)
        scaled = _scaled(values, bits)
        if image.mode != "RGB" and most[-1] >= 2**bits:
            scaled[..., -1] = values[..., -1] >> 8
        image.paste(Image.fromarray(scaled), box)
    # It names a colour by its high bytes.
    image.info.pop("transparency", None)


def in_bands(
    image: Image.Image, change: Callable[[Image.Image], Image.Image], mode: str
) -> Image.Image:
    """Change an image that has many pixels one band after the other, which takes less memory.

    Parameters
    ----------
    image : Image
    change : callable
        Returns a changed image of the same size. Each pixel depends on that pixel alone.
    mode : str
        The mode of the result.
    """
    boxes = list(_boxes(image))
    if len(boxes) == 1:
        return change(image)
    result = Image.new(mode, image.size)
    for box in boxes:
        result.paste(change(image.crop(box)), box)
    return result


def largest_tile(image: TiffImagePlugin.TiffImageFile) -> int:
    """Return the bytes that libtiff takes for the largest tile or strip of a TIFF file."""
    if image.tile and image.tile[0].codec_name != "libtiff":
        return 0
    bits = sum(_numbers(image, BITS_PER_SAMPLE)) or 8
    samples = max(_numbers(image, SAMPLES_PER_PIXEL), default=1)
    rows = min(max(_numbers(image, ROWS_PER_STRIP), default=image.height), image.height)
    strip = image.width * rows
    tile = math.prod(max(_numbers(image, tag), default=0) for tag in (TILE_WIDTH, TILE_LENGTH))
    return max(bits, 8 * samples) * max(strip, tile) // 8


def _boxes(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    rows = max(BAND // image.width, 1)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _bands(image: Image.Image) -> Iterator[Image.Image]:
    return (image.crop(box) for box in _boxes(image))


def _values(band: Image.Image) -> NDArray[np.uint16]:
    values: NDArray[np.uint16] = np.clip(np.asarray(band), 0, 65535).astype(np.uint16)
    return values


def _sixteen(
    high: Image.Image, low: Image.Image | None, box: tuple[int, int, int, int]
) -> NDArray[np.uint16]:
    """Return values of which two images hold a byte each; what is midway if one is missing."""
    values = np.asarray(high.crop(box)).astype(np.uint16) * np.uint16(256)
    if low is None:
        return values + np.uint16(128)
    return values + np.asarray(low.crop(box)).astype(np.uint16)


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    """Return the least and the largest value of each channel."""
    return cast(list[tuple[int, int]], list(image.getextrema()))


def _bits(largest: int, declared: int | None) -> int:
    depths = DEPTHS if declared is None else (declared, 16)
    return next((bits for bits in depths if largest < 2**bits), 16)


def _scaled(values: NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
    levels = np.clip(np.arange(65536) / ((2**bits - 1) / 255), 0, 255)
    table: NDArray[np.uint8] = levels.round().astype(np.uint8)
    return table[values]


def _declared(image: Image.Image, data: bytes) -> int | None:
    """Return how many bits the values have, according to the file."""
    if image.format in SCALED:
        return 16
    if image.format == "PNG":
        return max(_significant(data), default=None)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = _numbers(image, BITS_PER_SAMPLE)
        if bits and max(bits) < 16:
            return max(bits)
        largest = max(_numbers(image, MAX_SAMPLE_VALUE), default=0)
        return min(largest.bit_length(), 16) if largest > 255 else None
    return None


def _significant(data: bytes) -> bytes:
    """Return the content of the sBIT chunk of a PNG file; a byte for each channel, its bits."""
    for name, content in containers.png_chunks(data):
        if name == b"sBIT" and all(8 <= bits <= 16 for bits in content):
            return content
        if name == b"IDAT":
            break
    return b""


def _numbers(image: TiffImagePlugin.TiffImageFile, tag: int) -> list[int]:
    try:
        value = image.tag_v2[tag]
    except MemoryError:
        raise
    except Exception:
        return []
    return [one for one in (value if isinstance(value, tuple) else (value,)) if type(one) is int]


def _is_sixteen_bit(image: Image.Image, data: bytes) -> bool:
    if image.format == "PNG":
        return data[24] == 16
    return isinstance(image, TiffImagePlugin.TiffImageFile) and set(
        _numbers(image, BITS_PER_SAMPLE)
    ) == {16}


def _low(image: Image.Image) -> Image.Image | None:
    """Load the low bytes of a freshly opened image; return None if they cannot be had."""
    tiles = []
    for tile in getattr(image, "tile", []):
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        kind, _, order = str(args[0]).rpartition(";16")
        if kind in ("LA", "RGBa") or order not in OTHER_BYTE:
            return None
        swapped = (f"{kind};16{OTHER_BYTE[order]}", *args[1:])
        tiles.append(tile._replace(args=swapped if isinstance(tile.args, tuple) else swapped[0]))
    image.tile = tiles  # type: ignore[attr-defined]
    image.load()
    return image
