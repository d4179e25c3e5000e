"""A folder that photos are sorted into, with its record: do, finish and undo.

What is going to be done is in the record before it is done. So a killed process leaves nothing that
the next one could not finish or undo.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from classify.sorting import actions, record
from classify.sorting.record import FOLDER, LINK, Row
from extract.system import atomic, lock
from extract.system.console import InputError

LOCK = ".onepass-sort.lock"


class SortedFolder:
    """A folder that photos are sorted into; it may not exist yet.

    Parameters
    ----------
    path : Path
    file : Path or None
        Its record, if it has another name than usual.

    Attributes
    ----------
    root : Path
        The folder without symbolic links.
    rows : dict of path to Row
        What was done and what was about to be done.
    """

    def __init__(self, path: Path, file: Path | None = None) -> None:
        if os.path.lexists(path) and not path.is_dir():
            raise InputError(f"{path}: not a folder; choose another one with --to")
        self.path = path
        self.file = file or path / record.NAME
        self.root = Path(os.path.realpath(path))
        self.rows = {row.path: row for row in record.read(self.file)}

    @property
    def photos(self) -> list[Row]:
        """Return the rows of photos."""
        return [row for row in self.rows.values() if row.how != FOLDER]

    @property
    def unfinished(self) -> list[Row]:
        """Return the rows of photos with which an earlier process may not have come to an end."""
        return [row for row in self.photos if not row.done]

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Make the folder and keep other processes out of it while the block changes it.

        Raises
        ------
        InputError
            If the disk is full, a permission is missing, or the like.
        """
        is_new = not self.path.exists()
        try:
            with lock.held(self.path / LOCK):
                try:
                    yield from self._locked(is_new)
                finally:
                    with suppress(OSError):
                        (self.path / LOCK).unlink()
            if sys.platform == "win32":
                self._remove_lock()
        except BrokenPipeError:
            raise
        except OSError as error:
            where = error.filename2 or error.filename or self.path
            raise InputError(
                f"{where}: {error.strerror}; no photo is lost. The same command goes on when this "
                f"is mended; see also --to, and --undo {self.file}"
            ) from error

    def _locked(self, is_new: bool) -> Iterator[None]:
        # Another process may have changed it until now.
        self.rows = {row.path: row for row in record.read(self.file)}
        if is_new:
            self.rows["."] = Row(".")
        for folder in {os.path.dirname(row.path) for row in self.photos} | {""}:
            atomic.sweep(self.root / folder)
        try:
            yield
        finally:
            if not self.photos:
                self._remove_what_was_made()

    def carry_out(self, rows: Sequence[Row]) -> dict[Row, str]:
        """Do what rows say.

        Returns
        -------
        dict of Row to reason
            The photos that were left where they are.
        """
        for folder in sorted({os.path.dirname(row.path) for row in rows}):
            if not os.path.lexists(self.root / folder):
                self.rows[folder] = Row(folder)
        self.rows |= {row.path: row for row in rows}
        record.write(self.file, self.rows.values())
        left = {}
        waiting = list(reversed(rows))
        try:
            while waiting:
                if reason := self._do(waiting[-1]):
                    left[waiting[-1]] = reason
                waiting.pop()
        except BaseException as error:
            # An error changed nothing. A signal may have come in the middle of the last one.
            begun = waiting.pop() if not isinstance(error, (OSError, InputError)) else None
            for row in waiting:
                self.rows.pop(row.path)
            self._keep(begun)
            raise
        record.write(self.file, self.rows.values())
        return left

    def finish(self) -> None:
        """Do what an earlier process was about to do; forget what can no longer be done."""
        rows = []
        for row in self.unfinished:
            source = actions.source_of(row, self.root)
            if actions.is_done(row, self.root):
                self.rows[row.path] = row._replace(done="yes")
            elif row.how == LINK or actions.digest_of(source, follow=True) == row.digest:
                rows.append(row)
            else:
                self.rows.pop(row.path)
        self.carry_out(rows)

    def undo(self, advance: Callable[[int], None]) -> list[tuple[str, str]]:
        """Undo everything that is in the record.

        Returns
        -------
        list of (path, reason)
            What was left as it is. It stays in the record.
        """
        left = []
        for row in reversed(self.photos):
            if reason := actions.undo(row, self.root):
                left.append((str(self.path / row.path), reason))
            else:
                self.rows.pop(row.path)
            advance(1)
        if left:
            record.write(self.file, self.rows.values())
        return left

    def _do(self, row: Row) -> str:
        folder = os.path.dirname(row.path)
        with suppress(FileExistsError):
            os.mkdir(self.root / folder)
        if not (self.root / folder).is_dir() or (self.root / folder).is_symlink():
            raise InputError(
                f"{self.path / folder}: a file or a link is in the way of a folder; move it away"
            )
        try:
            reason = actions.do(row, self.root)
        except FileExistsError:
            reason = f"another file came to {row.path} in the meantime; run the command again"
        if reason:
            self.rows.pop(row.path)
        else:
            self.rows[row.path] = row._replace(done="yes")
        return reason

    def _keep(self, begun: Row | None) -> None:
        """Write the record after an error; the one on disk is right too, only longer."""
        if begun:
            self.rows.setdefault(begun.path, begun)
        with suppress(OSError):
            record.write(self.file, self.rows.values())

    def _remove_lock(self) -> None:
        """Remove the lock, and the folder too if nothing is in it.

        Windows removes no file while it is locked, and so no folder with a lock in it.
        """
        with suppress(OSError):
            (self.path / LOCK).unlink(missing_ok=True)
            if "." in self.rows and not self.photos:
                os.rmdir(self.root)

    def _remove_what_was_made(self) -> None:
        """Remove the record and the folders that were made, unless something is in them."""
        with suppress(OSError):
            self.file.unlink(missing_ok=True)
            # It would keep the folder from being removed. Windows removes it later.
            with suppress(PermissionError):
                (self.path / LOCK).unlink(missing_ok=True)
            for folder in sorted(self.rows, reverse=True):
                with suppress(OSError):
                    os.rmdir(self.root / folder)
