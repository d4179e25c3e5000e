"""The recipe: everything that changes the numbers of the features, and nothing that does not."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

SIZE = 224
"""Side in pixels of the square that VGG16 is shown of a photo."""

SIZES = (SIZE, *(size for size in range(96, 641, 32) if size != SIZE))
"""The sides it can be shown, that of every features file first."""

TAPS = {
    "block5_avg": 512,
    "block5_avg3x3": 4608,
    "block5_max": 512,
    "block4_avg": 512,
    "block4_max": 512,
    "block3_avg": 256,
    "block3_max": 256,
}
"""Name of each tap, deepest first, and how many values it has, at every size."""

MAPS = {"block4_pool": (14, 14, 512), "block3_pool": (28, 28, 256)}
"""Name of each layer whose activations fine-tuning starts from, and their shape."""

DTYPE = "float32"
PIXELS = (
    "EXIF-rotated; transparency over white; JPEG in draft mode down to 3 times the size; squashed "
    "with Pillow's bilinear filter"
)


def recipe(weights_digest: str, *, size: int = SIZE) -> dict[str, Any]:
    """Describe how photos become features, given the digest of VGG16's weights."""
    return {
        "network": "VGG16",
        "weights_digest": weights_digest,
        "size": size,
        "pixels": PIXELS,
        "taps": TAPS,
        "dtype": DTYPE,
    }


def recipe_digest(recipe: dict[str, Any]) -> str:
    """Return the SHA-256 of a recipe, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def joint_digest(recipes: Iterable[dict[str, Any]]) -> str:
    """Return the digest of features that several recipes made: that of one alone is its own."""
    digests = [recipe_digest(recipe) for recipe in recipes]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def named(name: str, size: int) -> str:
    """Return what a features file calls a tap or an attribute of photos of a size.

    That of `SIZE` has the plain name, that of another size ends with it: ``block5_avg_320``.
    """
    return name if size == SIZE else f"{name}_{size}"


def plain(tap: str) -> str:
    """Return the name that a tap of any size has at `SIZE`."""
    return "_".join(tap.split("_")[:2])


def windows(size: int) -> tuple[int, int]:
    """Return side and stride of the nine windows of ``block5_avg3x3``.

    They cover all of ``block5_pool``, which has a 32nd of the photo's side: 3 and 2 on 7 x 7, 4
    and 3 on 10 x 10.
    """
    side = size // 32
    stride = max(1, (side - 1) // 3)
    return side - 2 * stride, stride
