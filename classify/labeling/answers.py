"""The answers of a person, in a manifest to which rows are only ever appended.

Every row is on the disk before the next photo is asked for, so that a program which is killed loses
no answer.
"""

import csv
import errno
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from extract.photos import manifest
from extract.photos.manifest import Reading
from extract.system import atomic, locations, lock
from extract.system.console import InputError, warn
from extract.system.provenance import now

COLUMNS = ("path", "label", "split", "group", "answer", "time")
"""The columns of a new manifest of answers."""

NEEDED = {"answer", "time"}
"""A manifest with these columns, in UTF-8, can be appended to."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class NotSaved(Exception):
    """An answer could not be written; the file holds the same rows as before."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error.strerror or error))
        self.is_full = error.errno in NO_ROOM


class Line(NamedTuple):
    """A row to write.

    Attributes
    ----------
    place : str
        The absolute path of the photo.
    label, split, group, answer : str
        See `extract.photos.manifest.Row`.
    """

    place: str
    label: str = ""
    split: str = ""
    group: str = ""
    answer: str = ""


@dataclass
class Answers:
    """A manifest of answers that this process may write.

    Attributes
    ----------
    file : Path
    reading : Reading
        What it held when it was opened.
    """

    file: Path
    reading: Reading
    _descriptor: int

    def add(self, lines: Sequence[Line]) -> None:
        """Append answers, and return when they are on the disk.

        Raises
        ------
        NotSaved
        """
        self._append(lines, time=now())

    def complete(self, lines: Sequence[Line]) -> None:
        """Append the photos that the manifest does not name yet, as rows that nobody answered."""
        missing = [line for line in lines if line.place not in self.reading.rows]
        if missing:
            self._append(missing, time="")

    def _append(self, lines: Sequence[Line], *, time: str) -> None:
        text = _as_text(self.file, self.reading, lines, time=time)
        end = os.fstat(self._descriptor).st_size
        try:
            if not os.path.samestat(os.stat(self.file), os.fstat(self._descriptor)):
                raise OSError(errno.ESTALE, "another program has replaced the file")
            _write(self._descriptor, text.encode())
            os.fsync(self._descriptor)
        except OSError as error:
            # Half a row would be read as another answer.
            os.ftruncate(self._descriptor, end)
            raise NotSaved(error) from error


def can_be_continued(file: Path) -> bool:
    """Say whether answers can be appended to a manifest."""
    return set(manifest.read(file).columns) >= NEEDED and not _is_wide(file.read_bytes())


@contextmanager
def opened(file: Path, photos: Sequence[Line]) -> Iterator[Answers]:
    """Open a manifest of answers, which is begun if there is none, for this process alone.

    Parameters
    ----------
    file : Path
    photos : sequence of Line
        The photos that have a label already. They make the manifest complete.

    Raises
    ------
    InputError
        If another process writes it, or it is another kind of file.
    """
    atomic.make_writable(file.parent, "--to")
    with lock.held(file.with_name(f".{file.name}.lock"), wait=False):
        if not os.path.lexists(file):
            header = manifest.as_text([COLUMNS])
            columns = Reading(file, columns=list(COLUMNS))
            atomic.write_text(file, header + _as_text(file, columns, photos, time=""))
        _mend(file)
        if not can_be_continued(file):
            raise InputError(
                f"{file}: answers cannot be written to it, because it lacks the columns answer and "
                "time or is not UTF-8; choose another file with --to"
            )
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0))
        try:
            answers = Answers(file, manifest.read(file), descriptor)
            answers.complete(photos)
            yield answers
        finally:
            os.close(descriptor)


def _as_text(file: Path, reading: Reading, lines: Sequence[Line], *, time: str) -> str:
    folder = os.path.dirname(os.path.abspath(file))
    text = io.StringIO()
    # With every field in quotes, a row that was cut short cannot be taken for a whole one.
    writer = csv.writer(
        text, delimiter=reading.delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL
    )
    for line in lines:
        path = manifest.safe_path(locations.relative(line.place, folder))
        values = line._asdict() | {"path": path, "time": time}
        writer.writerow([values.get(name, "") for name in reading.columns])
    return text.getvalue()


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _is_wide(data: bytes) -> bool:
    """Say whether a text is UTF-16."""
    return data.startswith((b"\xff\xfe", b"\xfe\xff"))


def _mend(file: Path) -> None:
    """End the last row of a file, or remove it if it was cut short when the machine stopped."""
    data = file.read_bytes()
    if _is_wide(data):
        return
    whole = _whole_rows(data)
    if whole == len(data) and data.endswith(b"\n"):
        return
    with open(file, "r+b") as mended:
        mended.truncate(whole)
        if whole == len(data):
            mended.seek(0, os.SEEK_END)
            mended.write(b"\n")
        else:
            warn(f"{file}: its last row was cut short when the program was stopped; removed")
        mended.flush()
        os.fsync(mended.fileno())


def _whole_rows(data: bytes) -> int:
    """Return how many bytes there are without a last row that was cut short by a crash.

    Rows that were written here have every field in quotes; any other row is taken as it is.
    """
    text = data.decode("utf-8", "surrogateescape")
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(
        lines, delimiter=manifest.separator(text), skipinitialspace=True, strict=True
    )
    ends, widths = [0], [0]
    with suppress(csv.Error):
        for fields in reader:
            ends.append(reader.line_num)
            widths.append(len(fields))
    rest = "".join(lines[ends[-1] :])
    if rest:
        # An open quote reaches to the end. Of more than a row, a person has to judge.
        is_cut = rest.startswith('"') and rest.count("\n") < 2
    else:
        rest = "".join(lines[ends[-2] :]) if len(ends) > 1 else ""
        is_ours = rest.startswith('"') and not rest.endswith("\n")
        is_cut = is_ours and (not rest.endswith('"') or widths[-1] < max(widths))
    return len(data) - (len(rest.encode("utf-8", "surrogateescape")) if is_cut else 0)
