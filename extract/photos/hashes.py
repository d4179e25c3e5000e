"""Hash files: the digest of every file is remembered by path, size, times and inode.

An object in a store has no inode; a hash of its ETag, size and time takes the place of these
numbers. An ETag is never used as the digest: it is not a SHA-256, and the same bytes get another
ETag if they are uploaded in another way.
"""

import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from extract.photos import files
from extract.photos.decode import Unreadable
from extract.system import locations, threads
from extract.system.console import warn
from extract.system.locations import Location, Stamp

FILES_AT_ONCE = 256
"""Files hashed between two writes of the index; a killed run loses at most these."""

RACY_NS = 2_000_000_000
"""A second write within this time may keep the time stamp: FAT counts in steps of 2 s."""

# No program can set ctime, so it reveals a rewrite that put the modification time back.
STAMP = "size, mtime_ns, ctime_ns, inode, device"
MARK = int.from_bytes(b"1pd1", "big")  # SQLite's application_id of an index with this table
CREATE = f"""BEGIN IMMEDIATE; PRAGMA application_id = {MARK}; CREATE TABLE IF NOT EXISTS files
(root, path, {STAMP}, digest, PRIMARY KEY (root, path)) WITHOUT ROWID; COMMIT"""
RECALL = f"""SELECT path, digest, {STAMP} FROM files WHERE root = ?
AND typeof(path) = 'blob' AND typeof(digest) = 'blob' AND length(digest) = 32"""
FORGET = "DELETE FROM files WHERE root = ? AND path = ?"
REMEMBER = "REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

Row = tuple[Any, ...]


class Files:
    """The files of a root: which digests the index remembers, and which files must be read.

    Entries of the root for files that are gone are dropped; all others stay. The index is never a
    reason to fail, only for a warning. A damaged or foreign index is set aside, and a new one is
    begun. An index that is locked, full or read-only is not used.

    Parameters
    ----------
    root : Path or UPath
    paths : sequence of str
        Relative to `root`.
    index : Path
        An SQLite file, which is created if it is missing. A process that uses it may be killed, and
        several processes may share it.
    stamps : mapping of path to list of int, or None
        Numbers that change with each object of a store, see `extract.photos.scan.Scan`. None for
        files on a disk, whose stamps are read from the file system.
    rehash : bool
        Believe nothing that the index says.

    Attributes
    ----------
    remembered : dict of path to digest, 64 hexadecimal digits
        In the order of the paths.
    unknown : dict of path to list of int
        The stamps of the files that must still be read.
    """

    def __init__(
        self,
        root: Location,
        paths: Sequence[str],
        *,
        index: Path,
        stamps: Mapping[str, Stamp] | None = None,
        rehash: bool = False,
    ) -> None:
        self.root, self.paths = root, paths
        self.latest = time.time_ns() - RACY_NS
        self.index = _Index(index, root)
        entries = self.index.recall()
        if stamps is None:
            stamps = _stamps(root, paths)
        trusted = {} if rehash else entries
        found = {p: digest for p, (digest, *stamp) in trusted.items() if stamps.get(p) == stamp}
        self.index.forget(_outdated(root, entries.keys() - found.keys(), stamps))
        self.remembered = {path: found[path] for path in paths if path in found}
        self.unknown = {p: stamps[p] for p in paths if p in stamps and p not in found}

    def read(self, advance: Callable[[int], None] = lambda done: None) -> dict[str, str]:
        """Hash the unknown files, and return all digests.

        Parameters
        ----------
        advance : callable
            Called with the number of files just finished.

        Returns
        -------
        dict of path to digest
            In the order of the paths, without unreadable files and large ones that are no photos.

        Raises
        ------
        InputError
            If files cannot be read at the moment; see `extract.system.locations.read_bytes`.
        """
        digests = dict(self.remembered)
        advance(len(self.paths) - len(self.unknown))
        hash_one, workers = partial(_hash, self.root, self.unknown), locations.readers(self.root)
        hashing = threads.ahead(hash_one, self.unknown, workers=workers, limit=FILES_AT_ONCE)
        with closing(hashing) as hashed:
            while batch := list(islice(hashed, FILES_AT_ONCE)):
                digests |= {path: digest for path, digest, _ in batch if digest}
                self.index.remember(batch)
                advance(len(batch))
        self.unknown.clear()
        return {path: digests[path] for path in self.paths if path in digests}

    def learn(self, digests: Mapping[str, str]) -> None:
        """Remember the digests of files that other machines read since this one listed them.

        The stamps are those that this machine sees, because each may give the disk another number.
        A file whose stamp has changed since is not remembered.
        """
        before = {path: self.unknown.pop(path) for path in digests if path in self.unknown}
        if isinstance(self.root, Path):
            now = _stamps(self.root, [*before])
            before = {
                path: stamp
                for path, stamp in before.items()
                if now.get(path) == stamp and stamp[1] < self.latest
            }
        self.index.remember((path, digests[path], stamp) for path, stamp in before.items())


