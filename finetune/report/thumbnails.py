"""Thumbnails of photos, as data URIs within the page."""

import base64
import hashlib
from collections.abc import Callable
from functools import cache

from extract.photos import decode, files
from extract.store.features_file import Features
from extract.system import locations
from extract.system.console import InputError, warn

SIDE = 144
"""Pixels of the longer side: twice what the page shows, for screens of high density."""


def thumbnails(features: Features) -> Callable[[int], str | None]:
    """Return a function from the row of a photo to its thumbnail as a data URI.

    The function reads each photo once. It returns None if the photo is no longer there, or is not
    the photo that the features were computed from.
    """
    unreachable: list[InputError] = []

    @cache
    def thumbnail(row: int) -> str | None:
        try:
            if unreachable:
                return None
            root = locations.location(features.attributes["root"])
            with files.content(root, features.paths[row]) as data:
                if hashlib.sha256(data).hexdigest() != features.digests[row]:
                    return None
                webp = decode.thumbnail(data, size=SIDE)
        except InputError as error:
            # The whole store is out of reach, and every further photo would wait as long.
            unreachable.append(error)
            warn(f"no thumbnails: {error}")
            return None
        except (OSError, KeyError, ValueError, decode.Unreadable):
            return None
        return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"

    return thumbnail
