"""The recipe: everything that changes the numbers of the features, and nothing that does not."""

import hashlib
import json
from typing import Any

SIZE = 224
TAPS = {
    "block5_avg": 512,
    "block5_avg3x3": 4608,
    "block5_max": 512,
    "block4_avg": 512,
    "block4_max": 512,
    "block3_avg": 256,
    "block3_max": 256,
}
"""Name of each tap, deepest first, and how many values it has."""

MAPS = {"block4_pool": (14, 14, 512), "block3_pool": (28, 28, 256)}
"""Name of each layer whose activations fine-tuning starts from, and their shape."""

DTYPE = "float32"
PIXELS = (
    "EXIF-rotated; transparency over white; JPEG in draft mode down to 3 times the size; squashed "
    "with Pillow's bilinear filter"
)


def recipe(weights_digest: str) -> dict[str, Any]:
    """Describe how photos become features, given the digest of VGG16's weights."""
    return {
        "network": "VGG16",
        "weights_digest": weights_digest,
        "size": SIZE,
        "pixels": PIXELS,
        "taps": TAPS,
        "dtype": DTYPE,
    }


def recipe_digest(recipe: dict[str, Any]) -> str:
    """Return the SHA-256 of a recipe, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
