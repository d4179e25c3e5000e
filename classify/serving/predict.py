"""Print what a model predicts for new photos: ``python -m classify predict runs/chess/svm PHOTO``.

The answers go to standard output, everything else to standard error.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, redirect_stdout
from itertools import chain
from pathlib import Path
from typing import Any

from classify.novelty import KEEP
from classify.serving import UNSURE, heatmap_files
from classify.serving.answer_formats import Predicted
from classify.serving.model import Answer, Model, answers, load_model, warn_without_novelty
from extract.compute import reading
from extract.photos import files, scan
from extract.system import console, locations
from extract.system.console import InputError, warn


def predict_photos(
    run: Path,
    names: Sequence[str],
    *,
    write: Callable[[Predicted], str],
    unsure: float = UNSURE,
    keep: float | None = KEEP,
    heatmaps: Path | None = None,
    **vgg16: Any,
) -> None:
    """Print what a model predicts for photos.

    Parameters
    ----------
    run : Path
        ``runs/<data>/<model>``.
    names : sequence of str
        Photos and folders; ``-`` is a photo on standard input.
    write : callable
        Turns answers into text, see `classify.serving.answer_formats`.
    unsure : float
        Probability below which the most probable class is not sure.
    keep : float or None
        As for `classify.serving.model.answers`.
    heatmaps : Path or None
        The new or empty folder that gets a heatmap of each photo, after all answers are printed.
    **vgg16
        As for `classify.serving.model.load_model`.

    Raises
    ------
    InputError
        If the model or a photo is missing, or no photo can be read.
    """
    paths, skipped = listed(names)
    if heatmaps:
        heatmap_files.check_folder(heatmaps)
    piped = _standard_input() if "-" in paths else b""
    # Libraries print on standard output, which is for answers only.
    with redirect_stdout(sys.stderr):
        model = load_model(run, **vgg16)
    if keep is not None:
        warn_without_novelty(run, model)
    predicted = Predicted(model.result, [], skipped)
    try:
        with redirect_stdout(sys.stderr):
            answered = _predict(model, paths, piped, predicted, unsure=unsure, keep=keep)
    except (console.Stopped, InputError):
        sys.stdout.write(write(predicted))
        raise
    for path, reason in skipped:
        warn(f"skipped: {path}: {reason}")
    if not predicted.answers:
        raise InputError(f"{names[0]}: no photo there that can be read")
    sys.stdout.write(write(predicted))
    _summarise(predicted, unsure=unsure, tells_novel=model.limit(keep) is not None)
    if heatmaps:
        sys.stdout.flush()
        with redirect_stdout(sys.stderr):
            heatmap_files.write(model, answered, heatmaps, piped=piped)


def _summarise(predicted: Predicted, *, unsure: float, tells_novel: bool) -> None:
    """Say how many photos there were, and of how many the model was not sure."""
    novel = sum(answer.none_of_these is True for answer in predicted.answers)
    not_sure = sum(not (answer.sure or answer.none_of_these) for answer in predicted.answers)
    none = f"{novel:,} none of these, " if tells_novel else ""
    warn(
        f"{predicted.result.model}, trained on {predicted.result.data}: "
        f"{console.count(len(predicted.answers), 'photo')}, "
        f"{none}{not_sure:,} unsure (below {unsure:.0%}), {len(predicted.skipped):,} skipped"
    )


def listed(names: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the photos, those in folders too, and what else is in the folders.

    Parameters
    ----------
    names : sequence of str
        Photos and folders; ``-`` is a photo on standard input.

    Returns
    -------
    paths : list of str
    skipped : list of (path, reason)

    Raises
    ------
    InputError
        If one of them does not exist.
    """
    paths: list[str] = []
    skipped: list[tuple[str, str]] = []
    for name in names:
        if name != "-" and not os.path.exists(name):
            raise InputError(f"{name}: no such file or folder")
        if os.path.isdir(name):
            inside = scan.all_photos(Path(name))
            paths += [str(Path(name, photo.path)) for photo in inside.photos]
            folder = Path(locations.readable_name(name))
            skipped += [(str(folder / path), reason) for path, reason in inside.skipped]
        else:
            paths.append(name)
    return paths, skipped


def _predict(
    model: Model,
    paths: Sequence[str],
    piped: bytes,
    predicted: Predicted,
    *,
    unsure: float,
    keep: float | None,
) -> list[str]:
    """Add an answer for each photo, or the reason why there is none; return those with answers."""
    named = [path for path in paths if path != "-"]
    first = []
    if "-" in paths:
        first.append(reading.squares("-", piped, known=model.known))
    answered = []
    with (
        console.progress("predict", len(named) + len(first), unit="photos") as advance,
        closing(reading.read_squares_ahead(Path(), named, known=model.known)) as read,
    ):
        for answer in answers(model, chain(first, read), unsure=unsure, keep=keep):
            path = locations.readable_name(answer.path)
            if isinstance(answer, Answer):
                predicted.answers.append(answer._replace(path=path))
                answered.append(answer.path)
            else:
                predicted.skipped.append((path, answer.reason))
            advance(1)
    return answered


def _standard_input() -> bytes:
    """Read the photo on standard input; of a larger one than any that is read, only the start."""
    return sys.stdin.buffer.read(files.LARGEST)
