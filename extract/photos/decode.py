"""Decode image files to pixels, or say why a file gives no picture."""

import contextlib
import ctypes
import functools
import io
import logging
import re
import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from extract.photos import containers, depth
from extract.system import memory

# Pillow warns about odd palettes, EXIF blocks and sizes. Here an unusable photo raises Unreadable.
warnings.filterwarnings("ignore", module="PIL")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
# libtiff, inside Pillow, writes to the terminal what is wrong with a file, but not with which.
with contextlib.suppress(OSError, AttributeError):
    for handler in ("TIFFSetWarningHandler", "TIFFSetErrorHandler"):
        getattr(ctypes.CDLL(Image.core.__file__), handler)(None)  # type: ignore[attr-defined]

# Pillow hands over bytes in blocks of this size, and threads wait for one another between them.
ImageFile.MAXBLOCK = 1 << 20

DRAFT = 3
"""A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if this many times the result remains."""

QUALITY = 60
"""The WebP quality of thumbnails, 0 to 100."""

PIXEL = 8
"""Bytes of memory for each pixel: 4 as decoded, and 4 as RGB, turned upright or with their low
bytes."""

PIXEL_OF = {"JPEG2000": 28, "WEBP": 16, "AVIF": 16, "HEIF": 16}
"""The same for formats whose library keeps copies. Measured: 24.6, 16.1, 11.9 for AVIF."""

FRUGAL = ("JPEG", "MPO", "PNG", "TIFF", "GIF", "BMP", "DIB", "PPM", "TGA", "PCX", "PSD", "SGI")
"""Formats that take no more than `PIXEL`. Rare ones may take twice as much."""

RARE = 25_000_000
"""The most pixels of an image of any other format, or of `AS_TEXT`. Some are decoded by Python
code, which does about a million pixels in a second."""

AS_TEXT = (b"P1", b"P2", b"P3")
"""PPM files that begin so have their pixels written in digits."""

ICONS = (b"\0\0\1\0", b"\0\0\2\0", b"icns")
"""Files that begin so hold images of other formats, whose size may be another than they say."""

LARGEST_ICON = 4096 * 4096
"""Pillow decodes an icon as it opens the file, before anything else can be asked."""

MOST_SCANS = 100
"""A JPEG with more scans is refused, because each takes as long as the whole picture. The usual
progressive JPEG has 10."""

OTHER_PROGRAMS = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
"""Formats that Pillow identifies, but decodes only with another program, or hands to another
format. None of them is opened, so that no file starts Ghostscript."""

NOT_PHOTOS = {
    b"%!PS": "a drawing (PostScript)",
    b"\xc5\xd0\xd3\xc6": "a drawing (PostScript)",
    b"\xd7\xcd\xc6\x9a": "a drawing (Windows metafile)",
    b"%PDF-": "a document (PDF)",
    b"GRIB": "weather data (GRIB)",
    b"BUFR": "weather data (BUFR)",
    b"\x89HDF\r\n\x1a\n": "numbers (HDF5)",
    b"\0\0\x01\xb3": "a film (MPEG)",
    b"\0\0\x01\xba": "a film (MPEG)",
}
"""What files are that begin with these bytes."""

UNMISTAKABLE = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "JPEG2000", "PSD", "AVIF", "HEIF")
"""Formats with so many first bytes of their own that nothing else begins with them."""

HEIF_BRANDS = {
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"),
}

UNSUPPORTED = re.compile(r"(?i)\b(unsupported|unimplemented|unknown|cannot handle)\b")
"""What Pillow says of a file that may be whole."""

XMP_ORIENTATION = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])""")

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, for each EXIF orientation."""


Made = TypeVar("Made")


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
    return _converted(data, size, functools.partial(square, size=size))


def upright(data: bytes, *, size: int) -> Image.Image:
    """Turn the bytes of an image file into an RGB image that keeps its proportions.

    The rotation of EXIF or XMP is applied, transparency is laid over white, values of more than 8
    bits are scaled as `extract.photos.depth` says, and an animation gives its first frame. A file
    with damaged metadata is decoded without them.

    A large JPEG is decoded at a fraction of its size, which its format makes cheap. For the 133
    large JPEGs of `chess`, this changed the pixels of a photo by at most 0.75 of 255 levels on
    average.

    Parameters
    ----------
    data : bytes
        The whole file, in any format that Pillow reads, or HEIC if pi-heif is installed.
    size : int
        Side in pixels of the square that the photo will be squashed to.

    Raises
    ------
    Unreadable
        If the bytes give no picture, or one that would take too much memory or time; the message
        is the reason.
    OutOfMemory
        If there is not enough memory at the moment, which says nothing about the photo.
    """
    return _converted(data, size, lambda rgb: rgb)


