"""A novelty detector: a score of how far a photo is from the photos of the known classes.

A photo is compared by the square roots of its `TAP`, divided by their norm. The score is its
squared Mahalanobis distance to the nearest class, with one covariance for all classes (Lee, Lee,
Lee and Shin, "A simple unified framework for detecting out-of-distribution samples and adversarial
attacks", NeurIPS 2018), less `SHARE` of its squared distance to the mean of all photos. The whole
of the latter gives the relative distance of Ren, Fort, Liu, Roy, Padhy and Lakshminarayanan ("A
simple fix to Mahalanobis distance for improving near-OOD detection", 2021), which finds strangers
that are like the known photos. Without it, the distance finds those that are unlike all of them.
``docs/benchmarks.md`` has the figures.

The score follows from the number of photos, the mean and the scatter of the classes. So a detector
that does not know some of the classes costs a few operations on small matrices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from classify.novelty import KEEP

TAP, WIDTH = "block5_avg", 512
"""The tap that photos are compared by, and its number of values."""

SHARE = 0.7
"""How much of the distance to the mean of all photos is taken off."""

RIDGE = 1 / 500
"""What is added to the variance in every direction, as a share of the sum of all variances."""

LEVELS = np.linspace(0, 1, 1001)
"""The shares of known photos whose scores a detector has."""

MEMBERS = "novelty/"
"""Where the arrays of a detector lie in the file of a head."""

LARGEST = 1e9
"""No number of a detector is as large."""

BLOCK = 8192
"""Rows that are scored at a time."""

Rows = NDArray[np.float32]
Values = NDArray[np.float64]


def prepared(taps: Rows) -> Rows:
    """Return the rows that are compared, from values of `TAP`, shape (n, 512)."""
    rows: Rows = np.sqrt(taps)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(norms > 0, norms, 1)
    return rows


class Statistics(NamedTuple):
    """What is known of the photos of some classes.

    Attributes
    ----------
    counts : ndarray of shape (k,), float64
    means : ndarray of shape (k, 512), float64
    scatter : ndarray of shape (512, 512), float64
        Sum over all photos of the outer square of the difference from the mean of their class.
    """

    counts: Values
    means: Values
    scatter: Values

    @classmethod
    def of(cls, rows: Rows, labels: NDArray[np.int64]) -> Self:
        """Return the statistics of prepared rows and their classes."""
        _, codes = np.unique(labels, return_inverse=True)
        counts = np.bincount(codes).astype(np.float64)
        means = np.zeros((len(counts), rows.shape[1]))
        for code in range(len(counts)):
            means[code] = rows[codes == code].mean(axis=0, dtype=np.float64)
        differences = rows - means.astype(np.float32)[codes]
        return cls(counts, means, (differences.T @ differences).astype(np.float64))

    @classmethod
    def joined(cls, parts: Sequence["Statistics"]) -> Self:
        """Return the statistics of the classes of several parts, which have none in common."""
        counts, means, scatters = zip(*parts, strict=True)
        return cls(np.concatenate(counts), np.concatenate(means), np.sum(scatters, axis=0))


class Distances:
    """The distances of photos from known classes.

    Parameters
    ----------
    known : Statistics

    Raises
    ------
    ValueError
        If no photos have these statistics.
    """

    def __init__(self, known: Statistics) -> None:
        photos = known.counts.sum()
        self.mean = (known.counts @ known.means / photos).astype(np.float32)
        centred = known.means - self.mean
        between = (centred * known.counts[:, None]).T @ centred
        total = known.scatter + between
        ridge = RIDGE * np.trace(total)
        self.within, self.overall = (
            _root(matrix, ridge) / np.float32(np.sqrt(photos)) for matrix in (known.scatter, total)
        )
        self.centres = _whitened(centred.astype(np.float32), self.within)

    def scores(self, rows: Rows) -> Values:
        """Return the score of each prepared row, shape (n,); that of a stranger is large."""
        blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
        return np.concatenate([np.empty(0), *map(self._scores, blocks)])

    def _scores(self, rows: Rows) -> Values:
        centred = rows - self.mean
        white = _whitened(centred, self.within)
        nearest = np.full(len(rows), np.inf, np.float32)
        for centre in self.centres:
            np.minimum(nearest, _squares(white - centre), out=nearest)
        of_all = _squares(_whitened(centred, self.overall))
        scores: Values = (nearest - SHARE * of_all).astype(np.float64)
        return scores


def _root(scatter: Values, ridge: float) -> Rows:
    """Return the lower Cholesky factor of a scatter matrix with a ridge."""
    ridged = scatter.astype(np.float32)
    ridged[np.diag_indices_from(ridged)] += ridge or 1.0
    try:
        root: Rows = scipy.linalg.cholesky(ridged, lower=True, overwrite_a=True)
    except (scipy.linalg.LinAlgError, ValueError) as error:
        raise ValueError("no photos have such a scatter") from error
    return root


def _whitened(rows: Rows, root: Rows) -> Rows:
    """Return rows whose squared norms are their squared distances of Mahalanobis from 0."""
    white: Rows = scipy.linalg.solve_triangular(root, rows.T, lower=True, check_finite=False).T
    return white


def _squares(rows: Rows) -> Rows:
    squares: Rows = np.einsum("ij,ij->i", rows, rows)
    return squares


@dataclass(frozen=True, eq=False)
class NoveltyDetector:
    """Scores photos, and knows the scores of known photos that it was not fitted on.

    Attributes
    ----------
    known : Statistics
        Of the photos that it was fitted on.
    quantiles : ndarray of shape (1001,), float64
        The scores below which the shares `LEVELS` of known photos lie.
    """

    known: Statistics
    quantiles: Values

    @cached_property
    def distances(self) -> Distances:
        """The distances from the known classes."""
        return Distances(self.known)

    def scores(self, taps: Rows) -> Values:
        """Return the score of each photo from its values of `TAP`, shape (n, 512)."""
        return self.distances.scores(prepared(taps))

    def threshold(self, keep: float = KEEP) -> float:
        """Return the score above which a photo is a stranger, if this share of known are kept."""
        return float(np.interp(keep, LEVELS, self.quantiles))

    def arrays(self) -> dict[str, Rows]:
        """Return all of it as arrays to be stored, about 0.5 MB and 2 KB for each class."""
        upper = self.known.scatter[np.triu_indices(WIDTH)]
        found = {"counts": self.known.counts, "means": self.known.means, "scatter": upper}
        return {k: v.astype(np.float32) for k, v in {**found, "quantiles": self.quantiles}.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Rows], *, classes: int) -> Self:
        """Return the detector of stored arrays, which a stranger may have made.

        Raises
        ------
        ValueError
            If they are not those of a detector of so many classes.
        """
        upper = np.triu_indices(WIDTH)
        shapes = {
            "counts": (classes,),
            "means": (classes, WIDTH),
            "scatter": (len(upper[0]),),
            "quantiles": LEVELS.shape,
        }
        if {name: array.shape for name, array in arrays.items()} != shapes:
            raise ValueError("its novelty detector is not one of its classes")
        if any(array.dtype != np.float32 for array in arrays.values()):
            raise ValueError("its novelty detector is not of single precision")
        exact = {name: array.astype(np.float64) for name, array in arrays.items()}
        scatter = np.zeros((WIDTH, WIDTH))
        scatter[upper] = exact["scatter"]
        scatter += np.triu(scatter, 1).T
        known = Statistics(exact["counts"], exact["means"], scatter)
        # Photos have positive values of norm 1, so nothing here is larger than their number.
        are_bounded = all(np.abs(array).max() <= LARGEST for array in exact.values())
        is_sorted = bool((np.diff(exact["quantiles"]) >= 0).all())
        if not (are_bounded and is_sorted and (known.counts >= 1).all()):
            raise ValueError("its novelty detector has numbers that no photos give")
        detector = cls(known, exact["quantiles"])
        _ = detector.distances
        return detector
