"""The shard index: it finds the shard and row of each image of a recipe without reading taps."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py

from extract.store import hdf5, shards
from extract.store.shards import SCHEMA
from extract.system import locations
from extract.system.console import InputError, count, finishing
from extract.system.locations import Location
from extract.vgg16.recipe import recipe_digest

if TYPE_CHECKING:
    from upath import UPath

PREFIX_BYTES = 65536
"""The first bytes of a shard, which hold everything but its taps; 256 digests take 16 KB."""

PREFIXES_AT_ONCE = 256


class ShardRow(NamedTuple):
    """The row of a shard that holds an image's taps, and the seconds that computing it took."""

    shard: Location
    row: int
    seconds: float


class Contents(NamedTuple):
    """The digests of the images in a shard, and the seconds that computing them took."""

    digests: list[str]
    seconds: float


def read(
    folder: Location,
    recipe: dict[str, Any],
    *,
    on_damage: Callable[[shards.Damaged], None] = shards.set_aside,
    memory: Path | None = None,
) -> dict[str, ShardRow]:
    """Find every image in the shards of a recipe; only digests are read, not taps.

    A damaged shard is handed to `on_damage` and left out.

    Parameters
    ----------
    folder : Path or UPath
        The folder of the recipe's shards.
    recipe : dict
    on_damage : callable
    memory : Path or None
        A file for this recipe alone. It remembers which images the shards in a store hold, so that
        no shard is read twice. None reads them all.

    Returns
    -------
    dict of str to ShardRow
        Keyed by the photo's digest.
    """
    rows: dict[str, ShardRow] = {}
    known = {} if isinstance(folder, Path) else _in_store(folder, recipe, memory)
    for path in (
        shards.files(folder) if isinstance(folder, Path) else [folder / name for name in known]
    ):
        try:
            contents = known.get(path.name) or _contents(path, recipe)
        except shards.Damaged as damaged:
            on_damage(damaged)
            continue
        seconds = contents.seconds / len(contents.digests)
        rows |= {
            digest: ShardRow(path, row, seconds) for row, digest in enumerate(contents.digests)
        }
    return rows


def require(rows: Mapping[str, ShardRow], digests: Iterable[str], folder: Location) -> None:
    """Check that the index has images that were just written to a folder.

    Otherwise their shards would be set aside as damaged, and written again and again.

    Raises
    ------
    InputError
        If some are not there.
    """
    lost = {*digests} - rows.keys()
    if lost:
        raise _unreadable(folder, len(lost))


class Recomputed:
    """The images whose damaged shards a run set aside, so that each is computed again only once."""

    def __init__(self) -> None:
        self.images: set[tuple[Location, str]] = set()

    def set_aside(self, damaged: shards.Damaged, *indexes: Mapping[str, ShardRow]) -> None:
        """Set a damaged shard aside, as `extract.store.shards.set_aside` does it.

        Parameters
        ----------
        damaged : Damaged
        *indexes : mapping of str to ShardRow
            The indexes in which the shard may be, see `read`.

        Raises
        ------
        InputError
            If one of its images was in another shard that was damaged.
        """
        folder = damaged.shard.parent
        images = {
            (folder, digest)
            for index in indexes
            for digest, row in index.items()
            if row.shard == damaged.shard
        }
        if again := images & self.images:
            raise _unreadable(folder, len(again))
        self.images |= images
        shards.set_aside(damaged)


def _unreadable(folder: Location, images: int) -> InputError:
    return InputError(
        f"{folder}: {count(images, 'image')} cannot be read back just after being written; check "
        f"the disk, or install another h5py ({h5py.__version__} is installed, with HDF5 "
        f"{h5py.version.hdf5_version})"
    )


def _contents(path: Location, recipe: dict[str, Any]) -> Contents:
    with shards.opened(path) as file:
        if shards.text_attribute(file, "recipe_digest") != recipe_digest(recipe):
            raise ValueError("made by another recipe")
        return Contents(shards.read_digests(file, recipe), float(file.attrs["seconds"]))


def _in_store(
    folder: "UPath", recipe: dict[str, Any], memory: Path | None
) -> dict[str, Contents | None]:
    """Return the contents of the shards in a store by name; reading new ones takes few requests."""
    listed = shards.sizes(folder)
    known = _recalled(memory) if memory else {}
    new: dict[str, Contents] = {}
    # An empty object is left out, because a store refuses a request for its first bytes.
    unknown = sorted(name for name in listed.keys() - known.keys() if listed[name])
    for start in range(0, len(unknown), PREFIXES_AT_ONCE):
        names = unknown[start : start + PREFIXES_AT_ONCE]
        for name, prefix in locations.read_prefixes(folder, names, PREFIX_BYTES).items():
            # Shards of an earlier version have their attributes at the end.
            with suppress(shards.Damaged):
                new[name] = _contents_of_prefix(name, prefix, listed[name], recipe) or _contents(
                    folder / name, recipe
                )
    if memory and new:
        _remember(memory, new)
    return {name: known.get(name) or new.get(name) for name in sorted(listed)}


def _contents_of_prefix(
    name: str, prefix: bytes, size: int, recipe: dict[str, Any]
) -> Contents | None:
    """Return the contents of a shard, or None if its first bytes do not prove them."""
    # Whatever is wrong with the first bytes, reading the whole shard will show it.
    with suppress(Exception), finishing(), hdf5.open_prefix(prefix, size, "digest") as file:
        digests = file["digest"].asstr("ascii")[:].tolist()
        expected = (SCHEMA, recipe_digest(recipe), name)
        if expected == (
            file.attrs["schema"],
            shards.text_attribute(file, "recipe_digest"),
            shards.name_of(digests),
        ):
            return Contents(digests, float(file.attrs["seconds"]))
    return None


def _recalled(memory: Path) -> dict[str, Contents]:
    """Return the remembered contents of shards, by name; lines that do not fit are ignored."""
    known = {}
    with suppress(FileNotFoundError), open(memory, encoding="ascii", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError):
                name, seconds, *digests = line.split()
                if shards.name_of(digests) == name:
                    known[name] = Contents(digests, float(seconds))
    return known


def _remember(memory: Path, contents: Mapping[str, Contents]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    with open(memory, "a", encoding="ascii") as file:
        for name, (digests, seconds) in contents.items():
            file.write(f"{name} {seconds!r} {' '.join(digests)}\n")
