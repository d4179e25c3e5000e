"""The parts of image files, as bytes: what holds the pixels, and what may be left out.

Pillow reads the metadata of a file together with its pixels, and damage to either ends both.
Whether the pixels are whole shows once the rest is gone.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

PNG = b"\x89PNG\r\n\x1a\n"

JPEG = b"\xff\xd8\xff"

LARGEST_XMP = 1 << 20
"""A larger XMP packet of a PNG file is dropped. A camera's has a few thousand bytes."""

ENTRIES = 512
"""No more entries of an EXIF block are looked at."""

JPEG_KEPT = {0xE0: 18, 0xE1: 4, 0xEE: 14}
"""The application segments that stay, with their least length: JFIF and Adobe say which colours the
numbers are, and APP1 is EXIF or XMP."""

TIFF_TAGS = {
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 280, 281, 284, 292, 293),
    *(317, 320, 322, 323, 324, 325, 332, 338, 339, 340, 341, 347, *range(512, 522), 529, 530, 531),
}
"""The TIFF tags that say how pixels are stored and which way is up."""

PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
"""The markers of progressive JPEG."""

AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A marker of a JPEG file that ends the pixels of a scan."""

PART_SIZE = re.compile(rb"(?s)(?:IHDR|ihdr|\xff\x4f\xff\x51.{4})(.{8})")
"""Width and height of PNG and JPEG 2000 images inside other files."""

WEBP_CHUNKS = {b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"}


class Segment(NamedTuple):
    """A marker of a JPEG file with its length and content, up to the first pixels."""

    marker: int
    start: int
    end: int


def without_metadata(data: bytes) -> bytes:
    """Return an image file without its metadata, but with its orientation if that looks whole.

    Parameters
    ----------
    data : bytes
        The whole file. The formats are JPEG, PNG, TIFF, WebP, AVIF and HEIF.

    Returns
    -------
    bytes
        A file with the same pixels. It equals `data` if there was nothing to leave out.
    """
    if data.startswith(JPEG):
        return _jpeg(data)
    if data.startswith(PNG):
        return _png(data)
    if data.startswith((b"II*\0", b"MM\0*")):
        return _tiff(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    if data[4:8] == b"ftyp":
        # An item of an unknown type is ignored.
        return re.sub(rb"(?s)(infe\x02.{3}.{4})(?:Exif|mime)", rb"\1skip", data)
    return data


def jpeg_segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments of a JPEG file up to its first scan, which is the last."""
    at = 2
    while at + 4 <= len(data):
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return
        marker = data[at + 1]
        # A marker may be filled up with 0xFF, and these have neither length nor content.
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        yield Segment(marker, at, end)
        if marker == 0xDA:
            return
        at = max(end, at + 4)


def jpeg_coefficients(data: bytes) -> int:
    """Return the bytes that a JPEG takes for its coefficients, whatever the size it is decoded at.

    They are kept if the file has several scans, as every progressive JPEG has.
    """
    needed, components = 0, 0
    for marker, start, end in jpeg_segments(data):
        content = data[start + 4 : end]
        if marker == 0xDA:
            return needed if content and content[0] < components else 0
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(content) > 8:
            height, width, components = struct.unpack_from(">HHB", content, 1)
            factors = [(byte >> 4, byte & 15) for byte in content[7 : 6 + 3 * components : 3]]
            blocks = sum(across * down for across, down in factors)
            largest = max(across for across, _ in factors) * max(down for _, down in factors)
            needed = 2 * int(width) * int(height) * blocks // max(largest, 1)
            if marker in PROGRESSIVE:
                return needed
    return 0


def jpeg_scans(data: bytes, *, most: int) -> int:
    """Count the scans of a JPEG file, but no more than one beyond `most`."""
    scan = b"\xff\xda"
    # These bytes cannot be pixels, but they may be metadata or come after the picture.
    if data.count(scan) <= most:
        return data.count(scan)
    at, scans = 2, 0
    while (found := AFTER_SCAN.search(data, at)) and scans <= most:
        at, marker = found.start(), data[found.start() + 1]
        if marker == 0xD9:
            break
        scans += marker == 0xDA
        at += 2 if marker in (0x01, 0xD8) else 2 + int.from_bytes(data[at + 2 : at + 4])
    return scans


