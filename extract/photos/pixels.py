"""Whether Pillow makes the same pixels here as where the features of a cache were computed.

Another version of Pillow, or one that was built with other libraries, may decode or scale a photo
to other pixels. A few small images come with this package, and so do the digests of their pixels. A
version that makes others is named in the recipe, so that old and new features never lie together.

The digests are exact. They are equal for Pillow 10.4, 11.3, 12.0 and 13.0, and for libjpeg-turbo
with and without the vector instructions of a processor, which its authors promise as well.
"""

import hashlib
from functools import cache
from pathlib import Path

from extract.photos import decode

FOLDER = Path(__file__).parent / "reference"
SIZE = 24

EXPECTED = {
    "alpha.png": "d35b65cbf6e73bde",
    "baseline.jpg": "e284bcf811125e1e",
    "cmyk.jpg": "3812bd9dafbb1e14",
    "deep.png": "a869232b31ea72da",
    "lossy.webp": "85f4805fd21dd760",
    "palette.gif": "525247a6f25c7534",
    "progressive.jpg": "c29f956539c4f62c",
}
"""The digest of the pixels of each image, as Pillow 13.0 makes them."""


@cache
def differences() -> dict[str, str]:
    """Return the images that have other pixels here, and the digests of these pixels.

    An image of a format that this Pillow cannot read is left out: it makes no features.
    """
    found = {}
    for name, expected in EXPECTED.items():
        data = (FOLDER / name).read_bytes()
        try:
            pixels = decode.decode_photo(data, size=SIZE)
        except decode.Unreadable:
            continue
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()[: len(expected)]
        if digest != expected:
            found[name] = digest
    return found
