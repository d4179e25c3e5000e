"""Random variations of training photos: mirrored, rotated, zoomed, shifted, with another contrast.

Keras has a layer for each of these, and each resamples the photo. On a CPU they take as long as
the training of a small network. Here one affine map does all of it, and threads compute it while
the network trains.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST_ANGLE = math.radians(18)
LARGEST_ZOOM = 0.2
LARGEST_SHIFT = 0.1
"""As a share of the photo's side."""
LARGEST_CONTRAST = 0.2

LEVELS = np.arange(256)


class Variation(NamedTuple):
    """How a photo is varied.

    Attributes
    ----------
    mirrored : float
        -1 to swap left and right, otherwise 1.
    angle : float
        In radians.
    zoom : float
        Above 1, the photo shrinks.
    right, down : float
        Shift of the content, as a share of the photo's side.
    contrast : float
        Factor of the difference from the mean of each channel.
    """

    mirrored: float
    angle: float
    zoom: float
    right: float
    down: float
    contrast: float


UNVARIED = Variation(mirrored=1, angle=0, zoom=1, right=0, down=0, contrast=1)

_LARGEST = Variation(
    mirrored=0,
    angle=LARGEST_ANGLE,
    zoom=LARGEST_ZOOM,
    right=LARGEST_SHIFT,
    down=LARGEST_SHIFT,
    contrast=LARGEST_CONTRAST,
)


def draw(random: np.random.Generator, photos: int) -> NDArray[np.float64]:
    """Return a `Variation` for each photo, as rows of an array of shape (photos, 6)."""
    drawn = UNVARIED + np.multiply(_LARGEST, random.uniform(-1, 1, (photos, len(_LARGEST))))
    drawn[:, 0] = random.choice((-1, 1), photos)
    return drawn


def vary(photo: NDArray[np.uint8], variation: Variation) -> NDArray[np.uint8]:
    """Return a variation of a photo of shape (size, size, 3), which has the same shape.

    What lies outside of the photo is its reflection.
    """
    size = len(photo)
    border = _border(size)
    sides = (border, border)
    wide = Image.fromarray(np.pad(photo, (sides, sides, (0, 0)), mode="symmetric"))
    varied = wide.transform(
        (size, size),
        Image.Transform.AFFINE,
        _map(variation, size, border),
        resample=Image.Resampling.BILINEAR,
    )
    counts = np.reshape(varied.histogram(), (3, len(LEVELS)))
    means = (counts @ LEVELS / size**2)[:, None]
    levels = np.rint(means + variation.contrast * (LEVELS - means)).clip(0, 255)
    return np.asarray(varied.point(levels.astype(int).ravel().tolist()))


def _border(size: int) -> int:
    """Return how many pixels beyond its edge a varied photo can show."""
    turned = math.cos(LARGEST_ANGLE) + math.sin(LARGEST_ANGLE)
    reach = (1 + LARGEST_ZOOM) * turned * (0.5 + LARGEST_SHIFT)
    return math.ceil((reach - 0.5) * size) + 1


def _map(variation: Variation, size: int, border: int) -> tuple[float, ...]:
    """Return Pillow's six numbers, which map a point of the result to one of the wide photo."""
    cosine = variation.zoom * math.cos(variation.angle)
    sine = variation.zoom * math.sin(variation.angle)
    matrix = np.array([[variation.mirrored * cosine, -variation.mirrored * sine], [sine, cosine]])
    centre = size * (0.5 + np.array([variation.right, variation.down]))
    offset = size / 2 + border - matrix @ centre
    return tuple(np.column_stack([matrix, offset]).ravel().tolist())
