"""Pairs: the products of all pairs of channels of a map, as compact bilinear pooling keeps them.

The products are averaged over all positions (Lin, RoyChowdhury and Maji, "Bilinear CNN models for
fine-grained visual recognition", ICCV 2015). The square root of each of the 131,328 averages is
then added to one of a few bins, or subtracted from it, as fixed hashes say: a count sketch, whose
scalar products estimate those of the roots (Gao, Beijbom, Zhang and Darrell, "Compact bilinear
pooling", CVPR 2016).
"""

import hashlib
import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHANNELS = 512
"""The channels of each map whose pairs are taken."""

BINS = 4096

DEPTH = math.ceil(CHANNELS * (CHANNELS + 1) // 2 / BINS)
"""The most products in a bin. All bins have as many, or one less."""

RULE = (
    "square roots of the products of channels i <= j, averaged over positions; pairs in the order "
    "of i, j are sorted by 64-bit little-endian numbers from SHAKE-256 of 'pairs of channels'; the "
    f"pair at position p is added to bin p mod {BINS} if its number is odd, else subtracted"
)
"""How the bins are filled. It is part of the recipe: change the words only with the values."""

DTYPE = "float16"
"""In which taps of pairs are stored. It rounds their values by at most 0.05%."""

LARGEST = float(np.finfo(DTYPE).max)


@cache
def table() -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return which products each bin sums up, and their signs.

    Returns
    -------
    positions : ndarray of shape (DEPTH * BINS,), int32
        Positions in a flattened matrix of the products of `CHANNELS` x `CHANNELS`. Bin b has those
        at b, b + BINS, b + 2 * BINS and so on.
    signs : ndarray of the same shape, float32
        1 or -1, and 0 where a bin has no product.
    """
    rows, columns = np.triu_indices(CHANNELS)
    drawn = hashlib.shake_256(b"pairs of channels").digest(8 * len(rows))
    numbers = np.frombuffer(drawn, "<u8")
    order = np.argsort(numbers, kind="stable")
    filled = DEPTH * BINS - len(rows)
    positions = np.pad((rows * CHANNELS + columns)[order], (0, filled)).astype(np.int32)
    signs = np.pad(np.where(numbers[order] & 1, 1, -1), (0, filled)).astype(np.float32)
    return positions, signs


@cache
def places() -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the bin that each product is added to, and its sign: `table` the other way round.

    Returns
    -------
    bins : ndarray of shape (CHANNELS * CHANNELS,), intp
        By the position of the product in a flattened matrix. Only products of channels i <= j have
        a bin.
    signs : ndarray of the same shape, float32
        1 or -1, and 0 for a product that has no bin.
    """
    positions, signs = table()
    taken = np.flatnonzero(signs)
    bins = np.zeros(CHANNELS * CHANNELS, np.intp)
    bins[positions[taken]] = taken % BINS
    signs_of = np.zeros(CHANNELS * CHANNELS, np.float32)
    signs_of[positions[taken]] = signs[taken]
    return bins, signs_of


def in_bins(products: Any, ops: Any = np) -> Any:
    """Return a tap of photos from the averaged products of every channel with every other.

    Parameters
    ----------
    products : array or tensor of shape (n, CHANNELS * CHANNELS), float32
    ops : module
        `numpy` for arrays, `keras.ops` for tensors of Keras.

    Returns
    -------
    array or tensor of shape (n, BINS)
    """
    positions, signs = table()
    roots = ops.sqrt(ops.take(products, positions, axis=1))
    return ops.sum(ops.reshape(roots * signs, (-1, DEPTH, BINS)), axis=1)
