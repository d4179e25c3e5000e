"""A photo with its heatmap laid over it."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from classify.heatmaps import hiding

COLOURS = ((0.0, (40, 11, 84)), (0.4, (159, 42, 99)), (0.7, (229, 92, 48)), (1.0, (252, 206, 60)))
"""From cold to hot. They grow brighter evenly, for people who see few colours too."""

LINE = (0, 190, 175)
"""The line around the hottest fifth. It shows on black and on white."""

MOST = 0.75
"""How far the hottest colour covers the photo."""

QUALITY = 75
"""The quality of JPEG and WebP files, 0 to 100."""


def overlaid(photo: Image.Image, heat: NDArray[np.floating]) -> Image.Image:
    """Return a photo in grey under its heatmap, with a line around the hottest fifth.

    Parameters
    ----------
    photo : Image
        RGB, of any shape. The heatmap was made of the photo squashed to a square.
    heat : ndarray of shape (side, side)
        What is not above 0 stays without colour.
    """
    values = hiding.enlarged(heat, photo.size).clip(0)
    values = values / (values.max() or 1)
    stops = [stop for stop, _ in COLOURS]
    colours = np.stack(
        [np.interp(values, stops, [c[band] for _, c in COLOURS]) for band in range(3)], axis=-1
    )
    grey = np.asarray(photo.convert("L").convert("RGB"), np.float32)
    cover = MOST * np.sqrt(values)[..., None]
    mixed = Image.fromarray((grey * (1 - cover) + colours * cover).astype(np.uint8))
    line = _outline(hiding.hottest(heat, photo.size))
    mixed.paste(LINE, mask=line)
    return mixed


def as_bytes(picture: Image.Image, kind: str) -> bytes:
    """Return a picture as the bytes of a file of a kind, ``JPEG`` or ``WEBP``."""
    file = io.BytesIO()
    picture.save(file, kind, quality=QUALITY)
    return file.getvalue()


def as_uri(picture: Image.Image) -> str:
    """Return a picture as a data URI, for a page that loads nothing."""
    return f"data:image/webp;base64,{base64.b64encode(as_bytes(picture, 'WEBP')).decode()}"


def _outline(mask: hiding.Mask) -> Image.Image:
    """Return a mask of the edges of a mask, a 150th of the picture wide."""
    width = max(1, max(mask.shape) // 150)
    area = Image.fromarray(mask.astype(np.uint8) * 255)
    # MinFilter takes odd sides only.
    return ImageChops.subtract(area, area.filter(ImageFilter.MinFilter(2 * width + 1)))