def thumbnail(data: bytes, *, size: int) -> bytes:
    """Turn the bytes of an image file into a small WebP file, for a person to look at.

    The picture is converted as `upright` does it, and keeps its proportions.

    Parameters
    ----------
    data : bytes
        The whole file, in any format that `upright` reads.
    size : int
        The largest side of the result in pixels.

    Raises
    ------
    Unreadable, OutOfMemory
        As `upright` does it.
    """
    return _converted(data, size, functools.partial(_thumbnail, size=size))


def square(rgb: Image.Image, *, size: int) -> NDArray[np.uint8]:
    """Squash an RGB image to a square: shape (size, size, 3), uint8."""
    return np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR))


@functools.cache
def formats() -> tuple[str, ...]:
    """Return the names of the formats that are decoded; HEIF is one if pi-heif is installed."""
    try:
        import pi_heif
    except ImportError:
        pass
    else:
        pi_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in Image.ID if name not in OTHER_PROGRAMS)


def why_no_photo(start: bytes) -> str:
    """Return the reason if no photo begins with these bytes, or nothing if one may.

    Parameters
    ----------
    start : bytes
        At least the first 5,000 bytes of a file, in which every format shows itself.
    """
    if start.startswith(containers.JPEG):
        return ""
    without_mark = []
    for name in formats():
        accepts = Image.OPEN[name][1]
        if accepts is None:
            without_mark.append(name)
        elif accepts(start[:16]) is True:
            return ""
    try:
        Image.open(io.BytesIO(start), formats=without_mark)
    except UnidentifiedImageError as error:
        return _kind(start) or _reason(start, error)
    except Exception:
        return ""
    return ""


def _converted(data: bytes, size: int, finish: Callable[[Image.Image], Made]) -> Made:
    """Decode a photo and finish it while its memory is reserved; see `upright`."""
    if not data:
        raise Unreadable("empty file")
    try:
        return _decoded(data, size, finish)
    except (Unreadable, memory.OutOfMemory):
        raise
    # A damaged file makes Pillow raise almost anything: OSError, SyntaxError, struct.error,
    # IndexError, zlib.error and more.
    except Exception as error:
        bare = containers.without_metadata(data)
        if bare == data:
            raise Unreadable(_reason(data, error)) from error
        first = error
    try:
        return _decoded(bare, size, finish)
    except (Unreadable, memory.OutOfMemory):
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(_reason(data, first)) from error
    except Exception as error:
        raise Unreadable(_reason(data, error)) from error


def _decoded(data: bytes, size: int, finish: Callable[[Image.Image], Made]) -> Made:
    if data.startswith(b"RIFF"):
        # The library takes memory for two pictures as soon as it opens the file.
        _refuse_too_many(containers.webp_pixels(data))
    elif data.startswith(ICONS) and containers.largest_part(data) > LARGEST_ICON:
        raise Unreadable("icon with more pixels than is safe to decode")
    with memory.watched(3 * len(data) + 8 * containers.webp_pixels(data)):
        image = _opened(data, size)
    other_library = image.format not in FRUGAL
    with image, memory.reserved(_needed(image, data), ask_first=other_library):
        try:
            image.load()
        except Image.DecompressionBombError as error:
            raise Unreadable("more pixels than is safe to decode") from error
        turn = UPRIGHT.get(_orientation(image))
        rgb = _rgb(image, data, size)
        if turn is not None:
            if rgb is not image:
                image.close()
            rgb = rgb.transpose(turn)
        return finish(rgb)


def _opened(data: bytes, size: int) -> ImageFile.ImageFile:
    """Open an image without decoding it, a JPEG at the fraction of its size that is enough."""
    if data.startswith(containers.JPEG):
        # Image.open refuses large files before it is known at what size they will be decoded.
        jpeg = JpegImageFile(io.BytesIO(data))
        jpeg.draft(None, (DRAFT * size, DRAFT * size))
        return jpeg
    if data[4:8] == b"ftyp" and not containers.heif_names_are_text(data):
        raise Unreadable("damaged image: the names of its parts are no text")
    try:
        return Image.open(io.BytesIO(data), formats=formats())
    except UnidentifiedImageError as error:
        if kind := _kind(data):
            raise Unreadable(kind) from error
        raise
    except Image.DecompressionBombError as error:
        raise Unreadable("more pixels than is safe to decode") from error


