"""Manifests: CSV files that name photos and their labels, and may lie anywhere beside them.

Nothing is written where a manifest says so, and of the files that it names only images are used. So
a manifest may come from a stranger.
"""

import csv
import io
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from extract.photos import datasets, layout, scan
from extract.photos.scan import Photo, Scan
from extract.system import atomic, bounded, locations
from extract.system.console import InputError, count, warn
from extract.system.locations import readable_name

COLUMNS = ("path", "label", "split", "group", "time", "answer")
"""The columns that are read, in any order and case; `path` and `label` are needed."""

RECORD = {"time", "answer"}
"""A manifest with one of these columns is a record of answers: a later row replaces an earlier."""

ANSWERS = ("label", "skip", "none", "undo")
"""What a row of a record may be; `label` if the field is empty."""

DELIMITERS = ",;\t"
SEPARATOR_LINE = re.compile(r'"?sep=(?P<delimiter>.)"?(\r\n|\r|\n)')
"""A first line by which programs tell a spreadsheet how the columns are separated."""

FORMULA = tuple("=+-@\t\r")
"""What begins a formula in a spreadsheet."""

LARGEST = 2**30
LONGEST = 255
"""Bytes in a label or the name of a group. The name of a folder has at most as many."""

SHOWN = 20
"""At most this many bad rows are listed."""


class Row(NamedTuple):
    """A row of a manifest.

    Attributes
    ----------
    line : int
        The line on which it begins.
    place : str
        The absolute path of the photo.
    label, split, group : str
        The split is ``train``, ``val``, ``test`` or empty.
    answer : str
        One of `ANSWERS`.
    time : str
        When it was answered; empty for a row that nobody answered.
    """

    line: int
    place: str
    label: str
    split: str
    group: str
    answer: str
    time: str = ""


@dataclass
class Reading:
    """What was found in a manifest so far.

    Attributes
    ----------
    file : Path
    rows : dict of str to list of Row
        By absolute path; the last row of a path counts.
    problems : list of str
        The bad rows, a sentence each.
    columns : list of str
        The names of the columns, in lower case.
    named, unlabelled : set of str
        The paths in rows with a label or an answer, and in rows without, as they are written.
    delimiter : str
    """

    file: Path
    rows: dict[str, list[Row]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    unlabelled: set[str] = field(default_factory=set)
    delimiter: str = ","

    @property
    def is_record(self) -> bool:
        """Whether later rows of a photo replace earlier ones."""
        return bool(RECORD & set(self.columns))

    def counts(self) -> dict[str, Row]:
        """Return the row of each photo that counts, by absolute path."""
        return {place: _effective(rows) for place, rows in self.rows.items()}

    def answers(self) -> list[Row]:
        """Return the rows that somebody answered and did not take back, in their order."""
        rows = [row for rows in self.rows.values() for row in rows if row.time]
        return sorted(rows, key=lambda row: row.line)


def labelled_photos(file: Path) -> Scan:
    """Return the photos that a manifest labels.

    The root of the result is the folder of the manifest, or if photos lie elsewhere, the innermost
    folder that holds it and all photos.

    Raises
    ------
    InputError
        If it cannot be read, or a row is bad. The bad rows are listed before.
    """
    found = read(file)
    chosen = [row for row in found.counts().values() if row.answer == "label"]
    if not chosen:
        raise InputError(f"{file}: no row has a label; fill in the column label")
    return _as_scan(found, chosen)


def read(file: Path) -> Reading:
    """Read every row of a manifest.

    Raises
    ------
    InputError
        If it cannot be read, or a row is bad. The bad rows are listed before.
    """
    found = _read(Path(os.path.abspath(file)))
    if found.problems:
        for problem in found.problems[:SHOWN]:
            warn(f"  {problem}")
        more = len(found.problems) - SHOWN
        if more > 0:
            warn(f"  and {count(more, 'other bad row')}")
        rows = count(len(found.problems), "row")
        raise InputError(f"{file}: {rows} cannot be used, see above; correct or remove them")
    return found


def write(file: Path, found: Scan) -> None:
    """Write a manifest that gives the same photos, labels, splits and groups as a scan.

    Parameters
    ----------
    file : Path
        It must not exist. Paths are written relative to its folder.
    found : Scan
        Of a folder on this machine.

    Raises
    ------
    InputError
        If the file exists, or its name is not that of a manifest.
    """
    if not file.name.lower().endswith(datasets.MANIFESTS):
        endings = ", ".join(datasets.MANIFESTS)
        raise InputError(f"{file}: the name of a manifest ends with {endings}; give another --to")
    if os.path.lexists(file):
        raise InputError(f"{file} exists; choose another file with --to, or move it away")
    folder = os.path.abspath(file.parent)
    optional = [name for name in ("split", "group") if any(getattr(p, name) for p in found.photos)]
    rows = [["path", "label", *optional]]
    for photo in found.photos:
        path = locations.relative(os.path.join(str(found.root), photo.path), folder)
        more = [getattr(photo, name) for name in optional]
        rows.append([safe_path(path), photo.class_name, *more])
    for name in found.class_names:
        if name.startswith(FORMULA):
            warn(f"the label {name!r} begins as a formula does; spreadsheets may compute it")
    atomic.write_text(file, as_text(rows))


def as_text(rows: Iterable[Sequence[str]]) -> str:
    """Write rows as lines of a manifest; what is read from it is what was written."""
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        # Spaces after a separator are not read, unless they are in quotes.
        spaces = any(value.startswith(" ") for value in row)
        (quoted if spaces else plain).writerow(row)
    return text.getvalue()


def safe_path(path: str) -> str:
    """Return a relative path that no spreadsheet takes for a formula."""
    return f"./{path}" if path.startswith(FORMULA) else path


def _read(file: Path) -> Reading:
    """Read every row of a manifest, good or bad."""
    found = Reading(file)
    text = _text(file)
    begin, found.delimiter = 0, separator(text)
    if match := SEPARATOR_LINE.match(text):
        begin, text = 1, text[match.end() :]
    lines = _lines(file, text, found.delimiter, begin)
    header = next((fields for _, fields in lines), [])
    found.columns = [name.strip().casefold() for name in header]
    _check_header(found, header)
    for line, fields in lines:
        try:
            row = _row(found, line, fields)
            if row is not None:
                _add(found, row)
        except ValueError as error:
            found.problems.append(f"line {line:,}: {error}")
    return found


def _text(file: Path) -> str:
    """Return the text of a file, which is UTF-8, or UTF-16 with a byte order mark."""
    try:
        data = bounded.content(file, largest=LARGEST)
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file; give a CSV file or a folder as DATA") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the file") from error
    except ValueError as error:
        raise InputError(f"{file}: {error}, too large for a manifest; divide it") from error
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{file}: line {line:,} is not text in {'UTF-16' if wide else 'UTF-8'}; save the file "
            "as CSV in UTF-8"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(
            f"{file}: line {line:,} has a zero byte, so it is no text; save the file as CSV in "
            "UTF-8"
        )
    return text


