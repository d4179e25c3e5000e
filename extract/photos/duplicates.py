"""Find copies, near-duplicates, and photos under two labels, which would leak or mislead."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from extract.system.console import count

NEAR = 0.96
"""Two photos whose ``block5_avg`` have at least this cosine are called near-duplicates.

The threshold was chosen by looking at all pairs above 0.93 in two data sets. Among 2,500 photos of
cats and dogs, one pair in different splits lies above it: 0.999, the same photo. The next pair,
0.935, shows two cats. Among 556 pictures of chess pieces, nine pairs lie above it, 0.960 to 0.983,
and none is the same picture: they show pieces of one set in one scene, or a rook in another colour.
Two drawings that were published twice lie below it: one at 0.959 with another watermark, and one at
0.940 cropped. So a person should look at the pairs before removing anything.

The threshold was also tried on 80 of these photos, changed on purpose. It finds all that were saved
again as JPEG of quality 75, mirrored, or cropped by 2.5% on each side. It finds 98% of those saved
at quality 30, 93% of those at half the size, and 88% of those with a caption bar below. It finds
85% of those cropped by 5%, 24% of those cropped by 10%, and 84% of those brightened by a fifth. It
finds 45% of those in grey or with large letters across, and 24% of thumbnails of 128 pixels.
"""

SAME_LOOK = 0.999
"""Two photos are the same picture if they are near-duplicates and their looks have this cosine.

A look has 16 x 16 pixels, see `look`. The threshold was chosen on 60 photos each of chess and
cats_vs_dogs that were saved again, and on the 74 pairs of different files in these sets whose
``block5_avg`` have a cosine of 0.93 or more. All photos saved as JPEG of quality 60 reach it, and
95% of those at half the size. Of the pairs, two that show the same picture reach it, and one of a
king and a queen that were rendered in the same scene. The next pair has 0.998. Features alone would
not do: those of X-ray pictures or drawings are alike whatever they show.
"""

LOOK_SIDE = 16

ROWS = 200_000
"""Above this number of photos the search is skipped: it would take longer than all other steps."""

NOT_LOOKED_FOR = f"near-duplicates: not looked for among more than {ROWS:,} photos"
NOT_TOGETHER = f"the same picture stored twice: not looked for among more than {ROWS:,} photos"
BLOCK = 1024
"""At most this many rows are compared at once, on either side."""

LISTED = 5
"""For each photo, at most this many pairs are listed: those with the photos most like it. A camera
that does not move would make pairs of all its photos, and their number grows with the square."""

NearPair = tuple[int, int, float]
"""Two row numbers, the lower first, and their cosine."""


class Near(NamedTuple):
    """The near-duplicates of a data set.

    Attributes
    ----------
    pairs : list of NearPair
        The pair with the highest cosine, at most 1, comes first; pairs with equal cosines are in
        the order of their rows. A pair is listed if one of its photos has fewer than `LISTED`
        photos that are more like it, in other splits.
    found : int
        The number of all pairs, listed or not.
    photos : int
        The number of photos in these pairs.
    """

    pairs: list[NearPair]
    found: int
    photos: int

    def summary(self) -> str:
        """Return one line that says how many there are, and whether the list was cut."""
        return summary(len(self.pairs), self.found, self.photos)


def summary(listed: int, found: int, photos: int) -> str:
    """Return one line for a number of listed pairs, out of all pairs of some photos."""
    if listed == found:
        return f"{count(found, 'pair')} to look at"
    return (
        f"{count(found, 'pair')} among {photos:,} photos; listed are {listed:,}, of each photo the "
        f"{LISTED} most alike"
    )


Read = Callable[[NDArray[np.intp]], NDArray[np.float32]]


def copies(digests: Sequence[str]) -> list[list[int]]:
    """Return the groups of at least two rows with the same digest.

    Rows ascend within a group, and groups are in the order of their first rows.
    """
    groups: dict[str, list[int]] = {}
    for row, digest in enumerate(digests):
        groups.setdefault(digest, []).append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def conflicts(digests: Sequence[str], labels: Sequence[int] | NDArray[np.int64]) -> list[list[int]]:
    """Return the groups of rows with the same digest and more than one label.

    A group has every row of its digest, in the order of `copies`.
    """
    return [rows for rows in copies(digests) if len({int(labels[row]) for row in rows}) > 1]


def look(photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what a square photo looks like from afar: 16 x 16 mean colours, less their mean.

    Parameters
    ----------
    photo : ndarray of shape (size, size, 3), uint8
        The size is a multiple of 16.

    Returns
    -------
    ndarray of shape (768,), float32
        Of length 1, or zeros if the photo has one colour.
    """
    cell = len(photo) // LOOK_SIDE
    cells = photo.reshape(LOOK_SIDE, cell, LOOK_SIDE, cell, 3).mean((1, 3), dtype=np.float32)
    values = cells.ravel() - cells.mean()
    length = np.linalg.norm(values)
    scaled: NDArray[np.float32] = values / length if length > 0 else values
    return scaled


