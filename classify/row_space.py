"""The span of the rows: where there are fewer rows than columns, everything happens in it.

The weights of an L2-regularised linear model, and the first layer of a regularised network, are
combinations of the rows that they are fitted on (the representer theorem; Hastie and Tibshirani,
"Efficient quadratic regularization for expression arrays", Biostatistics 2004). n rows of d > n
columns can therefore be replaced by their n coordinates in an orthonormal basis of their span: the
model is the same one, found with d / n times fewer operations.

The coordinates cost about as many operations as a few steps of a solver on the rows; where n is
more than half of d, these are not won back.
"""

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

TIMES = 2
"""As many times more columns than rows are needed for a rotation."""

JITTER = 1e-10
"""Added to the Gram matrix, relative to its mean diagonal: centred or repeated rows make it
singular, and the rounding of float32 features is a thousand times larger."""


def rotate(fitted: Matrix, held_out: Matrix) -> tuple[Matrix, Matrix]:
    """Express rows in an orthonormal basis of the span of the fitted rows.

    The coordinates of the fitted rows are the Cholesky factor of their Gram matrix, which costs a
    fraction of a singular value decomposition.

    Parameters
    ----------
    fitted : ndarray of shape (n, d), float32
    held_out : ndarray of shape (m, d), float32

    Returns
    -------
    ndarrays of shape (n, r) and (m, r), float32, r = n; the inputs where
        2 n > d
    """
    if TIMES * len(fitted) > fitted.shape[1]:
        return fitted, held_out
    lower, wide = _factor(fitted)
    across = wide @ held_out.T.astype(np.float64)
    there = scipy.linalg.solve_triangular(lower, across, lower=True, check_finite=False).T
    return lower.astype(np.float32), there.astype(np.float32)


def basis(fitted: Matrix) -> tuple[Matrix, Matrix | None]:
    """Return coordinates as `rotate` does, and what leads from columns to coordinates.

    Returns
    -------
    coordinates : ndarray of shape (n, r), float32
    basis : ndarray of shape (d, r), float32, or None where 2 n > d
        ``fitted @ basis`` are the coordinates; ``basis @ weights`` brings weights that were found
        on coordinates back to columns.
    """
    if TIMES * len(fitted) > fitted.shape[1]:
        return fitted, None
    lower, wide = _factor(fitted)
    found = scipy.linalg.solve_triangular(lower, wide, lower=True, check_finite=False).T
    return lower.astype(np.float32), found.astype(np.float32)


def _factor(fitted: Matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the Cholesky factor of the Gram matrix, and the rows in double precision."""
    wide = fitted.astype(np.float64)
    gram = wide @ wide.T
    diagonal = np.diag_indices_from(gram)
    # Rows that are all zero have a Gram matrix that is, too.
    gram[diagonal] += JITTER * (gram[diagonal].mean() or 1.0)
    return scipy.linalg.cholesky(gram, lower=True, check_finite=False), wide