def separator(text: str) -> str:
    """Return the separator that the first line tells, or with which it names path and label."""
    if match := SEPARATOR_LINE.match(text):
        return match["delimiter"]
    first = next((line for line in text.splitlines() if line.strip()), "")
    for delimiter in DELIMITERS:
        names = {name.strip(' "').casefold() for name in first.split(delimiter)}
        if {"path", "label"} <= names:
            return delimiter
    return max(DELIMITERS, key=first.count)


def _lines(file: Path, text: str, delimiter: str, begin: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of every row that has any, and the number of its first line."""
    # Inside quotes, a line break is a part of a name.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    line = begin + 1
    try:
        for fields in reader:
            if any(map(str.strip, fields)):
                yield line, fields
            line = begin + reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{file}: line {line:,} is not CSV ({error}); a field with a separator, a quote or a "
            'line break in it has quotes around it, and quotes in it are doubled ("")'
        ) from error


def _check_header(found: Reading, header: Sequence[str]) -> None:
    """Make sure that the columns are clear, and say once which ones are not read."""
    if missing := [name for name in ("path", "label") if name not in found.columns]:
        shown = ", ".join(header)[:100]
        raise InputError(
            f"{found.file}: its first line must name the columns path and label; it lacks "
            f"{' and '.join(missing)}, and reads {shown!r}"
        )
    for name, times in Counter(found.columns).items():
        if times > 1 and name in COLUMNS:
            raise InputError(f"{found.file}: {times} columns are called {name}; keep one of them")


def _row(found: Reading, line: int, fields: Sequence[str]) -> Row | None:
    """Return a row; None if it has no label.

    Raises
    ------
    ValueError
        If it is bad.
    """
    if any(map(str.strip, fields[len(found.columns) :])):
        raise ValueError(
            f"{len(fields)} fields for {len(found.columns)} columns; put quotes around a name that "
            "contains the separator"
        )
    values = dict.fromkeys(COLUMNS, "") | dict(zip(found.columns, fields, strict=False))
    answer = values["answer"].strip().casefold() or "label"
    if answer not in ANSWERS:
        raise ValueError(f"the answer {_short(answer)} is none of {', '.join(ANSWERS)}")
    if answer == "label" and not values["label"].strip():
        found.unlabelled.add(values["path"])
        return None
    found.named.add(values["path"])
    label, group = _name("label", values["label"]), _name("group", values["group"])
    place = _place(found.file.parent, values["path"])
    split = _split(values["split"])
    group = group if group.strip() else ""
    return Row(line, place, label, split, group, answer, values["time"].strip())


def checked_label(text: str) -> str:
    """Return a label as a manifest holds it.

    Raises
    ------
    ValueError
        If no manifest can hold it.
    """
    if not text.strip() or any(character in text for character in "\0\r\n"):
        raise ValueError(f"the label {_short(text)} is empty or has more than one line")
    return _name("label", text)


def _name(column: str, text: str) -> str:
    name = unicodedata.normalize("NFC", text)
    if len(name.encode()) > LONGEST:
        raise ValueError(f"the {column} {_short(name)} has more than {LONGEST} bytes")
    return name


def _split(text: str) -> str:
    if not text.strip():
        return ""
    split = layout.split_of(text)
    if not split:
        raise ValueError(f"the split {_short(text)} is none of train, val and test")
    return split


def _place(folder: Path, text: str) -> str:
    """Return the absolute path of a photo that a manifest in a folder names.

    Raises
    ------
    ValueError
        If there is no such file.
    """
    if not text.strip():
        raise ValueError("the path is empty")
    problem = ""
    for name in _spellings(text):
        place = locations.plain(str(folder), name)
        try:
            mode = os.stat(place).st_mode
        except OSError as error:
            problem = problem or f"{_short(text)} cannot be read ({error.strerror})"
            continue
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise ValueError(f"{_short(text)} is {kind}")
        if place != readable_name(place):
            raise ValueError(f"{_short(text)} lies in a folder whose name is not UTF-8; rename it")
        return place
    if locations.is_url(text.strip()):
        raise ValueError(f"{_short(text)} is a URL; the photos of a manifest lie on this machine")
    raise ValueError(problem)


def _spellings(text: str) -> Iterator[str]:
    """Yield the ways in which a path may be meant: first as it is."""
    yield text
    stripped = text.strip()
    yield stripped
    for form in ("NFC", "NFD"):
        yield unicodedata.normalize(form, stripped)
    yield stripped.replace("\\", "/")
    if not locations.is_url(stripped):
        try:
            yield locations.typed(stripped)
        except InputError as error:
            raise ValueError(str(error)) from error


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 100 else f"{shown[:100]}..."


def _add(found: Reading, row: Row) -> None:
    """Add a row to those of its photo; a record of answers is a history, any other is not.

    Raises
    ------
    ValueError
        If it contradicts an earlier row.
    """
    rows = found.rows.setdefault(row.place, [])
    if row.answer == "undo":
        if not rows:
            raise ValueError("it takes back an answer, and there is none for this photo")
        rows.pop()
    elif found.is_record or not rows:
        rows.append(row)
    else:
        first = rows[0]
        for name in ("label", "split", "group"):
            before, now = getattr(first, name), getattr(row, name)
            if before != now:
                raise ValueError(
                    f"{row.place} has the {name} {_short(now)}, and {_short(before)} in line "
                    f"{first.line:,}"
                )


def _effective(rows: Sequence[Row]) -> Row:
    """Return the row of a photo that counts: the last, but for those that were skipped."""
    answered = [row for row in rows if row.answer != "skip"]
    return answered[-1] if answered else Row(0, "", "", "", "", "skip")


def _as_scan(found: Reading, rows: Sequence[Row]) -> Scan:
    folder = root = found.file.parent.as_posix()
    inside = folder.rstrip("/") + "/"
    outside = {os.path.dirname(row.place) for row in rows if not row.place.startswith(inside)}
    if outside:
        root = _common(found.file, [folder, *outside])
    begin = len(root.rstrip("/")) + 1
    any_split = any(row.split for row in rows)
    photos = [
        # Beside photos with a split, those without are for training.
        Photo(row.place[begin:], row.label, row.split or ("train" if any_split else ""), row.group)
        for row in rows
    ]
    class_names = sorted({photo.class_name for photo in photos})
    if len(class_names) < 2:
        raise InputError(f"{found.file}: every label is {class_names[0]!r}; two are needed")
    if {photo.split for photo in photos} == {"train"}:
        raise InputError(
            f"{found.file}: the column split names only train; name test or val in some rows, or "
            "leave the column out"
        )
    return Scan(
        root=Path(root),
        photos=sorted(photos),
        class_names=class_names,
        notes=[*_notes(found, rows, any_split=any_split), *scan.alike(class_names)],
    )


def _common(file: Path, folders: Sequence[str]) -> str:
    try:
        return locations.slashed(os.path.commonpath(folders))
    except ValueError as error:
        raise InputError(
            f"{file}: its photos lie on several drives; copy them, and it, to one drive"
        ) from error


def _notes(found: Reading, rows: Sequence[Row], *, any_split: bool) -> list[str]:
    notes = []
    unknown = [name for name in found.columns if name and name not in COLUMNS]
    if unknown:
        shown = ", ".join(map(_short, unknown[:SHOWN]))
        notes.append(f"{found.file}: columns that are not read: {shown}")
    unlabelled = len(found.unlabelled - found.named)
    if unlabelled:
        notes.append(f"{found.file}: {count(unlabelled, 'photo')} without a label left out")
    others = len(found.rows) - len(rows)
    if others:
        notes.append(f"{found.file}: {count(others, 'photo')} answered without a label left out")
    missing = sum(not row.split for row in rows) if any_split else 0
    if missing:
        notes.append(f"{found.file}: {count(missing, 'photo')} without a split, used for training")
    return notes
