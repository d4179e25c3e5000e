"""Small pictures of many photos in one WebP file, of which a page shows one part at a time."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

SIDES = (96, 72, 56, 40, 28, 20)
"""Sides in pixels of the squares that the pictures lie in; the first that is small enough."""
MOST_BYTES = 1_200_000
"""Bytes of the file. In a page they take a third more."""
COLUMNS = 32
QUALITY = 60
EFFORT = 2
"""WebP's `method`, 0 to 6. Of 1,000 photos, 4 takes twice as long and saves a twentieth."""
BETWEEN = (128, 128, 128)


@dataclass(frozen=True)
class Sheet:
    """Pictures in squares, in rows of `COLUMNS`, each in the upper left corner of its square.

    Attributes
    ----------
    webp : bytes
    side : int
        The side of each square in pixels.
    rows : int
    shapes : list of (width, height) or None
        Size of each picture as a share of its square; None where there is no picture.
    """

    webp: bytes
    side: int
    rows: int
    shapes: list[tuple[float, float] | None]

    @property
    def base64(self) -> str:
        """The file as it stands in a data URI."""
        return base64.b64encode(self.webp).decode()


def sheet(pictures: Sequence[bytes | None]) -> Sheet:
    """Put pictures onto one sheet of at most `MOST_BYTES`, or of the smallest squares.

    Parameters
    ----------
    pictures : sequence of bytes or None
        Image files, None for each photo that has none. They are reduced, not enlarged.
    """
    opened = [Image.open(io.BytesIO(data)).convert("RGB") if data else None for data in pictures]
    for side in SIDES:
        made = _sheet(opened, side)
        if len(made.webp) <= MOST_BYTES:
            break
    return made


def _sheet(pictures: Sequence[Image.Image | None], side: int) -> Sheet:
    rows = -(-len(pictures) // COLUMNS)
    whole = Image.new("RGB", (COLUMNS * side, rows * side), BETWEEN)
    shapes: list[tuple[float, float] | None] = []
    for place, picture in enumerate(pictures):
        if picture is None:
            shapes.append(None)
            continue
        row, column = divmod(place, COLUMNS)
        small = picture.copy()
        small.thumbnail((side, side), Image.Resampling.BILINEAR)
        # A picture smaller than its square is shown as large as the others.
        scale = side / max(small.size)
        if scale > 1:
            small = small.resize([max(1, round(scale * length)) for length in small.size])
        whole.paste(small, (column * side, row * side))
        shapes.append((small.width / side, small.height / side))
    file = io.BytesIO()
    whole.save(file, "WEBP", quality=QUALITY, method=EFFORT)
    return Sheet(file.getvalue(), side, rows, shapes)
