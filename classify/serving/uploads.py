"""What decoding photos may take: for each, and for all that are decoded at the same time."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from extract.photos import decode
from extract.photos.decode import Unreadable

LARGEST = 800_000_000
"""The most bytes that decoding a photo may take."""

TOGETHER = 1_200_000_000
"""The most bytes that photos decoded at the same time may take. Others wait."""

BYTES = {"L": 5, "P": 20, "LA": 20, "PA": 20, "RGBA": 20, "I": 28, "F": 28}
"""Bytes for each pixel by Pillow's mode, with what conversion to RGB needs; 8 for other modes."""


def cost(data: bytes, *, size: int) -> int:
    """Return how many bytes decoding a photo for squares of a size takes; 0 if it is no photo.

    Raises
    ------
    Unreadable
        If it takes too many.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            whole = image.width * image.height
            image.draft(None, (decode.DRAFT * size, decode.DRAFT * size))
            needed = image.width * image.height * BYTES.get(image.mode.split(";")[0], 8)
            if image.info.get("progressive"):
                # Its coefficients are kept until the last scan, at the full size.
                needed += whole * 6
    # The decoder itself says what is wrong with a file.
    except Exception:
        return 0
    if needed > LARGEST:
        most = f"{LARGEST / 1e6:.0f} MB"
        raise Unreadable(f"decoding takes {needed / 1e6:,.0f} MB, and {most} is the most")
    return needed


class Budget:
    """Memory that is shared by what runs at the same time.

    Parameters
    ----------
    total : int
        Nothing that takes more may ask.
    """

    def __init__(self, total: int = TOGETHER) -> None:
        self.left = total
        self.changed = threading.Condition()

    @contextmanager
    def take(self, needed: int) -> Iterator[None]:
        """Wait until there is enough, and hold it inside the block."""
        with self.changed:
            self.changed.wait_for(lambda: needed <= self.left)
            self.left -= needed
        try:
            yield
        finally:
            with self.changed:
                self.left += needed
                self.changed.notify_all()
