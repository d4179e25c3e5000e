"""The heads: the preparation of the rows, and the three classifiers that are fitted on them.

All classifiers are fitted on rows of the same scale (mean squared norm 1, see `unit_scale`), so
that a hyper-parameter means the same for every data set and every set of taps.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model._base import LinearClassifierMixin
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from classify import mlp, out_of_core, row_space
from classify.arrays import Labels, Matrix, Rows, SampleWeight
from classify.calibration import Calibration
from classify.row_space import Basis, Projection
from extract.vgg16.recipe import has_pairs, plain

Values = tuple[float, ...]
"""A value for each hyper-parameter of a classifier."""

TRUSTED = (
    "classify.heads.GaussianSVC",
    "classify.heads.LeastSquaresSVC",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
)
"""Types in a saved head that skops does not trust by default; loading them runs no foreign code."""

MLP_NORM = np.float32(20)
"""Root mean square norm of the rows that the MLP gets. On the val split of Caltech-101 its log
loss was 0.19 with 10 or 20, and 0.28 with 85, which gives every column a variance of 1."""


LANDMARKS = 2048
"""Landmarks of a Gaussian kernel, about; with fewer rows, all of them."""

KERNEL_JITTER = 1e-5
"""Added to the diagonal of a kernel matrix, see `classify.row_space.cholesky`."""


class LeastSquaresSVC(LinearClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Least-squares support vector machine, one class against the rest, with probabilities.

    The squared distance to -1 and 1 replaces the hinge loss, so that fitting means to solve a
    linear system (Suykens and Vandewalle, "Least squares support vector machine classifiers",
    Neural Processing Letters 1999). The coefficients equal those of scikit-learn's
    `RidgeClassifier`, but that one starts from scratch for every `alpha`, copies the rows and
    gives no probabilities. Here the probabilities are the softmax of the scores, once these are
    scaled, see `classify.calibration.Calibration`.

    Parameters
    ----------
    alpha : float
        Strength of the regularisation.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
    coef_ : ndarray of shape (k, d), or (1, d) for two classes
    intercept_ : ndarray of shape (k,), or (1,) for two classes
    temperature_, floor_ : float
        See `calibrate`. A head that an earlier version saved has none.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to rows X of shape (n, d), their classes and their weights."""
        X, codes, sample_weight = self._checked(X, y, sample_weight)
        self.coef_, self.intercept_ = next(
            _least_squares(X, codes, sample_weight, [self.alpha], precision=np.float64)
        )
        return self

    def _checked(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Labels, SampleWeight]:
        """Return the rows, the number of the class of each, and its weight."""
        X, y = validate_data(self, X, y, dtype=[np.float32, np.float64])
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        self.temperature_, self.floor_ = 1.0, np.inf
        if len(self.classes_) < 2:
            raise ValueError("a classifier needs two classes, and there is 1 class")
        return X, codes, _check_sample_weight(sample_weight, X, dtype=np.float64)

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the probabilities of rows, shape (n, k)."""
        probabilities: NDArray[np.floating[Any]] = softmax(scores(self, X), axis=1)
        return probabilities


def _least_squares(
    X: Matrix,
    codes: Labels,
    sample_weight: SampleWeight,
    alphas: Sequence[float],
    *,
    precision: type,
) -> Iterator[tuple[Matrix, Matrix]]:
    """Yield the coefficients and the intercept for each alpha; the Gram matrix is computed once.

    Parameters
    ----------
    codes : ndarray of shape (n,), int64
        Classes, 0 to k - 1.
    precision : type
        Type in which the system is solved. float32 is twice as fast, and accurate enough unless
        `alpha` is smaller than the rounding of a Gram matrix.
    """
    width, classes = X.shape[1], int(codes.max()) + 1
    columns = np.arange(1, 2) if classes == 2 else np.arange(classes)
    share = sample_weight / sample_weight.sum()
    blocks = [
        slice(start, start + out_of_core.BLOCK) for start in range(0, len(X), out_of_core.BLOCK)
    ]
    centre = np.zeros(width)
    for block in blocks:
        centre += share[block] @ X[block]
    level = np.array([2 * share[codes == column].sum() - 1 for column in columns])
    root = np.sqrt(sample_weight).astype(X.dtype)[:, None]
    gram, target = np.zeros((width, width)), np.zeros((width, len(columns)))
    for block in blocks:
        rows = X[block] - centre.astype(X.dtype)
        rows *= root[block]
        signs = np.where(codes[block, None] == columns, 1.0, -1.0) - level
        # NumPy multiplies a matrix by its own transpose with half of the multiplications.
        gram += rows.T @ rows
        target += rows.T @ (signs.astype(X.dtype) * root[block])
    for alpha in alphas:
        system: NDArray[Any] = gram.astype(precision)
        system[np.diag_indices_from(system)] += alpha
        factor = scipy.linalg.cho_factor(system, overwrite_a=True, check_finite=False)
        solution = scipy.linalg.cho_solve(factor, target.astype(precision), check_finite=False)
        yield solution.T.astype(X.dtype), (level - centre @ solution).astype(X.dtype)


class GaussianSVC(LeastSquaresSVC):
    """Least-squares support vector machine with a Gaussian kernel, one class against the rest.

    The score of a row x for a class is ``coef_ @ k + intercept_``, where
    ``k[j] = exp(-gamma_ * ||x - landmarks_[j]||^2)``. The landmarks are all rows that it is fitted
    on or, of more than `LANDMARKS`, a sample from each class in proportion (the Nystroem method;
    Williams and Seeger, "Using the Nystroem method to speed up kernel machines", NIPS 2001).

    For n rows, m landmarks, d columns and k classes, fitting takes about ``n m (d + 2 m)``
    multiplications, besides those of `LeastSquaresSVC` on m columns, and memory for ``n m``
    numbers (on disk if they take more than 1 GiB). A fitted one has ``m (d + k)`` numbers, and
    answering takes as many multiplications for each row.

    Parameters
    ----------
    alpha : float
        Strength of the regularisation.
    gamma : float
        How fast the kernel falls with the squared distance, for rows of mean squared norm 1.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
    landmarks_ : ndarray of shape (m, d)
    gamma_ : float
        The same for the rows as they are. It differs from `gamma` after `map_back`.
    coef_ : ndarray of shape (k, m), or (1, m) for two classes
    intercept_ : ndarray of shape (k,), or (1,) for two classes
    """

    def __init__(self, alpha: float = 1.0, gamma: float = 1.0) -> None:
        super().__init__(alpha)
        self.gamma = gamma

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to rows X of shape (n, d), their classes and their weights."""
        X, codes, sample_weight = self._checked(X, y, sample_weight)
        self.gamma_, self.landmarks_ = self.gamma, X[_landmark_rows(codes)]
        features = _Features(self.landmarks_, self.gamma)
        coefficients, self.intercept_ = next(
            _least_squares(features(X), codes, sample_weight, [self.alpha], precision=np.float64)
        )
        self.coef_ = features.of_landmarks(coefficients)
        return self

    def decision_function(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the scores of rows, shape (n, k), or (n,) for two classes."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float32, np.float64])
        similar = _gaussian(X, self.landmarks_, self.gamma_)
        scores: NDArray[np.floating[Any]] = similar @ self.coef_.T + self.intercept_
        return scores.ravel() if scores.shape[1] == 1 else scores


def _landmark_rows(codes: Labels) -> Rows:
    return out_of_core.sample(codes, rows=LANDMARKS, seed=0)


def _gaussian(X: Matrix, landmarks: Matrix, gamma: float, outside: Any = 0.0) -> Matrix:
    """Return the Gaussian kernel of rows and landmarks, shape (n, m).

    It keeps the precision of the rows, whereas scikit-learn's `rbf_kernel` computes in double
    precision.
    """
    similar: Matrix = X @ landmarks.T
    similar *= 2
    similar -= (np.einsum("ij,ij->i", X, X) + outside)[:, None]
    similar -= np.einsum("ij,ij->i", landmarks, landmarks)
    np.minimum(similar, 0, out=similar)
    similar *= gamma
    return np.exp(similar, out=similar)


class _Features:
    """Features of rows whose products are the Gaussian kernel, as exactly as landmarks allow.

    Parameters
    ----------
    landmarks : ndarray of shape (m, d)
    gamma : float
    """

    def __init__(self, landmarks: Matrix, gamma: float) -> None:
        self.landmarks, self.gamma = landmarks, gamma
        among = _gaussian(landmarks, landmarks, gamma).astype(np.float64)
        self.lower = row_space.cholesky(among, KERNEL_JITTER).astype(landmarks.dtype)

    def __call__(self, X: Matrix, outside: Matrix | None = None) -> Matrix:
        """Return the features of rows, shape (n, m).

        Parameters
        ----------
        X : ndarray of shape (n, d)
        outside : ndarray of shape (n,), optional
            See `classify.row_space.Projection`.
        """
        if outside is None:
            outside = np.zeros(len(X), X.dtype)
        shape = len(X), len(self.landmarks)
        found = out_of_core.matrix(shape) if X.dtype == np.float32 else np.empty(shape, X.dtype)
        for start in range(0, len(X), out_of_core.BLOCK):
            block = slice(start, start + out_of_core.BLOCK)
            similar = _gaussian(X[block], self.landmarks, self.gamma, outside[block])
            found[block] = scipy.linalg.solve_triangular(
                self.lower, similar.T, lower=True, overwrite_b=True, check_finite=False
            ).T
        return found

    def of_landmarks(self, coefficients: Matrix) -> Matrix:
        """Return coefficients of the kernel, shape (k, m), from those of the features."""
        found: Matrix = scipy.linalg.solve_triangular(
            self.lower, coefficients.T, lower=True, trans="T", check_finite=False
        ).T
        return np.ascontiguousarray(found)


class Head(NamedTuple):
    """How a classifier is fitted.

    Attributes
    ----------
    hyperparameters : tuple of str
        The names of its regularising hyper-parameters; every `Values` has them in this order.
    path : callable
        Given fitted and held-out rows, the labels and sample weights of the fitted ones, a list of
        values and a seed, yields the scores of the held-out rows for each of the values in turn,
        of shape (m, classes among the labels). Successive values share work.
    fit : callable
        Given rows, which it may change, labels, sample weights, values and a seed, returns the
        fitted classifier.
    has_floor : bool
        Whether its scores are those of least squares, see `classify.calibration.Calibration`.
    """

    hyperparameters: tuple[str, ...]
    path: Callable[[Projection, Labels, SampleWeight, Sequence[Values], int], Iterator[Matrix]]
    fit: Callable[[Matrix, Labels, SampleWeight, Values, int], ClassifierMixin]
    has_floor: bool = False


def scores(classifier: ClassifierMixin, X: Matrix) -> Matrix:
    """Return scores whose softmax is the probabilities of a classifier, shape (n, k)."""
    if isinstance(classifier, MLPClassifier):
        # Not the logarithm of its probabilities, whose difference from 1 float32 cannot hold.
        hidden = np.maximum(X @ classifier.coefs_[0] + classifier.intercepts_[0], 0)
        outputs = hidden @ classifier.coefs_[1] + classifier.intercepts_[1]
        logarithms: Matrix = log_softmax(_two_columns(outputs), axis=1)
        return logarithms
    found = classifier.decision_function(X)
    if is_calibrated(classifier):
        calibration = Calibration(classifier.temperature_, classifier.floor_)
        return calibration.scaled(_both_classes(found))
    return _two_columns(found)


def is_calibrated(classifier: ClassifierMixin) -> bool:
    """Say whether a classifier keeps its calibration apart from its coefficients."""
    return hasattr(classifier, "floor_")


def _both_classes(scores: Matrix) -> Matrix:
    """Give the first of two classes, in least squares, the score of the second times -1."""
    if scores.ndim == 1 or scores.shape[1] == 1:
        return np.column_stack([-scores, scores])
    return scores


def _two_columns(scores: Matrix) -> Matrix:
    """Give the first of two classes, which has no score of its own, the score 0."""
    if scores.ndim == 1 or scores.shape[1] == 1:
        return np.column_stack([np.zeros_like(scores), scores])
    return scores


def _logistic(C: float, *, warm_start: bool) -> LogisticRegression:
    # The tolerance applies to the gradient, which is small because the rows are.
    return LogisticRegression(C=C, max_iter=1000, tol=1e-5, warm_start=warm_start)


def _logistic_path(
    part: Projection,
    labels: Labels,
    sample_weight: SampleWeight,
    grid: Sequence[Values],
    seed: int,
) -> Iterator[Matrix]:
    classifier = _logistic(*grid[0], warm_start=True)
    for (C,) in grid:
        # Each fit starts from the solution of the one before.
        classifier.set_params(C=C).fit(part.fitted, labels, sample_weight)
        yield scores(classifier, part.held_out)


def _logistic_fit(
    X: Matrix, labels: Labels, sample_weight: SampleWeight, values: Values, seed: int
) -> ClassifierMixin:
    return _logistic(*values, warm_start=False).fit(X, labels, sample_weight)


def _svm_path(
    part: Projection,
    labels: Labels,
    sample_weight: SampleWeight,
    grid: Sequence[Values],
    seed: int,
) -> Iterator[Matrix]:
    codes = np.unique(labels, return_inverse=True)[1]
    for gamma, group in groupby(grid, itemgetter(1)):
        rows, held_out = part.fitted, part.held_out
        if gamma:
            landmarks = rows[_landmark_rows(codes)]
            features = _Features(landmarks, gamma)
            rows, held_out = features(rows), features(held_out, part.outside)
        alphas = [alpha for alpha, _ in group]
        solutions = _least_squares(rows, codes, sample_weight, alphas, precision=np.float32)
        for coefficients, intercept in solutions:
            yield _both_classes(held_out @ coefficients.T + intercept)


def _svm_fit(
    X: Matrix, labels: Labels, sample_weight: SampleWeight, values: Values, seed: int
) -> ClassifierMixin:
    alpha, gamma = values
    classifier = GaussianSVC(alpha, gamma) if gamma else LeastSquaresSVC(alpha)
    return classifier.fit(X, labels, sample_weight)


def _mlp_path(
    part: Projection,
    labels: Labels,
    sample_weight: SampleWeight,
    grid: Sequence[Values],
    seed: int,
) -> Iterator[Matrix]:
    unseen = part.held_out * MLP_NORM
    for network in mlp.path(part.fitted * MLP_NORM, labels, sample_weight, grid, seed):
        yield log_softmax(_two_columns(network.scores(unseen)), axis=1)


def _mlp_fit(
    X: Matrix, labels: Labels, sample_weight: SampleWeight, values: Values, seed: int
) -> ClassifierMixin:
    # Scale in place, because memory may not hold a second matrix.
    X *= MLP_NORM
    alpha, epochs = values
    # With a number as seed, every epoch would draw the same order again.
    random, size = np.random.RandomState(seed), mlp.batch_size(len(X))
    classifier = MLPClassifier((mlp.HIDDEN,), alpha=alpha, batch_size=size, random_state=random)
    classes = np.unique(labels)
    for _ in range(int(epochs)):
        classifier.partial_fit(X, labels, classes=classes, sample_weight=sample_weight)
    classifier.coefs_[0] *= MLP_NORM
    return classifier.set_params(random_state=seed)


HEADS = {
    "logistic": Head(("C",), _logistic_path, _logistic_fit),
    "svm": Head(("alpha", "gamma"), _svm_path, _svm_fit, has_floor=True),
    "mlp": Head(("alpha", "epochs"), _mlp_path, _mlp_fit),
}


def values(name: str, hyperparameters: Mapping[str, Any]) -> Values:
    """Return the values of a head's hyper-parameters, given all that a result records.

    The svm of an earlier version was linear, and its record has no ``gamma``.
    """
    known = {"gamma": 0.0} | dict(hyperparameters)
    return tuple(known[one] for one in HEADS[name].hyperparameters)


def preparation(taps: Mapping[str, int], *, root: bool, by_block: bool = False) -> Pipeline:
    """Make the steps before a classifier: square root or not, L2 norm of each tap, centring.

    Dividing by the norm makes distances independent of a photo's contrast. Columns are centred
    but not scaled, which would change distances between photos.

    Parameters
    ----------
    taps : mapping of str to int
        Name and width of the taps that lie side by side in the rows.
    root : bool
        Whether to take square roots first, but not of pairs, see `rooted`.
    by_block : bool
        Whether each tap gets the norm that `block_norms` gives it, and not 1.
    """
    slices = columns(taps)
    steps = {True: [FunctionTransformer(np.sqrt), Normalizer()], False: [Normalizer()]}
    per_tap = [(tap, make_pipeline(*steps[rooted(tap, root)]), slices[tap]) for tap in taps]
    centre = StandardScaler(with_std=False)
    norms = block_norms(taps) if by_block else None
    transformer = ColumnTransformer(per_tap, transformer_weights=norms)
    return Pipeline([("taps", transformer), ("centre", centre)])


def block_norms(taps: Iterable[str]) -> dict[str, float]:
    """Return the L2 norms of taps with which each of VGG16's blocks counts the same in distances.

    If every tap has a norm of 1, a block with three taps counts three times as much as one with
    one tap. Here the squared norms of every block add up to the same.
    """
    of_block = {tap: plain(tap).partition("_")[0] for tap in taps}
    number = Counter(of_block.values())
    most = max(number.values())
    return {tap: float(np.sqrt(most / number[block])) for tap, block in of_block.items()}


def preparation_options(hyperparameters: Mapping[str, Any]) -> dict[str, bool]:
    """Return the options of `preparation` for a head, given all that a result records.

    That blocks count the same is recorded only where it was chosen.
    """
    return {
        "root": bool(hyperparameters.get("root", True)),
        "by_block": bool(hyperparameters.get("by_block", False)),
    }


def rooted(tap: str, root: bool) -> bool:
    """Say whether square roots of a tap are taken; the taps of pairs are made of roots."""
    return root and not has_pairs(tap)


def unit_scale(X: Matrix) -> float:
    """Return the factor by which rows get a mean squared norm of 1."""
    return float(1 / np.sqrt(np.einsum("ij,ij", X, X, dtype=np.float64) / len(X) or 1.0))


def columns(taps: Mapping[str, int]) -> dict[str, slice]:
    """Return the columns of each tap in a matrix of `taps`, of these widths, side by side."""
    ends = np.cumsum(list(taps.values())).tolist()
    return {tap: slice(end - taps[tap], end) for tap, end in zip(taps, ends, strict=True)}


def select(X: Matrix, taps: Iterable[str], *, among: Mapping[str, int]) -> Matrix:
    """Return the columns of `taps` side by side, from a matrix that has those of `among`."""
    slices = columns(among)
    return out_of_core.columns(X, [slices[tap] for tap in taps])


def normalised(
    X: Matrix,
    taps: Iterable[str],
    *,
    among: Mapping[str, int],
    root: bool,
    by_block: bool = False,
) -> Matrix:
    """Select `taps` as `select` does, and prepare them as `preparation` does, but for the centre.

    This takes a fraction of the time of scikit-learn's transformers, which copy the rows in every
    step.
    """
    slices = columns(among)
    chosen = {tap: slices[tap] for tap in taps}
    wanted = block_norms(chosen) if by_block else dict.fromkeys(chosen, 1.0)
    width = sum(part.stop - part.start for part in chosen.values())
    prepared = out_of_core.matrix((len(X), width))
    end = 0
    for tap, part in chosen.items():
        start, end = end, end + part.stop - part.start
        for first in range(0, len(X), out_of_core.BLOCK):
            block = slice(first, first + out_of_core.BLOCK)
            rows = prepared[block, start:end]
            values = X[block, part]
            np.sqrt(values, out=rows) if rooted(tap, root) else np.copyto(rows, values)
            norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
            rows *= np.float32(wanted[tap]) / np.where(norms > 0, norms, 1)[:, None]
    return prepared


def tap_columns(head: Pipeline) -> dict[str, slice]:
    """Return the columns of each tap that a fitted head uses; it uses no other columns."""
    return {tap: columns for tap, _, columns in head[0].transformers_ if tap != "remainder"}


def map_back(classifier: ClassifierMixin, basis: Basis | None, *, scale: float) -> None:
    """Turn a classifier that was fitted on scaled rows into one for the rows themselves.

    Parameters
    ----------
    classifier : fitted classifier of a head
    basis : Basis or None
        In which the rows were expressed, if they were.
    scale : float
        What the rows were multiplied by.
    """
    if isinstance(classifier, MLPClassifier):
        weights = classifier.coefs_[0] * np.float32(scale)
    elif isinstance(classifier, GaussianSVC):
        weights = classifier.landmarks_.T / np.float32(scale)
        classifier.gamma_ *= scale**2
    else:
        weights = classifier.coef_.T * np.float32(scale)
    if basis is not None:
        weights = basis.columns(weights)
    classifier.n_features_in_ = len(weights)
    if isinstance(classifier, MLPClassifier):
        classifier.coefs_[0] = np.ascontiguousarray(weights)
    elif isinstance(classifier, GaussianSVC):
        classifier.landmarks_ = np.ascontiguousarray(weights.T)
    else:
        classifier.coef_ = np.ascontiguousarray(weights.T)


def calibrate(classifier: ClassifierMixin, calibration: Calibration) -> None:
    """Scale the scores of a classifier.

    Least squares keeps both numbers. Others have no floor, and their last coefficients change.
    """
    if is_calibrated(classifier):
        classifier.temperature_, classifier.floor_ = calibration
        return
    if isinstance(classifier, MLPClassifier):
        last = [classifier.coefs_[-1], classifier.intercepts_[-1]]
    else:
        last = [classifier.coef_, classifier.intercept_]
    for coefficients in last:
        coefficients /= calibration.temperature


def parameters(head: Pipeline) -> int:
    """Count the numbers that the classifier of a fitted head has learned."""
    classifier = head[-1]
    if isinstance(classifier, MLPClassifier):
        arrays = [*classifier.coefs_, *classifier.intercepts_]
    else:
        arrays = [classifier.coef_, classifier.intercept_]
    if isinstance(classifier, GaussianSVC):
        arrays.append(classifier.landmarks_)
    return int(sum(array.size for array in arrays))
