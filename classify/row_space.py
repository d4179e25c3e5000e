"""Fit on the row space: with fewer rows than columns, use each row's coordinates in it instead.

The weights of an L2-regularised linear model, and those of the first layer of a regularised
network, are linear combinations of the rows that they are fitted on (the representer theorem;
Hastie and Tibshirani, "Efficient quadratic regularization for expression arrays", Biostatistics
2004). If n rows have d > n columns, the rows can be replaced by their n coordinates in an
orthonormal basis of the space that they span. The fitted model stays the same and takes d / n
times fewer operations.

Computing the coordinates costs about as much as a few steps of a solver on the rows. This pays off
only if d is at least twice n.
"""

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from classify.arrays import Matrix

COLUMNS_PER_ROW = 2
"""With fewer columns than this for each row, rows are left as they are."""

JITTER = 1e-10
"""Added to the diagonal of the Gram matrix, relative to its mean. Centred or repeated rows make
this matrix singular; the rounding of float32 features is a thousand times larger."""


def project(fitted: Matrix, held_out: Matrix) -> tuple[Matrix, Matrix]:
    """Express rows in an orthonormal basis of the space that the fitted rows span.

    The coordinates of the fitted rows are the Cholesky factor of their Gram matrix, which costs a
    fraction of a singular value decomposition.

    Parameters
    ----------
    fitted : ndarray of shape (n, d), float32
    held_out : ndarray of shape (m, d), float32

    Returns
    -------
    ndarrays of shape (n, n) and (m, n), float32; the inputs themselves if 2 n > d
    """
    if _has_many_rows(fitted):
        return fitted, held_out
    lower, rows = _cholesky(fitted)
    products = rows @ held_out.T.astype(np.float64)
    coordinates = scipy.linalg.solve_triangular(lower, products, lower=True, check_finite=False).T
    return lower.astype(np.float32), coordinates.astype(np.float32)


def basis(fitted: Matrix) -> tuple[Matrix, Matrix | None]:
    """Return the coordinates of rows as `project` does, and the basis.

    Returns
    -------
    coordinates : ndarray of shape (n, n), float32; `fitted` itself if 2 n > d
    basis : ndarray of shape (d, n), float32, or None if 2 n > d
        ``fitted @ basis`` are the coordinates. If `weights` were fitted on coordinates,
        ``basis @ weights`` are the weights of the columns.
    """
    if _has_many_rows(fitted):
        return fitted, None
    lower, rows = _cholesky(fitted)
    vectors = scipy.linalg.solve_triangular(lower, rows, lower=True, check_finite=False).T
    return lower.astype(np.float32), vectors.astype(np.float32)


def _has_many_rows(fitted: Matrix) -> bool:
    return bool(COLUMNS_PER_ROW * len(fitted) > fitted.shape[1])


def _cholesky(fitted: Matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the Cholesky factor of the Gram matrix, and the rows in double precision."""
    rows = fitted.astype(np.float64)
    gram = rows @ rows.T
    diagonal = np.diag_indices_from(gram)
    # If all rows are zero, so is the mean of the diagonal.
    gram[diagonal] += JITTER * (gram[diagonal].mean() or 1.0)
    return scipy.linalg.cholesky(gram, lower=True, check_finite=False), rows
