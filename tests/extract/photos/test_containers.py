"""Damage to what a file says beside its pixels costs no photo."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from extract.photos.decode import Unreadable, decode_photo, square, upright
from tests.conftest import picture

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

PHOTO = picture(3, size=(32, 24))
AVIF = {"quality": 100, "subsampling": "4:4:4"}

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    found[0x010F] = "a camera with a name that is long"
    return found.tobytes()[6:]


def saved(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    PHOTO.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes, *, check: int | None = None) -> bytes:
    check = zlib.crc32(name + content) if check is None else check
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def png(*chunks: bytes, end: bytes = b"") -> bytes:
    """Put chunks before the pixels of a PNG file, and some after."""
    whole = saved("PNG")
    head, tail = 8 + 25, len(whole) - 12
    return whole[:head] + b"".join(chunks) + whole[head:tail] + end + whole[tail:]


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    """Put application segments before all others of a JPEG file."""
    whole = saved("JPEG", quality=95)
    added = [bytes([0xFF, 0xE0 + n]) + struct.pack(">H", len(s) + 2) + s for n, s in segments]
    return whole[:2] + b"".join(added) + whole[2:]


def webp(*chunks: tuple[bytes, bytes], cut: int = 0) -> bytes:
    whole = saved("WEBP", lossless=True, exif=b"Exif\0\0" + exif(1))
    body = whole[12 : whole.index(b"EXIF")]
    for name, content in chunks:
        body += name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body[: len(body) - cut]


def tiff(*entries: tuple[int, int, bytes]) -> bytes:
    """Add entries to the directory of a TIFF file, which is moved to its end."""
    whole = saved("TIFF")
    (at,) = struct.unpack_from("<I", whole, 4)
    (count,) = struct.unpack_from("<H", whole, at)
    old = [whole[i : i + 12] for i in range(at + 2, at + 2 + 12 * count, 12)]
    new = [struct.pack("<HHI", tag, kind, 1) + value for tag, kind, value in entries]
    every = sorted(old + new, key=lambda entry: struct.unpack_from("<H", entry))
    directory = struct.pack("<H", len(every)) + b"".join(every) + bytes(4)
    return whole[:4] + struct.pack("<I", len(whole)) + whole[8:].rjust(len(whole) - 8) + directory


def avif() -> bytes:
    whole = saved("AVIF", **AVIF, exif=b"Exif\0\0" + exif(1))
    at = max(whole.rfind(b"II*\0"), whole.rfind(b"MM\0*"))
    return whole[:at] + b"XX" + whole[at + 2 :]


NO_EXIF = b"no EXIF at all"
CUT_EXIF = exif(6)[:34]
"""The orientation is there, and what the directory promises beyond it is not."""

CHARACTERS = b"Title\0" + b"x" * 50

DAMAGED: dict[str, tuple[Callable[[], bytes], bool]] = {
    "png: EXIF": (lambda: png(chunk(b"eXIf", NO_EXIF)), False),
    "png: EXIF cut short": (lambda: png(chunk(b"eXIf", CUT_EXIF)), True),
    "png: EXIF with a wrong checksum": (lambda: png(chunk(b"eXIf", exif(6), check=1)), True),
    "png: EXIF after the pixels": (lambda: png(end=chunk(b"eXIf", NO_EXIF)), False),
    "png: orientation after the pixels": (lambda: png(end=chunk(b"eXIf", exif(6))), True),
    "png: EXIF in hexadecimal": (
        lambda: png(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  8\nnonsense")),
        False,
    ),
    "png: EXIF, with XMP": (
        lambda: png(chunk(b"eXIf", NO_EXIF), chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        True,
    ),
    "png: colour profile of an unknown kind": (
        lambda: png(chunk(b"iCCP", b"name\0\7profile"), chunk(b"eXIf", exif(6))),
        True,
    ),
    "png: huge colour profile": (
        lambda: png(chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(2_000_000)))),
        False,
    ),
    "png: text with a wrong checksum": (
        lambda: png(chunk(b"tEXt", CHARACTERS, check=1), chunk(b"eXIf", exif(6))),
        True,
    ),
    "png: huge text": (
        lambda: png(chunk(b"zTXt", b"Title\0\0" + zlib.compress(bytes(2_000_000)))),
        False,
    ),
    "png: huge text after the pixels": (
        lambda: png(end=chunk(b"zTXt", b"Title\0\0" + zlib.compress(bytes(2_000_000)))),
        False,
    ),
    "png: text cut short after the pixels": (
        lambda: png(end=chunk(b"tEXt", CHARACTERS))[: -(12 + 30)],
        False,
    ),
    "png: end cut short": (lambda: png()[:-5], False),
    "png: end cut short, EXIF": (lambda: png(chunk(b"eXIf", NO_EXIF))[:-5], False),
    "png: gamma, size, colours, all too short": (
        lambda: png(chunk(b"gAMA", b"1"), chunk(b"pHYs", b"1"), chunk(b"cHRM", b"1")),
        False,
    ),
    "png: frames out of order": (
        lambda: png(chunk(b"acTL", bytes(8)), chunk(b"fcTL", b"\0\0\0\7" + bytes(22))),
        False,
    ),
    "jpeg: EXIF": (lambda: jpeg((1, b"Exif\0\0" + NO_EXIF)), False),
    "jpeg: EXIF is empty": (lambda: jpeg((1, b"Exif\0\0")), False),
    "jpeg: EXIF cut short": (lambda: jpeg((1, b"Exif\0\0" + CUT_EXIF)), True),
    "jpeg: EXIF, with XMP": (
        lambda: jpeg((1, b"Exif\0\0" + NO_EXIF), (1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
        True,
    ),
    "jpeg: XMP in other words": (
        lambda: jpeg((1, b"http://ns.adobe.com/xap/1.0/\0" + XMP.replace(b'="6"', b" = '6'"))),
        True,
    ),
    "jpeg: JFIF too short": (lambda: jpeg((0, b"JFIF"), (1, b"Exif\0\0" + exif(6))), True),
    "jpeg: colour profile too short": (lambda: jpeg((2, b"ICC_PROFILE\0")), False),
    "jpeg: Photoshop's block cut short": (lambda: jpeg((13, b"Photoshop 3.0\0008BIM\4\4")), False),
    "jpeg: list of further pictures": (lambda: jpeg((2, b"MPF\0" + NO_EXIF)), False),
    "jpeg: list of further pictures without offsets": (
        lambda: jpeg((2, b"MPF\0II*\0\10\0\0\0\1\0" + struct.pack("<HHII", 0xB001, 4, 1, 2))),
        False,
    ),
    "webp: EXIF": (lambda: webp((b"EXIF", NO_EXIF)), False),
    "webp: EXIF cut short": (lambda: webp((b"EXIF", CUT_EXIF)), True),
    "webp: file cut short in its EXIF": (lambda: webp((b"EXIF", exif(1)), cut=20), False),
    "tiff: EXIF is nowhere": (lambda: tiff((34665, 4, struct.pack("<I", 1 << 30))), False),
    "tiff: EXIF is a number of another kind": (
        lambda: tiff((34665, 11, struct.pack("<f", 1e30)), (274, 3, struct.pack("<I", 6))),
        True,
    ),
    "tiff: XMP is a number": (
        lambda: tiff((700, 3, bytes(4)), (274, 3, struct.pack("<I", 6))),
        True,
    ),
    "avif: EXIF": (avif, False),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_metadata_cost_no_photo_and_not_its_orientation(name: str) -> None:
    make, turned = DAMAGED[name]
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}, "AVIF": AVIF}
    kind = name.split(":")[0].upper()
    whole = upright(saved(kind, **options.get(kind, {})), size=16)
    expected = whole.transpose(Image.Transpose.ROTATE_270) if turned else whole
    np.testing.assert_array_equal(decode_photo(make(), size=16), square(expected, size=16))


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_orientation_that_is_none_turns_nothing(value: int) -> None:
    found = Image.Exif()
    found[0x0112] = value
    np.testing.assert_array_equal(
        decode_photo(saved("PNG", exif=found), size=16), decode_photo(saved("PNG"), size=16)
    )


def test_damaged_pixels_stay_damaged_whatever_the_metadata_are() -> None:
    broken = chunk(b"eXIf", NO_EXIF) + chunk(b"tEXt", CHARACTERS, check=1)
    wrong_size = bytearray(png(broken))
    wrong_size[18] ^= 1
    with pytest.raises(Unreadable, match="begins like PNG"):
        decode_photo(bytes(wrong_size), size=16)
    for content in (png(broken)[:-900], jpeg((0, b"JFIF"))[:-200], webp((b"EXIF", b""))[:-900]):
        with pytest.raises(Unreadable, match="damaged image"):
            decode_photo(content, size=16)