def with_neighbours(
    vectors: NDArray[np.float32],
    new: int,
    *,
    threshold: float = NEAR,
    advance: Callable[[int], None] = lambda rows: None,
) -> NDArray[np.intp]:
    """Return the rows that some other row is near to, ascending.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float32
        They are scaled to length 1 in place.
    new : int
        The first rows of this number are compared with all rows; the others are not compared with
        each other.
    threshold : float
        The least cosine of a pair.
    advance : callable
        Called with the number of new rows just compared.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(lengths > 0, lengths, 1)
    found = np.zeros(len(vectors), bool)
    for start, begin, cosines in _tiles(vectors, new, advance):
        near = _later(cosines >= np.float32(threshold), start, begin)
        found[start : start + len(near)] |= near.any(axis=1)
        found[begin : begin + near.shape[1]] |= near.any(axis=0)
    return np.flatnonzero(found)


def connecting_pairs(
    vectors: NDArray[np.float32],
    new: int,
    *,
    looks: NDArray[np.float32] | None = None,
    advance: Callable[[int], None] = lambda rows: None,
) -> list[NearPair]:
    """Find near-duplicates, or photos that are the same picture, whatever their splits.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float32
        ``block5_avg``, scaled to length 1.
    new : int
        As for `with_neighbours`.
    looks : ndarray of shape (n, 768), float32, or None
        See `look`. With them, only the same picture, resized or encoded in another way, makes a
        pair.
    advance : callable
        As for `with_neighbours`.

    Returns
    -------
    list of NearPair
        As few pairs as connect the rows that all pairs connect, the most alike ones. So a camera
        that does not move makes no more pairs than it has photos.
    """
    forest: coo_array = coo_array((len(vectors), len(vectors)), dtype=np.float64)
    for start, begin, cosines in _tiles(vectors, new, advance):
        paired = cosines >= np.float32(NEAR)
        if looks is not None:
            here, there = looks[start : start + len(cosines)], looks[begin : begin + BLOCK]
            paired &= here @ there.T >= SAME_LOOK
        one, other = np.nonzero(_later(paired, start, begin))
        if len(one):
            # A tree of the least weight has the most alike pairs. A weight of 0 is no pair.
            cosine = cosines[one, other].astype(np.float64)
            weights = np.concatenate([forest.data, 2 - cosine.clip(max=1)])
            places = (
                np.concatenate([forest.coords[0], one + start]),
                np.concatenate([forest.coords[1], other + begin]),
            )
            graph = coo_array((weights, places), shape=forest.shape).tocsr()
            forest = coo_array(minimum_spanning_tree(graph))
    rows_of, others_of = np.minimum(*forest.coords), np.maximum(*forest.coords)
    order = np.lexsort((others_of, rows_of, forest.data))
    return [(int(rows_of[i]), int(others_of[i]), 2 - float(forest.data[i])) for i in order]


def _tiles(
    vectors: NDArray[np.float32], new: int, advance: Callable[[int], None]
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Yield the places of two blocks of rows, the first of new ones, and their cosines."""
    for start in range(0, new, BLOCK):
        rows = vectors[start : min(start + BLOCK, new)]
        for begin in range(start, len(vectors), BLOCK):
            yield start, begin, rows @ vectors[begin : begin + BLOCK].T
        advance(len(rows))


def _later(pairs: NDArray[np.bool_], start: int, begin: int) -> NDArray[np.bool_]:
    """Keep the pairs whose other row is the later one, so that each pair comes once."""
    return np.triu(pairs, start - begin + 1)


