"""The record of a sort: what was done with every photo, so that it can be continued and undone.

It is a manifest too (`extract.photos.manifest`): it has a path and a label for each photo.
"""

import csv
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from extract.photos import manifest
from extract.system import atomic
from extract.system.console import InputError
from extract.system.locations import slashed

NAME = "onepass-sort.csv"

LINK, COPY, MOVE = "link", "copy", "move"
HOW = (LINK, COPY, MOVE)

FOLDER = "folder"
"""What stands in the place of these words in the row of a folder that the sort made."""

DIGEST = re.compile(r"[0-9a-f]{64}")


class Row(NamedTuple):
    """What is done with a photo, or a folder that is made.

    Attributes
    ----------
    path : str
        Where it goes: ``folder/name``, relative to the folder of the record. For a folder its name,
        or ``.`` for the folder of the record.
    label : str
        The name of the class's folder. Empty if the photo has no class.
    source : str
        Where it comes from, relative to the folder of the record without symbolic links.
    how : str
        One of `HOW`, or `FOLDER`.
    digest : str
        The SHA-256 of the photo.
    probability : str
        That of its most probable class.
    done : str
        ``yes``, or empty as long as it may not have been done.
    """

    path: str
    label: str = ""
    source: str = ""
    how: str = FOLDER
    digest: str = ""
    probability: str = ""
    done: str = ""


def read(file: Path) -> list[Row]:
    """Read a record; there are no rows if there is no file.

    Raises
    ------
    InputError
        If it is no record of a sort, or leads out of its folder.
    """
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            header, *rows = [*csv.reader(lines, strict=True)] or [[]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read as the record of a sort ({error})") from error
    if tuple(header) != Row._fields:
        raise InputError(f"{file}: not the record of a sort; its first line names other columns")
    return [_row(file, number, row) for number, row in enumerate(rows, start=1)]


def _row(file: Path, number: int, fields: list[str]) -> Row:
    if len(fields) != len(Row._fields):
        raise InputError(f"{file}: row {number:,} has {len(fields)} columns; leave it as it was")
    row = Row(*fields)
    row = row._replace(path=slashed(os.path.normpath(row.path)))
    if row.how != FOLDER:
        row = row._replace(source=slashed(os.path.normpath(row.source)))
    parts = row.path.split("/")
    wanted = 1 if row.how == FOLDER else 2
    usable = (
        row.how in (*HOW, FOLDER)
        and (row.how == FOLDER or DIGEST.fullmatch(row.digest))
        and len(parts) == wanted
        and not {"", ".."} & {*parts}
        and not os.path.splitdrive(row.path)[0]
        # On Windows, the way to another drive begins with its letter.
        and (os.path.splitdrive(row.source)[0] or not os.path.isabs(row.source))
        and "\0" not in row.path + row.source
    )
    if not usable:
        raise InputError(f"{file}: row {number:,} was not written by a sort; nothing was done")
    return row


def write(file: Path, rows: Iterable[Row]) -> None:
    """Write a record, whole or not at all."""
    safe = [row._replace(source=manifest.safe_path(row.source)) for row in rows]
    atomic.write_text(file, manifest.as_text([Row._fields, *safe]))
