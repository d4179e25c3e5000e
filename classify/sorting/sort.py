"""Sort photos into folders: ``python -m classify sort runs/chess/svm PHOTO... --to sorted``.

Unless it is told how, it only says what would happen.
"""

import os
import shlex
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from classify.novelty import KEEP
from classify.serving import UNSURE, predict
from classify.serving.model import Answer, Model, answers, load_model, warn_without_novelty
from classify.sorting import actions, names, record
from classify.sorting.record import COPY, LINK, MOVE, Row
from classify.sorting.sorted_folder import SortedFolder
from extract.compute import reading
from extract.compute.reading import Squares
from extract.system import console
from extract.system.console import InputError, count, say, warn
from extract.system.locations import readable_name, relative

AT_ONCE = 1000
"""Photos that are predicted before they are put into their folders; a killed run predicts at most
these again."""

SHOWN = 10
"""Photos that are named if nothing is done yet."""

DONE = {LINK: "linked", COPY: "copied", MOVE: "moved", "": "to sort"}


class Wanted(NamedTuple):
    """What is to be done.

    Attributes
    ----------
    to : Path
        The folder that the photos are sorted into.
    how : str
        See `classify.sorting.record.HOW`. Empty to say only what would happen.
    unsure : float
        Probability below which the most probable class is not sure.
    keep : float or None
        See `classify.serving.model.answers`.
    """

    to: Path
    how: str = ""
    unsure: float = UNSURE
    keep: float | None = KEEP


def sort_photos(run: Path, photos: Sequence[str], wanted: Wanted, **vgg16: Any) -> None:
    """Sort photos into a folder for each class, one for the unsure, and one for none of these.

    Parameters
    ----------
    run : Path
        ``runs/<data>/<model>``.
    photos : sequence of str
        Photos and folders.
    wanted : Wanted
    **vgg16
        As for `classify.serving.model.load_model`.

    Raises
    ------
    InputError
        If the model or a photo is missing, no photo can be read, or the folder cannot be written.
    """
    if "-" in photos:
        raise InputError("-: a photo on standard input cannot be sorted; give a file")
    paths, skipped = predict.listed(photos)
    folder = SortedFolder(wanted.to)
    _check_how(folder, wanted)
    model = load_model(run, **vgg16)
    if wanted.keep is not None:
        warn_without_novelty(run, model)
    with folder.changing() if wanted.how else nullcontext():
        if wanted.how:
            folder.finish()
        plan = _Plan(folder, wanted, model.result.class_names)
        new = plan.new(paths, skipped)
        if wanted.how == MOVE:
            _check_removable(new)
        done = []
        with closing(_rows(model, new, plan, skipped)) as rows:
            while some := [*islice(rows, AT_ONCE)]:
                left = folder.carry_out(some) if wanted.how else {}
                skipped += [(plan.typed[row.source], left[row]) for row in left]
                done += [row for row in some if row not in left]
    for path, reason in skipped:
        warn(f"skipped: {path}: {reason}")
    if not done and not plan.sorted_before and not folder.photos:
        raise InputError(f"{photos[0]}: no photo there that can be read")
    _tell(model, plan, done, len(skipped))


