"""Pixels of more than 8 bits, scaled to 8.

A file of 16 bits per value often holds the 10, 12 or 14 bits of a camera or a scanner. Shown as 16
bits, such a photo is nearly black.
"""

import sys
from collections.abc import Callable
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

BITS_PER_SAMPLE, MAX_SAMPLE_VALUE = 258, 281


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
    values = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
    bits = _bits(int(values.max()), _declared(image, data))
    return Image.fromarray(_scaled(values, bits))


def colour(
    image: Image.Image, data: bytes, reopened: Callable[[], Image.Image]
) -> Image.Image | None:
    """Scale an image of 16 bits per colour that holds fewer bits, which `grey` explains.

    Pillow has kept the high byte of each value, so that 12 bits leave 16 levels. The low byte comes
    from decoding the file once more.

    Parameters
    ----------
    image : Image
        As Pillow loaded it.
    data : bytes
        The file that it comes from.
    reopened : callable
        Opens the file once more.

    Returns
    -------
    Image or None
        None if the image is not one of those, so that its high bytes are what is wanted.
    """
    if image.mode not in ("RGB", "RGBA", "LA") or not _is_sixteen_bit(image, data):
        return None
    declared = _declared(image, data)
    brightest = max(band[1] for band in _extrema(image)[: 1 if image.mode == "LA" else 3])
    if declared == 16 or brightest >= 2 ** (DEPTHS[-2] - 8):
        return None
    values = np.asarray(image).astype(np.uint16) * np.uint16(256) + _low(reopened())
    colours = values.shape[-1] - (image.mode != "RGB")
    bits = _bits(int(values[..., :colours].max()), declared)
    scaled = _scaled(values, bits)
    if image.mode != "RGB" and values[..., -1].max() >= 2**bits:
        scaled[..., -1] = values[..., -1] >> 8
    return Image.fromarray(scaled)


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    return [cast(tuple[int, int], band.getextrema()) for band in image.split()]


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
    except Exception:
        return []
    return [one for one in (value if isinstance(value, tuple) else (value,)) if type(one) is int]


def _is_sixteen_bit(image: Image.Image, data: bytes) -> bool:
    if image.format == "PNG":
        return data[24] == 16
    return isinstance(image, TiffImagePlugin.TiffImageFile) and set(
        _numbers(image, BITS_PER_SAMPLE)
    ) == {16}


def _low(image: Image.Image) -> NDArray[np.uint16] | np.uint16:
    """Return the low bytes of a freshly opened image, or what is midway if they cannot be had."""
    tiles = []
    for tile in getattr(image, "tile", []):
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        kind, _, order = str(args[0]).rpartition(";16")
        if kind in ("LA", "RGBa") or order not in OTHER_BYTE:
            return np.uint16(128)
        swapped = (f"{kind};16{OTHER_BYTE[order]}", *args[1:])
        tiles.append(tile._replace(args=swapped if isinstance(tile.args, tuple) else swapped[0]))
    image.tile = tiles  # type: ignore[attr-defined]
    image.load()
    return np.asarray(image).astype(np.uint16)
