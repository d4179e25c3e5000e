"""The arrays that heads are trained on: their types, and the training data as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Labels = NDArray[np.int64]
SampleWeight = NDArray[np.float64]
Rows = NDArray[np.intp]
"""Row numbers."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The photos that heads are trained on.

    Attributes
    ----------
    X : ndarray of shape (n, d), float32
        The taps side by side, in memory or mapped from disk.
    taps : mapping of str to int
        Name and width of each tap, in the order of its columns.
    labels : ndarray of shape (n,), int64
        The class of each photo.
    sample_weight : ndarray of shape (n,), float64
        How much each photo counts.
    """

    X: Matrix
    taps: Mapping[str, int]
    labels: Labels
    sample_weight: SampleWeight

    @classmethod
    def weighted(
        cls, X: Matrix, taps: Mapping[str, int], labels: Labels, *, balanced: bool = False
    ) -> Self:
        """Weigh every photo the same or, if `balanced`, every class the same."""
        # This takes a second, and commands that only read results do without it.
        from sklearn.utils.class_weight import compute_sample_weight

        weight = compute_sample_weight("balanced" if balanced else None, labels)
        return cls(X, taps, labels, weight)

    def subset(self, rows: Rows) -> Self:
        """Return the data of some rows; the matrix is copied only if rows are left out."""
        return replace(
            self,
            X=self.X if len(rows) == len(self.X) else self.X[rows],
            labels=self.labels[rows],
            sample_weight=self.sample_weight[rows],
        )