def near(
    read: Read,
    digests: Sequence[str],
    splits: Sequence[str] | NDArray[np.str_],
    *,
    threshold: float = NEAR,
    advance: Callable[[int], None] = lambda rows: None,
) -> Near:
    """Find the pairs of different photos in different splits that look the same.

    Every row is compared with every row of the other splits, in blocks of `BLOCK`, so time grows
    with the product of their numbers. Memory holds a few blocks, their products, and at most
    `LISTED` pairs for each row. With more than `ROWS` rows the result is empty.

    Parameters
    ----------
    read : callable
        A function from ascending row numbers, at most `BLOCK`, to their vectors of shape (rows, d),
        float32. It is called more than once for the same rows if a split is larger than a block.
    digests : sequence of str, length n
        Rows with the same digest are not a pair.
    splits : sequence or ndarray of str, length n
    threshold : float
        The least cosine of a pair, between 0 and 1. Rounding can put equal vectors below 1.
    advance : callable
        Called with the number of rows just compared; the total is `rows_compared`.

    Returns
    -------
    near : Near
        A vector of zeros has cosine 0 with every other vector.

    Raises
    ------
    ValueError
        If the lengths differ or the threshold is out of range.
    """
    if len(splits) != len(digests):
        raise ValueError(f"{len(digests)} digests and {len(splits)} splits")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold {threshold} is not between 0 and 1")
    _, numbers = np.unique(np.asarray(digests, dtype=str), return_inverse=True)
    nearest = _Nearest(len(digests))
    for outer, inner in _sides(splits):
        for rows, vectors in _blocks(read, outer):
            for others, other_vectors in _blocks(read, inner):
                cosines = vectors @ other_vectors.T
                alike = cosines >= np.float32(threshold)
                if alike.any():
                    alike &= numbers[rows][:, None] != numbers[others]
                    nearest.add(rows, others, np.where(alike, cosines, 0))
            advance(len(rows))
    return nearest.near()


class _Nearest:
    """For each of n rows, the rows of other splits that are most like it."""

    def __init__(self, n: int) -> None:
        self.rows = np.zeros((n, LISTED), np.int64)
        self.cosines = np.zeros((n, LISTED), np.float32)
        self.found = 0
        self.alike = np.zeros(n, bool)

    def add(
        self, rows: NDArray[np.intp], others: NDArray[np.intp], cosines: NDArray[np.float32]
    ) -> None:
        """Add the cosines of some rows with others; 0 stands for a pair that is not alike."""
        self.found += int(np.count_nonzero(cosines))
        self._keep(rows, others, cosines)
        self._keep(others, rows, cosines.T)

    def _keep(
        self, rows: NDArray[np.intp], others: NDArray[np.intp], cosines: NDArray[np.float32]
    ) -> None:
        some = cosines.any(axis=1)
        rows, cosines = rows[some], cosines[some]
        self.alike[rows] = True
        all_cosines = np.hstack([self.cosines[rows], cosines])
        all_rows = np.hstack([self.rows[rows], np.broadcast_to(others, cosines.shape)])
        best = np.argpartition(-all_cosines, LISTED - 1, axis=1)[:, :LISTED]
        self.cosines[rows] = np.take_along_axis(all_cosines, best, axis=1)
        self.rows[rows] = np.take_along_axis(all_rows, best, axis=1)

    def near(self) -> Near:
        row, place = np.nonzero(self.cosines)
        other, cosine = self.rows[row, place], self.cosines[row, place]
        lower, higher = np.minimum(row, other), np.maximum(row, other)
        _, first = np.unique(lower * len(self.rows) + higher, return_index=True)
        lower, higher, cosine = lower[first], higher[first], np.minimum(cosine[first], 1)
        order = np.lexsort((higher, lower, -cosine))
        columns = (column[order].tolist() for column in (lower, higher, cosine))
        pairs = list(zip(*columns, strict=True))
        return Near(pairs, self.found, int(np.count_nonzero(self.alike)))


def rows_compared(splits: Sequence[str] | NDArray[np.str_]) -> int:
    """Return how many rows `near` compares with others, for a progress bar."""
    return sum(len(outer) for outer, _ in _sides(splits))


def _sides(
    splits: Sequence[str] | NDArray[np.str_],
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return the rows of each pair of splits, smaller split first; [] if there are too many."""
    if len(splits) > ROWS:
        return []
    names = np.asarray(splits)
    # The smaller side is the outer one: the inner side is read once for each outer block.
    sides = sorted((np.flatnonzero(names == name) for name in np.unique(names)), key=len)
    return list(combinations(sides, 2))


def _blocks(
    read: Read, rows: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Yield blocks of rows with their vectors scaled to length 1; vectors of zeros stay zeros."""
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        vectors = np.asarray(read(block), np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        lengths[lengths == 0] = 1
        yield block, (vectors / lengths).astype(np.float32, copy=False)