def undo(file: Path) -> None:
    """Undo a sort: move photos back, and remove the links and copies that were made.

    Parameters
    ----------
    file : Path
        The record of the sort.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; a sort leaves {record.NAME} in its folder")
    folder = SortedFolder(file.parent, file)
    with folder.changing():
        total = len(folder.photos)
        with console.progress("undo", total, unit="photos") as advance:
            left = folder.undo(advance)
    for path, reason in left:
        warn(f"left as it is: {path}: {reason}")
    kept = f", {len(left):,} left as they are, which {file} still names" if left else ""
    say(f"{count(total - len(left), 'photo')} of {total:,} undone{kept}")


class _Plan:
    """Where each photo goes.

    Attributes
    ----------
    sorted_before : int
        Photos that need nothing more.
    typed : dict of str to str
        The paths of the other photos as the user knows them, by the paths in the record.
    """

    def __init__(self, folder: SortedFolder, wanted: Wanted, class_names: Sequence[str]) -> None:
        self.folder, self.wanted = folder, wanted
        self.folders = names.folders(class_names)
        self.sorted_before = 0
        self.typed: dict[str, str] = {}
        # Many photos lie in one folder, and each part of its path may be a link.
        self._real = cache(os.path.realpath)
        self._free = names.FreeNames(folder.root)
        ours = [*self.folders.values(), names.UNSURE, names.NONE]
        ours += [os.path.dirname(row.path) for row in folder.photos]
        self._ours = {names.key(name) for name in ours}
        self._recorded: dict[str, list[Row]] = {}
        for row in folder.photos:
            self._recorded.setdefault(row.source, []).append(row)

    def new(self, paths: Iterable[str], skipped: list[tuple[str, str]]) -> list[str]:
        """Return the photos that must be sorted, each once."""
        for path in paths:
            source = self._source(path)
            if source != readable_name(source):
                skipped.append((readable_name(path), "file or folder name is not UTF-8; rename it"))
            elif self.wanted.how == MOVE and os.path.islink(path):
                skipped.append((path, "a move could break this link; copy it"))
            elif source == record.NAME:
                continue
            elif self._is_sorted(source, path):
                self.sorted_before += 1
            else:
                self.typed[source] = path
        return [*self.typed.values()]

    def row(self, answer: Answer, digest: str) -> Row:
        """Return where a photo goes, under a name that is free there."""
        folder = self.folder_of(answer)
        return Row(
            path=f"{folder}/{self._free.take(folder, os.path.basename(answer.path))}",
            label=folder if folder not in (names.UNSURE, names.NONE) else "",
            source=self._source(answer.path),
            how=self.wanted.how,
            digest=digest,
            probability=f"{answer.ranked[0][1]:.6f}",
        )

    def folder_of(self, answer: Answer) -> str:
        """Return the name of the folder for an answer."""
        if answer.none_of_these:
            return names.NONE
        return self.folders[answer.ranked[0][0]] if answer.sure else names.UNSURE

    def _source(self, path: str) -> str:
        folder, name = os.path.split(path)
        return relative(os.path.join(self._real(folder), name), str(self.folder.root))

    def _is_sorted(self, source: str, path: str) -> bool:
        """Say whether a photo lies in one of the folders, or is linked or copied there already."""
        first, *inside = source.split("/")
        if inside and names.key(first) in self._ours:
            return True
        rows = self._recorded.get(source, [])
        if any(row.how == LINK or not row.done for row in rows):
            return True
        # Another photo may have come to the path of one that was copied, or moved away.
        copied = {row.digest for row in rows if row.how == COPY}
        return bool(copied) and actions.digest_of(Path(path), follow=True) in copied


def _check_how(folder: SortedFolder, wanted: Wanted) -> None:
    before = {row.how for row in folder.photos} - {wanted.how}
    if wanted.how and before:
        raise InputError(
            f"{folder.file}: photos were sorted there with --how {before.pop()}; use it again, "
            "undo that first (--undo), or choose another folder with --to"
        )


def _check_removable(paths: Iterable[str]) -> None:
    for folder in sorted({os.path.dirname(path) or "." for path in paths}):
        # Windows knows no other ones.
        effective = os.access in os.supports_effective_ids
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
            raise InputError(
                f"{readable_name(folder)}: photos cannot be moved out of this folder (no "
                "permission to write); nothing was moved. Use --how copy or link"
            )


def _rows(
    model: Model, paths: Sequence[str], plan: _Plan, skipped: list[tuple[str, str]]
) -> Generator[Row, None, None]:
    """Yield where each photo goes; skip those that cannot be read, which stay where they are."""
    digests: dict[str, str] = {}

    def remembered(read: Iterable[Squares]) -> Iterator[Squares]:
        for squares in read:
            photo = next(iter(squares.values()))
            digests[photo.path] = photo.digest
            yield squares

    with (
        console.progress("sort", len(paths), unit="photos") as advance,
        closing(reading.read_squares_ahead(Path(), paths, known=model.known)) as read,
    ):
        for answer in answers(
            model, remembered(read), unsure=plan.wanted.unsure, keep=plan.wanted.keep
        ):
            digest = digests.pop(answer.path)
            if isinstance(answer, Answer):
                yield plan.row(answer, digest)
            else:
                skipped.append((readable_name(answer.path), answer.reason))
            advance(1)


def _tell(model: Model, plan: _Plan, done: Sequence[Row], skipped: int) -> None:
    """Say what was done or would be done, and what the user can do next."""
    wanted, folder = plan.wanted, plan.folder
    if not wanted.how:
        for row in done[:SHOWN]:
            probability = float(row.probability)
            say(f"{plan.typed[row.source]} -> {folder.path / row.path} ({probability:.1%})")
        if len(done) > SHOWN:
            say(f"... and {len(done) - SHOWN:,} more")
    classes = {made: name for name, made in plan.folders.items() if made != name}
    into = Counter(os.path.dirname(row.path) for row in done)
    for name, n in sorted(into.items()):
        of = f" (class {classes[name]!r})" if name in classes else ""
        say(f"{folder.path / name}/{of}: {count(n, 'photo')}")
    say(
        f"{model.result.model}, trained on {model.result.data}: {count(len(done), 'photo')} "
        f"{DONE[wanted.how]}, {into[names.NONE]:,} none of these, {into[names.UNSURE]:,} unsure "
        f"(below {wanted.unsure:.0%}), "
        f"{plan.sorted_before:,} sorted before, {skipped:,} skipped"
    )
    if not wanted.how:
        if folder.unfinished:
            say(f"{count(len(folder.unfinished), 'photo')} of a stopped run would be finished too")
        say("nothing was done; --how link, copy or move does it (make sort HOW=link)")
        return
    say(f"to undo it: python -m classify sort --undo {shlex.quote(str(folder.file))}")
    say(
        f"put the wrong ones into the right folders, remove {names.UNSURE}/ and {names.NONE}/, and "
        f"train on them: make {shlex.quote(f'DATA={folder.path}')} features heads"
    )
