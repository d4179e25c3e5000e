"""Write heatmaps of photos into a folder: ``python -m classify predict ... --heatmaps FOLDER``."""

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from classify.heatmaps import picture
from classify.heatmaps.hiding import Pixels
from classify.serving import heatmaps
from classify.serving.heatmaps import Heatmap
from classify.serving.model import Model
from extract.photos import decode, files
from extract.system import atomic, console, locations
from extract.system.console import InputError, csv_cell, warn

TABLE = "heatmaps.csv"

SIDE = 1024
"""The longer side of a picture in pixels, at most."""

COLUMNS = ("path", "file", "class", "probability", "without_hottest", "without_random")


class Opened(NamedTuple):
    """A photo that was read to be explained."""

    path: str
    squares: dict[int, Pixels]
    upright: Image.Image
    seed: int


def check_folder(folder: Path) -> None:
    """Make sure that pictures can be written to a folder, before anything that takes a while.

    Raises
    ------
    InputError
        If it cannot be made, or holds anything: pictures of another model would be mixed up with
        these.
    """
    atomic.make_writable(folder, "--heatmaps")
    if any(folder.iterdir()):
        raise InputError(f"{folder}: not empty; name a new or empty folder with --heatmaps")


def write(model: Model, paths: Sequence[str], folder: Path, *, piped: bytes = b"") -> None:
    """Write a picture of each photo, and a table with all of them.

    What was written before a signal stays, with its table.

    Parameters
    ----------
    model : Model
    paths : sequence of str
        Photos; ``-`` is the one on standard input.
    folder : Path
        See `check_folder`.
    piped : bytes
        What was read on standard input.
    """
    written: list[tuple[str, str, Heatmap]] = []
    free = _free_names()
    try:
        with console.progress("heatmaps", len(paths), unit="photos") as advance:
            for start in range(0, len(paths), heatmaps.AT_ONCE):
                some = paths[start : start + heatmaps.AT_ONCE]
                opened = [one for path in some if (one := _opened(model, path, piped))]
                found = heatmaps.heatmaps(
                    model, [one.squares for one in opened], [one.seed for one in opened]
                )
                for one, heatmap in zip(opened, found, strict=True):
                    name = free(Path(one.path).stem if one.path != "-" else "standard input")
                    overlaid = picture.overlaid(one.upright, heatmap.heat)
                    atomic.write_bytes(folder / name, picture.as_bytes(overlaid, "JPEG"))
                    written.append((one.path, name, heatmap))
                advance(len(some))
    finally:
        atomic.write_text(folder / TABLE, _table(written, model.result.class_names))
    if written:
        warn(f"{folder}: {console.count(len(written), 'heatmap')}; {_summary(written)}")


def _opened(model: Model, path: str, piped: bytes) -> Opened | None:
    try:
        if path == "-":
            return _read(model, path, piped)
        with files.content(Path(), path) as data:
            return _read(model, path, data)
    except (OSError, decode.Unreadable) as error:
        warn(f"no heatmap: {locations.readable_name(path)}: {error}")
        return None


def _read(model: Model, path: str, data: bytes) -> Opened:
    upright = decode.upright(data, size=SIDE // decode.DRAFT)
    upright.thumbnail((SIDE, SIDE))
    return Opened(path, heatmaps.squares(model, data), upright, heatmaps.seed_of(data))


def _free_names() -> Callable[[str], str]:
    """Return a function that gives each picture a name of its own."""
    taken = {TABLE}

    def free(stem: str) -> str:
        names: Iterator[str] = (
            # A name has at most 255 bytes, and a character up to four.
            f"{stem[:60]}{f' ({number})' if number > 1 else ''}.jpg"
            for number in count(1)
        )
        name = next(name for name in names if name.casefold() not in taken)
        taken.add(name.casefold())
        return name

    return free


def _table(written: Sequence[tuple[str, str, Heatmap]], class_names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for path, name, found in written:
        shares = (found.probability, found.without_hottest, found.without_random)
        readable = path if path == "-" else csv_cell(locations.readable_name(path))
        file = csv_cell(os.fsencode(name).decode("utf-8", "backslashreplace"))
        cells = [readable, file, csv_cell(class_names[found.label])]
        writer.writerow([*cells, *(f"{share:.6f}" for share in shares)])
    return text.getvalue()


def _summary(written: Sequence[tuple[str, str, Heatmap]]) -> str:
    """Say by how much the probability falls on average when parts of the photos are hidden."""
    found = [heatmap for _, _, heatmap in written]
    hottest = sum(one.probability - one.without_hottest for one in found) / len(found)
    random = sum(one.probability - one.without_random for one in found) / len(found)
    return (
        "the probability of the class falls by "
        f"{100 * hottest:.0f} points on average if the hottest fifth of a photo is hidden, and by "
        f"{100 * random:.0f} if a random fifth is"
    )