def _needed(image: ImageFile.ImageFile, data: bytes) -> int:
    """Return the bytes of memory that decoding takes at most; refuse an image that takes too much.

    Nothing but the header has been decoded yet.
    """
    pixels = image.width * image.height
    _refuse_too_many(pixels)
    name = str(image.format)
    rare = name not in (*FRUGAL, *PIXEL_OF) or data.startswith(AS_TEXT)
    if rare and pixels > RARE:
        raise Unreadable(f"{name} image with more than {RARE:,} pixels, which takes too long")
    needed = len(data) + pixels * (2 * PIXEL if rare else PIXEL_OF.get(name, PIXEL))
    if isinstance(image, JpegImageFile):
        coefficients = containers.jpeg_coefficients(data)
        # To count scans takes a pass over the file, with Python's lock held.
        several = coefficients or "progressive" in image.info
        if several and containers.jpeg_scans(data, most=MOST_SCANS) > MOST_SCANS:
            raise Unreadable(f"JPEG with more than {MOST_SCANS} scans, which take too long")
        needed += coefficients
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        needed += depth.largest_tile(image)
    if needed > memory.MOST:
        raise Unreadable(
            f"decoding it would take up to {needed / 1e6:,.0f} MB of memory, and at most "
            f"{memory.MOST / 1e6:,.0f} MB are allowed; save it with fewer pixels"
        )
    return needed


def _refuse_too_many(pixels: int) -> None:
    most = Image.MAX_IMAGE_PIXELS
    # Pillow itself draws the line at twice its limit.
    if most is not None and pixels > 2 * most:
        raise Unreadable("more pixels than is safe to decode")


def _kind(data: bytes) -> str:
    """Return the reason for a file of a known kind that gives no picture here, or nothing."""
    if data[4:8] == b"ftyp" and "HEIF" not in formats():
        brands = data[8 : min(max(12, int.from_bytes(data[:4])), 256)]
        if brands[:4] in HEIF_BRANDS and b"avif" not in brands:
            return "HEIC photo; pip install pi-heif reads it (the extra heic)"
    if data[40:44] == b" EMF":
        return "not a photo but a drawing (Windows metafile)"
    names = [name for start, name in NOT_PHOTOS.items() if data.startswith(start)]
    return f"not a photo but {names[0]}" if names else ""


def _reason(data: bytes, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        for name in UNMISTAKABLE:
            _, accepts = Image.OPEN.get(name, (None, None))
            if accepts and accepts(data[:16]) is True:
                return f"begins like {name}, but Pillow cannot read it: damaged, or of a rare kind"
        return "not an image file that Pillow can read"
    if isinstance(error, MemoryError):
        return "damaged image: it asks for more memory than its pixels can take"
    text = " ".join(str(error).split()) or type(error).__name__
    if text.startswith("decoder error"):
        return f"damaged image, or compressed in a way that Pillow cannot read: {text}"
    if UNSUPPORTED.search(text):
        return f"of a kind that Pillow cannot decode: {text}"
    return f"damaged image: {text}"


def _orientation(image: Image.Image) -> int:
    """Return the orientation according to EXIF or, if it has none, XMP; 1 if neither is whole."""
    if image.format == "HEIF":
        # libheif has turned the picture already.
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception:
        found = None
    if found is None and isinstance(exif := image.info.get("exif"), bytes):
        # Pillow stops at the first damaged entry.
        found = containers.exif_orientation(exif)
    if found is not None:
        return int(found) if isinstance(found, int) else 1
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    if isinstance(packet, str):
        packet = packet.encode()
    match = XMP_ORIENTATION.search(packet) if isinstance(packet, bytes) else None
    return int(match[1]) if match else 1


def _rgb(image: ImageFile.ImageFile, data: bytes, size: int) -> Image.Image:
    if image.mode.startswith("I"):
        grey = depth.grey(image, data)
        image.close()
        return grey.convert("RGB")
    if image.mode == "F":
        raise Unreadable("floating-point pixels have no fixed range; convert it to 8 bits")
    depth.scale_colour(image, data, functools.partial(_opened, data, size))
    if image.has_transparency_data:
        return depth.in_bands(image, _over_white, "RGB")
    # A conversion to the same mode would be a copy.
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _thumbnail(rgb: Image.Image, *, size: int) -> bytes:
    rgb.thumbnail((size, size))
    file = io.BytesIO()
    rgb.save(file, "WEBP", quality=QUALITY)
    return file.getvalue()
