"""A set of digests that takes 32 bytes each, and that the processes of a machine can share."""

from collections.abc import Collection

import numpy as np


class DigestSet:
    """Digests, sorted in an array, which Ray puts into shared memory once per machine.

    Parameters
    ----------
    digests : collection of str
        64 hexadecimal digits each.
    """

    def __init__(self, digests: Collection[str]) -> None:
        self.sorted = np.sort(np.fromiter(map(bytes.fromhex, digests), "S32", len(digests)))

    def __contains__(self, digest: object) -> bool:
        wanted = np.array(bytes.fromhex(str(digest)), "S32")
        place = np.searchsorted(self.sorted, wanted)
        return bool(place < len(self.sorted) and self.sorted[place] == wanted)
