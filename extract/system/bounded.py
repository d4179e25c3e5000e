"""Read files that a stranger may have made, in memory that is bounded by their size.

An archive or an HDF5 file of a megabyte can claim gigabytes: compressed, shared between members, or
never stored. So whatever claims more than its kind of file takes is refused before it is read.
"""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

MEMBERS = 10_000
"""The most members that an archive may have."""

READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The ways in which a member of an archive may be stored."""

END = struct.Struct("<4s4H2LH")
"""The record at the end of an archive; its sixth number is the size of the list of members."""


def content(path: Path, *, largest: int) -> bytes:
    """Read a file of at most `largest` bytes.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is larger.
    """
    with path.open("rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"it has more than {megabytes(largest)}")
    return data


def megabytes(size: int) -> str:
    """Write a number of bytes in megabytes."""
    return f"{size / 1e6:,.0f} MB"


def from_json(data: bytes) -> Any:
    """Return what JSON says.

    Raises
    ------
    ValueError
        If it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def members(archive: bytes, *, largest: int) -> dict[str, bytes]:
    """Return the members of a zip archive that takes at most `largest` bytes.

    Every checksum is compared, so that no changed byte of a member is missed.

    Raises
    ------
    ValueError
        If it is no such archive, takes more, or is damaged.
    """
    try:
        _check_list(archive)
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            infos = file.infolist()
            if len({info.filename for info in infos}) < len(infos):
                raise ValueError("two members have the same name")
            if any(info.compress_type not in READABLE for info in infos):
                raise ValueError("it is compressed in a way that is not used here")
            whole = sum(info.file_size for info in infos)
            if whole > largest:
                raise ValueError(
                    f"it expands to {megabytes(whole)}, more than {megabytes(largest)}"
                )
            # zipfile reads no more of a member than its size, whatever is stored.
            return {info.filename: file.read(info) for info in infos}
    # zipfile raises exceptions of all these types for damaged archives.
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ValueError(str(error) or "it is cut short") from error
    except (struct.error, zlib.error, OverflowError) as error:
        raise ValueError(f"damaged: {error}") from error


def archive(members: Mapping[str, bytes]) -> bytes:
    """Return a zip archive with these members, which compresses nothing."""
    image = io.BytesIO()
    with zipfile.ZipFile(image, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return image.getvalue()


def _check_list(archive: bytes) -> None:
    """Make sure that the list of members is short, which zipfile reads whole."""
    at = archive.rfind(b"PK\5\6")
    if at < 0 or len(archive) < at + END.size:
        raise ValueError("it is not a zip archive")
    _, _, _, _, count, size, _, _ = END.unpack_from(archive, at)
    if archive[max(0, at - 20) : at].startswith(b"PK\6\7") or count > MEMBERS:
        raise ValueError(f"it has more than {MEMBERS:,} members")
    if size > MEMBERS * 200:
        raise ValueError("its list of members is too long")


def check_stored(file: h5py.File) -> None:
    """Make sure that every number of an HDF5 file lies in it, once and uncompressed.

    Raises
    ------
    ValueError
        If a dataset lies in another file, is compressed, or claims more than is stored.
    """
    linked = file.visititems_links(
        lambda name, link: None if isinstance(link, h5py.HardLink) else (name, link)
    )
    if linked:
        raise ValueError(f"{linked[0]} is of type {type(linked[1]).__name__}")
    expanding = file.visititems(
        lambda name, item: name if isinstance(item, h5py.Dataset) and not _is_stored(item) else None
    )
    if expanding:
        raise ValueError(f"{expanding} is compressed, or claims more than is stored")


def _is_stored(dataset: h5py.Dataset) -> bool:
    if dataset.is_virtual or dataset.external or dataset.chunks:
        return False
    return dataset.shape is not None and dataset.id.get_storage_size() >= dataset.nbytes
