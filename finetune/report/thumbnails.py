"""Thumbnails of photos, as WebP files or as data URIs within the page."""

import base64
import hashlib
import threading

from extract.photos import decode, files
from extract.store.features_file import Features
from extract.system import locations
from extract.system.console import InputError, warn

SIDE = 144
"""Pixels of the longer side: twice what the page shows, for screens of high density."""


class Thumbnails:
    """The thumbnails of the photos of a features file. Threads may share an object.

    There is none of a photo that is no longer there, or is not the photo that the features were
    computed from.
    """

    def __init__(self, features: Features) -> None:
        self._features = features
        self._unreachable: InputError | None = None
        self._telling = threading.Lock()
        self._made: dict[int, str | None] = {}

    def __call__(self, row: int) -> str | None:
        """Return the thumbnail of the photo in a row as a data URI, which is made once."""
        if row not in self._made:
            webp = self.webp(row, SIDE)
            uri = f"data:image/webp;base64,{base64.b64encode(webp or b'').decode()}"
            self._made[row] = uri if webp else None
        return self._made[row]

    def webp(self, row: int, side: int) -> bytes | None:
        """Return the thumbnail of the photo in a row, whose longer side has `side` pixels."""
        features = self._features
        try:
            if self._unreachable:
                return None
            root = locations.location(features.attributes["root"])
            with files.content(root, features.paths[row]) as data:
                if hashlib.sha256(data).hexdigest() != features.digests[row]:
                    return None
                return decode.thumbnail(data, size=side)
        except InputError as error:
            # The whole store is out of reach, and every further photo would wait as long.
            with self._telling:
                if not self._unreachable:
                    self._unreachable = error
                    warn(f"no thumbnails: {error}")
            return None
        except (OSError, KeyError, ValueError, decode.Unreadable):
            return None
