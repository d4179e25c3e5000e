"""Read rows of many shards in any order, and keep only a bounded number of them open."""

import sys
import threading
from collections import OrderedDict
from typing import Any

import h5py
from numpy.typing import NDArray

from extract.store import hdf5
from extract.system import availability
from extract.system.locations import Location

if sys.platform != "win32":
    import resource

SHARE = 4
"""One in this many of the files that this process may have open is a shard."""

MOST = 256


class OpenShards:
    """Shards that stay open between reads; those that were read last.

    Any thread may read.

    Parameters
    ----------
    most : int
        At most this many shards are open.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.files: OrderedDict[Location, h5py.File] = OrderedDict()
        # A shard must not be closed while another thread reads it. HDF5 itself reads one at a time.
        self.lock = threading.Lock()

    def read(self, shard: Location, tap: str, row: int) -> NDArray[Any]:
        """Read one row of a tap.

        Raises
        ------
        OSError, KeyError, ValueError
            If the shard is gone, or a checksum shows that it is damaged.
        InputError
            If it cannot be read at this moment.
        """
        with self.lock, availability.expected(shard):
            values: NDArray[Any] = self._file(shard)[f"taps/{tap}"][row]
            return values

    def _file(self, shard: Location) -> h5py.File:
        if shard not in self.files:
            while len(self.files) >= self.most:
                self.files.popitem(last=False)[1].close()
            self.files[shard] = hdf5.open_whole(shard)
        self.files.move_to_end(shard)
        return self.files[shard]


def _open_files() -> int:
    if sys.platform != "win32":
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    # C's library opens no more for a process.
    return 512


def limit() -> int:
    """Return how many shards may be open at once in this process."""
    files = _open_files()
    return MOST if files < 0 else max(1, min(MOST, files // SHARE))


kept_open = OpenShards(limit())
"""The shards that this process keeps open. All readers share them, so their number is bounded."""
