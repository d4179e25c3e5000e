"""What would leak or mislead: the same photo under two labels, exact and near-duplicates."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from extract.system import console

NEAR = 0.96
"""Cosine of ``block5_avg`` from which two photos are told as near-duplicates.

Chosen by looking at all pairs above 0.93 in two data sets. Of 2,500 photos of cats and dogs one
pair in different splits lies above it, 0.999, the same photo; the next, 0.935, are two cats. Of 556
pictures of chess pieces nine lie above it, 0.960 to 0.983, and none is the same picture: pieces of
one set in one scene, a rook recoloured. Two drawings published twice lie below it, 0.959 with
another watermark and 0.940 cropped. So what is told is to be looked at, not removed unseen.

Of 80 of these photos changed on purpose it finds all re-encoded as JPEG of quality 75, mirrored or
cut by 2.5 % at each side; 98 % at quality 30; 93 % at half the size; 88 % above a caption bar; 85 %
cut by 5 %, 24 % by 10 %; 84 % brightened by a fifth; 45 % in grey or with large letters across;
24 % of thumbnails of 128 pixels.
"""

ROWS = 200_000
"""Among more photos near-duplicates are not looked for: it would take longer than all else."""

NOT_LOOKED_FOR = f"near-duplicates: not looked for among more than {ROWS:,} photos"
BLOCK = 1024
"""Rows compared at once, at most, on either side."""

Read = Callable[[NDArray[np.intp]], NDArray[np.float32]]


def copies(digests: Sequence[str]) -> list[list[int]]:
    """Return the groups of two rows or more with the same digest.

    Rows ascend in a group, and the groups by their first row.
    """
    groups: dict[str, list[int]] = {}
    for row, digest in enumerate(digests):
        groups.setdefault(digest, []).append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def conflicts(digests: Sequence[str], labels: Sequence[int] | NDArray[np.int64]) -> list[list[int]]:
    """Return the groups of rows with the same digest and more than one label.

    As `copies`, with every row of the digest, also those that agree.
    """
    return [rows for rows in copies(digests) if len({int(labels[row]) for row in rows}) > 1]


def near(
    read: Read,
    digests: Sequence[str],
    splits: Sequence[str] | NDArray[np.str_],
    *,
    threshold: float = NEAR,
) -> list[tuple[int, int, float]]:
    """Return the pairs of different photos in different splits that look the same.

    Every row is compared with every row of the other splits, in blocks of `BLOCK`: time grows with
    the product of their numbers. Memory holds some blocks, their products and the
    pairs found, whatever n is. Among more than `ROWS` rows none are looked for.

    Parameters
    ----------
    read : callable
        Given row numbers, ascending and `BLOCK` at most, returns their vectors, of shape
        (rows, d), float32. Rows are asked for more than once where a split exceeds a block.
    digests : sequence of str, length n
        Rows with the same digest are no pair.
    splits : sequence or ndarray of str, length n
    threshold : float
        Cosine from which a pair is told, between 0 and 1: rounding can put equal vectors below 1.

    Returns
    -------
    list of (row, row, cosine)
        The lower row first; the highest cosine, at most 1, first, then by rows. A vector of zeros
        has cosine 0 with all.

    Raises
    ------
    ValueError
        If the lengths differ or the threshold is out of range.
    """
    if len(splits) != len(digests):
        raise ValueError(f"{len(digests)} digests and {len(splits)} splits")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold {threshold} is not between 0 and 1")
    if len(digests) > ROWS:
        return []
    names = np.asarray(splits)
    # The smaller side outside: the inner side is read once for each of its blocks.
    sides = sorted((np.flatnonzero(names == name) for name in np.unique(names)), key=len)
    pairs = []
    both = list(combinations(sides, 2))
    with console.progress("near-duplicates", sum(len(o) for o, _ in both), unit="rows") as advance:
        for outer, inner in both:
            for row, other, cosine in _alike(read, outer, inner, threshold, advance):
                if digests[row] != digests[other]:
                    pairs.append((min(row, other), max(row, other), min(cosine, 1.0)))
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def _alike(
    read: Read,
    outer: NDArray[np.intp],
    inner: NDArray[np.intp],
    threshold: float,
    advance: Callable[[int], None],
) -> Iterator[tuple[int, int, float]]:
    for rows, vectors in _blocks(read, outer):
        for others, other_vectors in _blocks(read, inner):
            cosines = vectors @ other_vectors.T
            i, j = np.nonzero(cosines >= np.float32(threshold))
            yield from zip(
                rows[i].tolist(), others[j].tolist(), cosines[i, j].tolist(), strict=True
            )
        advance(len(rows))


def _blocks(
    read: Read, rows: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Yield blocks of rows with their vectors scaled to length 1, those of zeros as they are."""
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        vectors = np.asarray(read(block), np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        lengths[lengths == 0] = 1
        yield block, (vectors / lengths).astype(np.float32, copy=False)
