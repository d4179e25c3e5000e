"""Hide a part of a photo, to see whether a heatmap tells the truth.

If a model needs what a heatmap shows, its probability falls more when the hottest fifth of the
photo is hidden than when any other fifth is.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SHARE = 0.2
"""The share of a photo's area that is hidden."""

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def enlarged(heat: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return a heatmap at a size, (width, height), by bilinear interpolation."""
    image = Image.fromarray(heat.astype(np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def hottest(heat: NDArray[np.floating], size: tuple[int, int]) -> Mask:
    """Return which pixels are the hottest `SHARE` of a picture of a size, (width, height)."""
    values = enlarged(heat, size)
    mask = np.zeros(values.size, bool)
    mask[np.argsort(-values, axis=None, kind="stable")[: round(SHARE * values.size)]] = True
    return mask.reshape(values.shape)


def elsewhere(mask: Mask, seed: int) -> Mask:
    """Return a mask of the same area and shape at a random place; what leaves it comes back in.

    The place depends on the seed alone, not on the size of the mask.
    """
    shift = np.random.default_rng(seed).random(2) * mask.shape
    return np.roll(mask, (int(shift[0]), int(shift[1])), (0, 1))


def hide(photo: Pixels, mask: Mask) -> Pixels:
    """Return a photo, (height, width, 3), whose pixels in a mask have its mean colour."""
    return np.where(mask[..., None], photo.mean((0, 1)).astype(np.uint8), photo)
