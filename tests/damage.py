"""Ways to damage an HDF5 file."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py

Damage = Callable[[Path], None]


def flip(path: Path, offset: int, mask: int = 1) -> None:
    """Change the byte at `offset`."""
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def write_garbled(path: Path, content: bytes) -> None:
    """Write a file as HDF5 1.14.6 did when asked for its image: its first checksum is wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])


def write_with_a_changed_tap(path: Path, content: bytes) -> None:
    """Write a shard in which a byte of the first tap has changed; digests can be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with h5py.File(path) as file:
        first = next(iter(file["taps"]))
    flip(path, tap_offset(path, first))


def tap_offset(path: Path, tap: str) -> int:
    """Return where in the file a byte of the values of a tap lies."""
    with h5py.File(path) as file:
        return int(file[f"taps/{tap}"].id.get_chunk_info(0).byte_offset) + 100


def as_text(path: Path) -> None:
    path.write_text("not HDF5")


def as_truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def as_empty(path: Path) -> None:
    path.write_bytes(b"")


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = [1]


def edited(edit: Callable[[h5py.File], None]) -> Damage:
    """Return the damage that `edit` does to an open file."""

    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            edit(file)

    return change


def without_a_tap(file: h5py.File) -> None:
    del file["taps/block3_max"]
