"""Thumbnails of photos, as data URIs that a page holds within itself."""

import base64
import hashlib
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from extract.photos import decode
from extract.system import locations
from extract.system.console import InputError, warn

if TYPE_CHECKING:
    from extract.store.features_file import Features

SIDE = 144
"""Pixels of the longer side: two for each that the page shows, for dense screens."""


def thumbnails(features: "Features") -> Callable[[int], str | None]:
    """Return what gives the photo of a row as a data URI, each read once.

    It gives None where the photo is not there any more, or not the one that the features are of.
    """
    unreachable: list[InputError] = []

    @cache
    def thumbnail(photo: int) -> str | None:
        try:
            if unreachable:
                return None
            root = locations.location(features.attributes["root"])
            data = locations.read_bytes(root, features.paths[photo])
            if hashlib.sha256(data).hexdigest() != features.digests[photo]:
                return None
            webp = decode.thumbnail(data, size=SIDE)
        except InputError as error:
            # Of a store that cannot be reached one photo tells; each more would take as long.
            unreachable.append(error)
            warn(f"no thumbnails: {error}")
            return None
        except (OSError, KeyError, ValueError, decode.Unreadable):
            return None
        return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"

    return thumbnail
