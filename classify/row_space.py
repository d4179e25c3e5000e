"""Fit on the row space: with fewer rows than columns, use each row's coordinates in it instead.

The weights of an L2-regularised linear model, and those of the first layer of a regularised
network, are linear combinations of the rows that they are fitted on (the representer theorem;
Hastie and Tibshirani, "Efficient quadratic regularization for expression arrays", Biostatistics
2004). If n rows have d > n columns, the rows can be replaced by their n coordinates in an
orthonormal basis of the space that they span. The fitted model stays the same and takes d / n
times fewer operations.

The coordinates of the rows are the Cholesky factor of their Gram matrix. This matrix is computed
once for the rows of all folds; a fold takes its part and centres it. Computing it costs about as
much as a few steps of a solver on the rows, so this pays off only if d is at least twice n.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from classify.arrays import Matrix, Rows

COLUMNS_PER_ROW = 2
"""With fewer columns than this for each row, rows are left as they are."""

JITTER = 1e-6
"""Added to the diagonal of the Gram matrix, relative to its mean. Centred or repeated rows make
this matrix singular, and single precision rounds it by less than this."""


class Basis(NamedTuple):
    """An orthonormal basis of the space that some rows span.

    Attributes
    ----------
    lower : ndarray of shape (n, n), float64
        The Cholesky factor of the Gram matrix of the rows, whose rows are their coordinates.
    rows : ndarray of shape (n, d), float32
    """

    lower: NDArray[np.float64]
    rows: Matrix

    def columns(self, weights: Matrix) -> Matrix:
        """Return weights of the columns, shape (d, r), from those of the coordinates, (n, r)."""
        of_rows = scipy.linalg.solve_triangular(
            self.lower, weights, lower=True, trans="T", check_finite=False
        )
        mapped: Matrix = self.rows.T @ of_rows.astype(np.float32)
        return mapped


class Projection(NamedTuple):
    """Fitted and held-out rows in an orthonormal basis of the space that the fitted ones span.

    Attributes
    ----------
    fitted : ndarray of shape (f, f), float32
    held_out : ndarray of shape (h, f), float32
    outside : ndarray of shape (h,), float32
        The squared distance of each held-out row from that space. A linear model ignores what lies
        outside of it, and distances between rows do not.
    """

    fitted: Matrix
    held_out: Matrix
    outside: Matrix


def pays_off(rows: int, columns: int) -> bool:
    """Return whether fitting on the row space takes fewer operations."""
    return COLUMNS_PER_ROW * rows <= columns


def gram(rows: Matrix) -> Matrix:
    """Return the Gram matrix of rows; they should be centred, which makes it more exact."""
    products: Matrix = rows @ rows.T
    return products


def project(products: Matrix, fitted: Rows, held_out: Rows) -> Projection:
    """Centre rows and express them in an orthonormal basis of the space that the fitted ones span.

    Parameters
    ----------
    products : ndarray of shape (n, n), float32
        The Gram matrix of all rows, see `gram`.
    fitted : ndarray of row numbers
        All rows are centred on the mean of these.
    held_out : ndarray of row numbers
    """
    inner = products[np.ix_(fitted, fitted)].astype(np.float64)
    across = products[np.ix_(fitted, held_out)].astype(np.float64)
    centre = inner.mean(axis=1, keepdims=True)
    norms = products[held_out, held_out] - 2 * across.mean(axis=0) + centre.mean()
    across += centre.mean() - centre - across.mean(axis=0)
    inner += centre.mean() - centre - centre.T
    lower = cholesky(inner)
    coordinates = scipy.linalg.solve_triangular(lower, across, lower=True, check_finite=False).T
    outside = np.maximum(norms - np.einsum("ij,ij->i", coordinates, coordinates), 0)
    # Cholesky leaves rows that lie in columns. To collect a batch of those took 39 times as long.
    parts = (np.ascontiguousarray(one, np.float32) for one in (lower, coordinates, outside))
    return Projection(*parts)


def basis(rows: Matrix) -> tuple[Matrix, Basis | None]:
    """Express rows, which are centred already, in an orthonormal basis of the space they span.

    Returns
    -------
    coordinates : ndarray of shape (n, n), float32; the rows themselves if 2 n > d
    basis : Basis, or None if 2 n > d
    """
    if not pays_off(*rows.shape):
        return rows, None
    lower = cholesky(gram(rows).astype(np.float64))
    return np.ascontiguousarray(lower, np.float32), Basis(lower, rows)


def cholesky(products: NDArray[Any], jitter: float = JITTER) -> NDArray[Any]:
    """Return the lower Cholesky factor of a Gram matrix, whose diagonal is changed.

    Parameters
    ----------
    products : ndarray of shape (n, n)
    jitter : float
        The share of the mean of the diagonal that is added to it. Single precision rounded the
        products, and how much that matters depends on the rows: ten and a hundred times as much is
        added if the matrix is not positive definite otherwise.
    """
    diagonal = np.diag_indices_from(products)
    exact = products[diagonal]
    # If all rows are zero, so is the mean of the diagonal.
    scale = exact.mean() or 1.0
    for share in (jitter, 10 * jitter, 100 * jitter):
        products[diagonal] = exact + share * scale
        try:
            lower: NDArray[Any] = scipy.linalg.cholesky(products, lower=True, check_finite=False)
        except scipy.linalg.LinAlgError as error:
            failed = error
        else:
            return lower
    raise failed