def webp_pixels(data: bytes) -> int:
    """Return the number of pixels of a WebP file; 0 if it is none."""
    kind = data[12:16] if data[8:12] == b"WEBP" else b""
    if kind == b"VP8X":
        sides = [int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27)]
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        sides = [(bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1]
    elif kind == b"VP8 ":
        sides = [int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28)]
    else:
        return 0
    return sides[0] * sides[1]


def largest_part(data: bytes) -> int:
    """Return the pixels of the largest PNG or JPEG 2000 image anywhere inside a file."""
    sizes = (struct.unpack(">II", found[1]) for found in PART_SIZE.finditer(data))
    return max((width * height for width, height in sizes), default=0)


def heif_names_are_text(data: bytes) -> bool:
    """Return whether the items of an HEIF file have kinds and names in ASCII.

    One that has not ends the process inside pi-heif 1.4.
    """
    for found in re.finditer(rb"infe[\x02\x03]", data):
        at = found.start()
        end = at - 4 + int.from_bytes(data[max(at - 4, 0) : at])
        if not data[at + 12 : max(end, at + 16)].isascii():
            return False
    return True


def exif_orientation(exif: bytes) -> int | None:
    """Find the orientation in an EXIF block, of which any other part may be damaged or missing."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return None
    (at,) = struct.unpack_from(f"{order}I", exif, 4)
    for start in range(at + 2, min(at + 2 + 12 * ENTRIES, len(exif) - 11), 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, start)
        if (tag, kind) == (0x0112, 3):
            return int(value)
    return None


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the content of every whole chunk of a PNG file."""
    at = len(PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        if at + 12 + length > len(data):
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def _jpeg(data: bytes) -> bytes:
    kept = [data[:2]]
    for marker, start, end in jpeg_segments(data):
        if marker == 0xDA:
            return b"".join(kept) + data[start:]
        application = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not application or end - start >= JPEG_KEPT.get(marker, 1 << 16):
            kept.append(data[start:end])
    return data


def _png(data: bytes) -> bytes:
    kept, at, pixels = [PNG], len(PNG), False
    for name, content in png_chunks(data):
        end = at + 12 + len(content)
        xmp = content.startswith(b"XML:com.adobe.xmp\0\0") and len(content) < LARGEST_XMP
        if name[:1].isupper() or name == b"tRNS":
            kept.append(data[at:end])
        elif name == b"eXIf" or (name == b"iTXt" and xmp):
            check = zlib.crc32(content, zlib.crc32(name))
            kept.append(data[at : end - 4] + struct.pack(">I", check))
        pixels = pixels or name == b"IDAT"
        at = end
    if not pixels:
        # The first pixels are cut short already, which is for Pillow to say.
        kept.append(data[at:])
    return b"".join(kept)


def _tiff(data: bytes) -> bytes:
    order = "<" if data.startswith(b"II") else ">"
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, at)
    except struct.error:
        return data
    end = at + 2 + 12 * count
    if end > len(data):
        return data
    entries = [data[start : start + 12] for start in range(at + 2, end, 12)]
    kept = [one for one in entries if struct.unpack_from(f"{order}H", one)[0] in TIFF_TAGS]
    # The first directory is the first picture; no other is used.
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:at] + directory.ljust(end - at, b"\0") + data[max(end, at + len(directory)) :]


def _webp(data: bytes) -> bytes:
    kept, at = [], 12
    while at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        chunk = data[at : at + 8 + length + length % 2]
        if name == b"VP8X" and len(chunk) > 8:
            # The flags of the ICC profile, EXIF and XMP.
            chunk = chunk[:8] + bytes([chunk[8] & ~0b0010_1100]) + chunk[9:]
        if name in WEBP_CHUNKS:
            kept.append(chunk)
        at += 8 + length + length % 2
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body
