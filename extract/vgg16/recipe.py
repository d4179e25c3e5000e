"""The recipe: everything that changes the numbers of the features, and nothing else."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import PIL

from extract.photos import pixels
from extract.vgg16 import pairs
from extract.vgg16.architecture import TAP_LAYERS, output_shapes

SIZE = 224
"""Side in pixels of the square that every photo becomes before VGG16 sees it."""

SIZES = (SIZE, *(size for size in range(96, 641, 32) if size != SIZE))
"""Every side that VGG16 may see. `SIZE` comes first; every features file has it."""

TAPS = {tap.name: tap.width for tap in TAP_LAYERS if tap.pooling != "pairs"}
"""Name of each tap that every recipe has, deepest first, and its number of values at every size."""

PAIRS = {tap.name: tap.width for tap in TAP_LAYERS if tap.pooling == "pairs"}
"""The same for the taps of pairs of channels, which only some recipes have."""

ALL_TAPS = TAPS | PAIRS

MAPS = {layer: output_shapes(SIZE)[layer] for layer in ("block4_pool", "block3_pool")}
"""Each layer whose activations fine-tuning can start from, and their (height, width, channels)."""

DTYPE = "float32"
PIXELS = (
    "EXIF-rotated; transparency over white; JPEG in draft mode down to 3 times the size; squashed "
    "with Pillow's bilinear filter"
)
"""How a file becomes pixels. It is part of the digest: change the wording only with the pixels."""

SAME_PIXELS = "13.0.0"
"""A version of Pillow that makes the pixels which `extract.photos.pixels` expects."""


def recipe(weights_digest: str, *, size: int = SIZE, with_pairs: bool = False) -> dict[str, Any]:
    """Describe how photos become features here.

    Parameters
    ----------
    weights_digest : str
        The digest of VGG16's weights.
    size : int
    with_pairs : bool
        Whether the taps of `PAIRS` are among the features.
    """
    differences = pixels.differences()
    plain_recipe = {
        **({"pixels_differ": differences} if differences else {}),
        "network": "VGG16",
        "weights_digest": weights_digest,
        "size": size,
        "pixels": PIXELS,
        "taps": TAPS,
        "dtype": DTYPE,
    }
    return pairs_added(plain_recipe) if with_pairs else plain_recipe


def pairs_added(plain_recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe that also has the taps of pairs."""
    about = f"{pairs.RULE}; stored as {pairs.DTYPE}"
    return plain_recipe | {"taps": plain_recipe["taps"] | PAIRS, "pairs": about}


def pairs_left_out(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe without the taps of pairs; the other taps are the same."""
    taps = {tap: width for tap, width in recipe["taps"].items() if tap not in PAIRS}
    return {key: value for key, value in recipe.items() if key != "pairs"} | {"taps": taps}


def dtype_of(tap: str, recipe: dict[str, Any]) -> str:
    """Return the type of the values that are stored of a tap or map."""
    return pairs.DTYPE if tap in PAIRS else str(recipe["dtype"])


def pixels_note() -> str:
    """Return a line for the user if Pillow makes other pixels here, and else an empty one."""
    differences = pixels.differences()
    if not differences:
        return ""
    return (
        f"Pillow {PIL.__version__} makes other pixels than the versions before it "
        f"({', '.join(differences)}), so features are computed anew and kept apart from earlier "
        f"ones; to go on with those, run pip install pillow=={SAME_PIXELS}"
    )


def recipe_digest(recipe: dict[str, Any]) -> str:
    """Return the SHA-256 of a recipe, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def digest_without_pairs(recipe: dict[str, Any]) -> str:
    """Return the digest of a recipe without the taps of pairs.

    It is the same for all recipes whose other taps are the same.
    """
    return recipe_digest(pairs_left_out(recipe))


def joint_digest(recipes: Iterable[dict[str, Any]]) -> str:
    """Return one digest for several recipes; for a single recipe, return its own digest."""
    digests = [recipe_digest(recipe) for recipe in recipes]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def named(name: str, size: int) -> str:
    """Return the name in a features file of a tap or photo attribute that belongs to a size.

    At `SIZE` it is the plain name. At any other size the size is appended: ``block5_avg_320``.
    """
    return name if size == SIZE else f"{name}_{size}"


def plain(tap: str) -> str:
    """Return the name that a tap of any size has at `SIZE`."""
    return "_".join(tap.split("_")[:2])


def has_pairs(tap: str) -> bool:
    """Say whether a tap of any size is one of pairs of channels."""
    return plain(tap) in PAIRS


def size_of(tap: str) -> int:
    """Return the size of the photos that a tap is of.

    Raises
    ------
    ValueError
        If there is no such tap.
    """
    for size in SIZES:
        if plain(tap) in ALL_TAPS and tap == named(plain(tap), size):
            return size
    raise ValueError(f"there is no tap {tap}")