def of_files(
    root: Location,
    paths: Sequence[str],
    *,
    index: Path,
    stamps: Mapping[str, Stamp] | None = None,
    rehash: bool = False,
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, str]:
    """Return the SHA-256 of every file that can be read, reading only what may have changed.

    See `Files` and `Files.read`.
    """
    return Files(root, paths, index=index, stamps=stamps, rehash=rehash).read(advance)


def _outdated(root: Location, paths: Iterable[str], stamps: Mapping[str, Stamp]) -> list[str]:
    """Return the paths that are gone or have changed; a manifest names a part of the files only."""
    if not isinstance(root, Path):
        return [*paths]
    return [path for path in paths if path in stamps or not os.path.lexists(root / path)]


def correct(root: Location, digests: Mapping[str, str], *, index: Path) -> None:
    """Forget the files whose bytes turned out not to have the remembered digest."""
    remembered = _Index(index, root)
    indexed = {path: digest for path, (digest, *_) in remembered.recall().items()}
    remembered.forget(p for p, digest in digests.items() if indexed.get(p, digest) != digest)


def _stamps(root: Location, paths: Sequence[str]) -> dict[str, Stamp]:
    stamps = {path: _stamp(os.path.join(str(root), path)) for path in paths}
    return {path: stamp for path, stamp in stamps.items() if stamp}


def _stamp(file: str) -> Stamp:
    """Return size, times, inode and device of a file; [] if not a regular file."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return []
    # SQLite's integers have a sign; inode and device may use all 64 bits.
    inode, device = (number & (2**63 - 1) for number in (status.st_ino, status.st_dev))
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode, device]
    return stamp if stat.S_ISREG(status.st_mode) else []


def _hash(root: Location, stamps: Mapping[str, Stamp], path: str) -> tuple[str, str, Stamp]:
    """Return a path, its digest, and the stamp to remember; see `_hash_file`."""
    if isinstance(root, Path):
        return path, *_hash_file(os.path.join(root, path))
    # An object that changed since it was listed will have another stamp in the next listing.
    return path, _digest(root, path), stamps[path]


def _hash_file(path: str) -> tuple[str, Stamp]:
    """Return a file's digest, and its stamp if every later change must change the stamp.

    The digest is empty if the file cannot be read or gives no photo.
    """
    latest = time.time_ns() - RACY_NS
    before = _stamp(path)
    digest = _digest(Path(path))
    after = _stamp(path)
    return digest, (after if digest and after == before and after[1] < latest else [])


def _digest(root: Location, path: str = "") -> str:
    try:
        with locations.opened(root, path) as read:
            return files.digest(read)
    except (OSError, Unreadable):
        return ""


class _Index:
    """The remembered digests of one root. After a first failure it warns and is no longer used."""

    def __init__(self, file: Path, root: Location) -> None:
        self.file = file
        self.root = os.fsencode(os.path.realpath(root) if isinstance(root, Path) else str(root))
        self.usable = True

    def recall(self) -> dict[str, tuple[Any, ...]]:
        rows = self._try(RECALL, [(self.root,)])
        return {os.fsdecode(path): (digest.hex(), *stamp) for path, digest, *stamp in rows}

    def forget(self, paths: Iterable[str]) -> None:
        self._try(FORGET, [(self.root, os.fsencode(path)) for path in paths])

    def remember(self, hashed: Iterable[tuple[str, str, Stamp]]) -> None:
        new = [(os.fsencode(p), *stamp, bytes.fromhex(d)) for p, d, stamp in hashed if d and stamp]
        self._try(REMEMBER, [(self.root, *row) for row in new])

    def _try(self, sql: str, rows: Sequence[Row]) -> list[Row]:
        try:
            return self._mended(sql, rows) if rows and self.usable else []
        except (OSError, sqlite3.Error) as error:
            self.usable = False
            warn(f"{self.file}: cannot be used ({error}); digests are not remembered")
            return []

    def _mended(self, sql: str, rows: Sequence[Row]) -> list[Row]:
        try:
            return self._run(sql, rows)
        except sqlite3.OperationalError as error:
            # This code means a wrong table or column; other errors of this class are not damage.
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            self._set_aside(error)
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
        return self._run(sql, rows)

    def _run(self, sql: str, rows: Sequence[Row]) -> list[Row]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        # The journal is not WAL, which fails on network disks and read-only folders.
        with closing(sqlite3.connect(self.file, timeout=30, isolation_level="IMMEDIATE")) as db, db:
            db.text_factory = bytes
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                db.executescript(CREATE)
            if db.execute("PRAGMA application_id").fetchone() != (MARK,):
                raise sqlite3.DatabaseError("not an index of digests")
            return [found for row in rows for found in db.execute(sql, row)]

    def _set_aside(self, error: sqlite3.Error) -> None:
        aside = f"{self.file}.aside-{time.time_ns()}"
        # Another process may have set it aside already.
        with suppress(FileNotFoundError):
            os.replace(self.file, aside)
        warn(f"{self.file}: damaged ({error}); set aside as {aside}, all files are hashed anew")
