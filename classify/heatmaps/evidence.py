"""How much each place of a photo speaks for a class.

The features of one place after the other are taken out of the maps that a model reads, and the rest
of the model is computed again. That is exact for every model, linear or not, and needs no gradient,
so it is the same on every backend of Keras. For a model that is linear in an average over space it
gives the class activation map (Zhou et al., arXiv 1512.04150); to first order it is Grad-CAM
(Selvaraju et al., arXiv 1610.02391) without its average of the gradient over space.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from classify.arrays import Matrix
from extract.vgg16 import pairs
from extract.vgg16.architecture import TAP_LAYERS
from extract.vgg16.pooling import MAP_OF, Map, halved, products, shares, windows

Scores = Callable[[Matrix], Matrix]
"""From rows to scores whose softmax is the probabilities, (n, classes)."""


def log_odds(scores: Matrix, label: int) -> NDArray[np.float64]:
    """Return the log odds of a class, shape (n,), from scores whose softmax is the probabilities.

    Unlike the probability it does not stand still where a model is sure.
    """
    exact = scores.astype(np.float64)
    others: NDArray[np.float64] = logsumexp(np.delete(exact, label, axis=1), axis=1)
    return exact[:, label] - others


def evidence(whole: Matrix, without: Matrix, label: int) -> NDArray[np.float64]:
    """Return by how much the log odds of a class fall without each place.

    Parameters
    ----------
    whole : ndarray of shape (1, classes)
        The scores of a photo.
    without : ndarray of shape (side * side, classes)
        Its scores without each place, row by row.
    label : int

    Returns
    -------
    ndarray of shape (side, side)
        Positive where the photo speaks for the class, negative where it speaks against it.
    """
    side = int(np.sqrt(len(without)))
    return (log_odds(whole, label) - log_odds(without, label)).reshape(side, side)


def taps_without(maps: Mapping[str, Map], names: Iterable[str]) -> dict[str, Matrix]:
    """Return taps of a photo without each place, each of shape (places, values).

    A place is a position of ``block5_conv3`` and the positions of the other maps that lie over it.
    Its activations count as 0.

    Parameters
    ----------
    maps : mapping of str to Map
        The maps of `extract.vgg16.pooling.MAP_OF` that the taps need, and that of ``block5_conv3``.
    names : iterable of str
    """
    side = maps["block5_conv3"].shape[0]
    pooled = {tap.name: tap.pooling for tap in TAP_LAYERS}
    found = {}
    for name in names:
        values = maps[MAP_OF[name]]
        if pooled[name] == "avg3x3":
            found[name] = _windows_without(values)
            continue
        if pooled[name] == "pairs":
            found[name] = _pairs_without(halved(values))
            continue
        each = len(values) // side
        places = values.reshape(side, each, side, each, -1).swapaxes(1, 2)
        places = places.reshape(side * side, each * each, -1)
        if pooled[name] == "avg":
            # Rounding must not leave less than nothing, of which heads take the square root.
            left = values.mean((0, 1)) - places.sum(1) / len(values) ** 2
            found[name] = left.clip(0)
        else:
            found[name] = _largest_without(places.max(1))
    return found


def _pairs_without(values: Map) -> Matrix:
    """Return the pairs of a map without each of its positions, row by row.

    Most channels are 0 at a position, so only the products of the others are computed again.
    """
    whole, positions = products(values), values.reshape(-1, values.shape[-1])
    bins, signs = pairs.places()
    # The products of a bin nearly cancel, so they are added up in double precision.
    roots = np.sqrt(whole.astype(np.float64))
    found = np.repeat(pairs.in_bins(whole[None].astype(np.float64)), len(positions), axis=0)
    for tap, position in zip(found, positions, strict=True):
        active = np.flatnonzero(position)
        first, second = (active[some] for some in np.triu_indices(len(active)))
        changed = first * len(position) + second
        # Rounding must not leave less than nothing.
        left = whole[changed] - position[first] * position[second] / len(positions)
        change = signs[changed] * (np.sqrt(left.clip(0)) - roots[changed])
        tap += np.bincount(bins[changed], change, pairs.BINS)
    return found.astype(np.float32)


def maps_without(values: Map) -> Iterator[Map]:
    """Yield a map without the places of each of its rows, (width, height, width, channels)."""
    width = values.shape[1]
    for row in range(values.shape[0]):
        copies = np.repeat(values[None], width, axis=0)
        copies[np.arange(width), row, np.arange(width)] = 0
        yield copies


def _largest_without(places: Matrix) -> Matrix:
    """Return the maximum of each column without each row; no value is below 0."""
    first = places.argmax(0)
    columns = np.arange(places.shape[1])
    others = places.copy()
    others[first, columns] = 0
    found = np.repeat(places.max(0)[None], len(places), axis=0)
    found[first, columns] = others.max(0)
    return found


def _windows_without(values: Map) -> Matrix:
    """Return ``block5_avg3x3`` without each place; a place changes one position after pooling."""
    side, half = len(values), len(values) // 2
    pooled = halved(values)
    quads = values[: 2 * half, : 2 * half].reshape(half, 2, half, 2, -1).transpose(1, 3, 0, 2, 4)
    quads = quads.reshape(4, half, half, -1)
    weights = shares(half)
    found = np.repeat(windows(pooled).reshape(1, -1), side * side, axis=0)
    for quarter in range(4):
        others = np.delete(quads, quarter, axis=0).max(0)
        change = np.einsum(
            "ap,bq,pqc->pqabc", weights, weights, others - pooled, optimize=True
        ).reshape(half, half, -1)
        rows = 2 * np.arange(half)[:, None] + quarter // 2
        columns = 2 * np.arange(half)[None] + quarter % 2
        found[rows * side + columns] += change
    return found
