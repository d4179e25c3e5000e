"""Decode image files to pixels, or say why a file gives no picture."""

import ctypes
import io
import logging
import warnings
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, _imaging

# Pillow warns about odd palettes, EXIF blocks and sizes. Here an unusable photo raises Unreadable.
warnings.filterwarnings("ignore", module="PIL")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
# libtiff writes to the terminal what is wrong with a file, but not with which.
with suppress(AttributeError):
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)

DRAFT = 3
"""A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if this many times the result remains."""

QUALITY = 60
"""The WebP quality of thumbnails, 0 to 100."""


class Unreadable(Exception):
    """A file gives no picture; the message is the reason."""


def decode_photo(data: bytes, *, size: int) -> NDArray[np.uint8]:
    """Turn the bytes of an image file into a square RGB array.

    The photo is squashed to a square, not cropped, so that no part of the object is lost. See
    `upright` for the rest.

    Returns
    -------
    ndarray of shape (size, size, 3), uint8
        RGB, 0..255.
    """
    return square(upright(data, size=size), size=size)


def upright(data: bytes, *, size: int) -> Image.Image:
    """Turn the bytes of an image file into an RGB image that keeps its proportions.

    The EXIF rotation is applied, transparency is laid over white, 16-bit grey is scaled to 8 bits,
    and an animation gives its first frame.

    A large JPEG is decoded at a fraction of its size, which its format makes cheap. For the 133
    large JPEGs of `chess`, this changed the pixels of a photo by at most 0.75 of 255 levels on
    average.

    Parameters
    ----------
    data : bytes
        The whole file, in any format that Pillow reads.
    size : int
        Side in pixels of the square that the photo will be squashed to.

    Raises
    ------
    Unreadable
        If the bytes give no picture; the message is the reason.
    """
    if not data:
        raise Unreadable("empty file")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft(None, (DRAFT * size, DRAFT * size))
            return _rgb(ImageOps.exif_transpose(image))
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable("not an image file that Pillow can read") from error
    except Image.DecompressionBombError as error:
        raise Unreadable("more pixels than is safe to decode") from error
    # A damaged file makes Pillow raise almost anything: OSError, SyntaxError, struct.error,
    # IndexError, zlib.error and more.
    except Exception as error:
        raise Unreadable(f"damaged image: {error}") from error


def thumbnail(data: bytes, *, size: int) -> bytes:
    """Turn the bytes of an image file into a small WebP file, for a person to look at.

    The picture is converted as `upright` does it, and keeps its proportions.

    Parameters
    ----------
    data : bytes
        The whole file, in any format that Pillow reads.
    size : int
        The largest side of the result in pixels.

    Raises
    ------
    Unreadable
        If the bytes give no picture; the message is the reason.
    """
    rgb = upright(data, size=size)
    rgb.thumbnail((size, size))
    file = io.BytesIO()
    rgb.save(file, "WEBP", quality=QUALITY)
    return file.getvalue()


def square(rgb: Image.Image, *, size: int) -> NDArray[np.uint8]:
    """Squash an RGB image to a square: shape (size, size, 3), uint8."""
    return np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit values at 255 instead of scaling them.
        grey = np.clip(np.asarray(image, dtype=np.float64), 0, 65535) / 257
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise Unreadable("floating-point pixels have no fixed range; convert it to 8 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
