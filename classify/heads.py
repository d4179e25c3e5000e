"""Heads: how each is fitted, the space that is searched for it, and the pipeline it becomes.

Every head is fitted on rows of one scale (squared norm 1 on average), so that a value of its
parameter means the same for every data set and every set of taps.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model._base import LinearClassifierMixin
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, validate_data

from classify import out_of_core
from extract.vgg16.recipe import plain

Matrix = NDArray[np.float32]
Labels = NDArray[np.int64]
Weights = NDArray[np.float64]
Value = tuple[float, ...]

TRUSTED = (
    "classify.heads.LeastSquaresSVC",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
)
"""Types in a saved head beyond those that skops itself knows to run no code."""


class LeastSquaresSVC(LinearClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Least-squares support vector machine, one class against the rest, with probabilities.

    The hinge is replaced by the squared distance to -1 and 1, which makes the machine a linear
    system (Suykens and Vandewalle, "Least squares support vector machine classifiers", Neural
    Processing Letters 1999). It is scikit-learn's `RidgeClassifier`, which however begins anew for
    every `alpha`, copies its rows and gives no probabilities. Here those are the softmax of the
    scores, which `cool` calibrates.

    Parameters
    ----------
    alpha : float
        Strength of the regularisation.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
    coef_ : ndarray of shape (k, d), or (1, d) of two classes
    intercept_ : ndarray of shape (k,), or (1,)
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to rows X of shape (n, d), their classes and weights."""
        X, y = validate_data(self, X, y, dtype=[np.float32, np.float64])
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("a classifier needs two classes, and there is 1 class")
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
        self.coef_, self.intercept_ = next(
            _least_squares(X, codes, weights, [self.alpha], precision=np.float64)
        )
        return self

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the probabilities of rows, of shape (n, k)."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            return np.column_stack([expit(-scores), expit(scores)])
        found: NDArray[np.floating[Any]] = softmax(scores, axis=1)
        return found


def _least_squares(
    X: Matrix, codes: Labels, weights: Weights, alphas: Sequence[float], *, precision: type
) -> Iterator[tuple[Matrix, Matrix]]:
    """Yield coefficients and intercept for each alpha; the sums over the rows are made once.

    Parameters
    ----------
    codes : ndarray of shape (n,), int64
        Classes, 0 to k - 1.
    precision : type
        Of the system that is solved: float32 is twice as fast, and enough where `alpha` is not
        below the rounding of a Gram matrix.
    """
    width, classes = X.shape[1], int(codes.max()) + 1
    columns = np.arange(1, 2) if classes == 2 else np.arange(classes)
    share = weights / weights.sum()
    centre = np.zeros(width)
    for start in range(0, len(X), out_of_core.BLOCK):
        centre += share[start : start + out_of_core.BLOCK] @ X[start : start + out_of_core.BLOCK]
    level = np.array([2 * share[codes == column].sum() - 1 for column in columns])
    gram, target = np.zeros((width, width)), np.zeros((width, len(columns)))
    for start in range(0, len(X), out_of_core.BLOCK):
        block = slice(start, start + out_of_core.BLOCK)
        rows = X[block] - centre.astype(X.dtype)
        weighted = rows * weights[block, None].astype(X.dtype)
        signs = np.where(codes[block, None] == columns, 1.0, -1.0) - level
        gram += weighted.T @ rows
        target += weighted.T @ signs.astype(X.dtype)
    for alpha in alphas:
        system: NDArray[Any] = gram.astype(precision)
        system[np.diag_indices_from(system)] += alpha
        factor = scipy.linalg.cho_factor(system, overwrite_a=True, check_finite=False)
        found = scipy.linalg.cho_solve(factor, target.astype(precision), check_finite=False)
        yield found.T.astype(X.dtype), (level - centre @ found).astype(X.dtype)


class Head(NamedTuple):
    """How a head is searched and fitted.

    Attributes
    ----------
    parameters : tuple of str
        Those that regularise it.
    values : tuple of tuple of float
        Of the parameters, from the most to the least regularised.
    path : callable
        Given rows, labels, weights, held-out rows, values and a seed, yields the scores of the
        held-out rows, of shape (m, classes in labels), for one value after the other.
    fit : callable
        Given rows, which it may change, labels, weights, a value and a seed, returns the fitted
        classifier.
    """

    parameters: tuple[str, ...]
    values: tuple[Value, ...]
    path: Callable[[Matrix, Labels, Weights, Matrix, Sequence[Value], int], Iterator[Matrix]]
    fit: Callable[[Matrix, Labels, Weights, Value, int], ClassifierMixin]


def scores(classifier: ClassifierMixin, X: Matrix) -> Matrix:
    """Return what the softmax would turn into the classifier's probabilities, of shape (n, k)."""
    if isinstance(classifier, MLPClassifier):
        found: Matrix = np.log(np.clip(classifier.predict_proba(X), 1e-30, None))
        return found
    found = classifier.decision_function(X)
    return np.column_stack([np.zeros_like(found), found]) if found.ndim == 1 else found


def _logistic(C: float, *, warm_start: bool) -> LogisticRegression:
    # The tolerance is on the gradient, which is small where rows are.
    return LogisticRegression(C=C, max_iter=1000, tol=1e-5, warm_start=warm_start)


def _logistic_path(
    Z: Matrix, labels: Labels, weights: Weights, unseen: Matrix, values: Sequence[Value], seed: int
) -> Iterator[Matrix]:
    classifier = _logistic(*values[0], warm_start=True)
    for (value,) in values:
        # Each begins where the one before it ended.
        yield scores(classifier.set_params(C=value).fit(Z, labels, weights), unseen)


def _logistic_fit(
    Z: Matrix, labels: Labels, weights: Weights, value: Value, seed: int
) -> ClassifierMixin:
    return _logistic(*value, warm_start=False).fit(Z, labels, weights)


def _svm_path(
    Z: Matrix, labels: Labels, weights: Weights, unseen: Matrix, values: Sequence[Value], seed: int
) -> Iterator[Matrix]:
    codes = np.unique(labels, return_inverse=True)[1]
    alphas = [alpha for (alpha,) in values]
    found_for_each = _least_squares(Z, codes, weights, alphas, precision=np.float32)
    for coefficients, intercept in found_for_each:
        found = unseen @ coefficients.T + intercept
        yield np.column_stack([np.zeros_like(found), found]) if found.shape[1] == 1 else found


def _svm_fit(
    Z: Matrix, labels: Labels, weights: Weights, value: Value, seed: int
) -> ClassifierMixin:
    return LeastSquaresSVC(*value).fit(Z, labels, weights)


def _mlp_trained(
    Z: Matrix, labels: Labels, weights: Weights, values: Sequence[Value], seed: int
) -> Iterator[MLPClassifier]:
    """Yield a network for each alpha and number of epochs; it is trained once for each alpha."""
    done, trained = 0, None
    for alpha, epochs in values:
        if trained is None or trained.alpha != alpha:
            # A generator goes on from epoch to epoch where a number would begin anew.
            random = np.random.RandomState(seed)
            # A small set in large batches would be learned in too few steps.
            batch = min(len(Z), int(np.clip(len(Z) // 10, 32, 200)))
            trained = MLPClassifier((128,), alpha=alpha, batch_size=batch, random_state=random)
            done = 0
        for _ in range(int(epochs) - done):
            trained.partial_fit(Z, labels, sample_weight=weights, classes=np.unique(labels))
        done = int(epochs)
        yield trained


def _mlp_path(
    Z: Matrix, labels: Labels, weights: Weights, unseen: Matrix, values: Sequence[Value], seed: int
) -> Iterator[Matrix]:
    for classifier in _mlp_trained(Z * MLP_NORM, labels, weights, values, seed):
        yield scores(classifier, unseen * MLP_NORM)


def _mlp_fit(
    Z: Matrix, labels: Labels, weights: Weights, value: Value, seed: int
) -> ClassifierMixin:
    # In place: there may be no room for a second matrix.
    Z *= MLP_NORM
    classifier = next(_mlp_trained(Z, labels, weights, [value], seed))
    classifier.coefs_[0] *= MLP_NORM
    return classifier.set_params(random_state=seed)


def _one(*values: float) -> tuple[Value, ...]:
    return tuple((value,) for value in values)


HEADS = {
    "logistic": Head(
        ("C",),
        _one(1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4),
        _logistic_path,
        _logistic_fit,
    ),
    "svm": Head(("alpha",), _one(3.0, 1.0, 0.3, 0.1, 0.03), _svm_path, _svm_fit),
    "mlp": Head(
        ("alpha", "epochs"),
        tuple((1.0, epochs) for epochs in (5, 10, 15, 20, 30, 40, 60, 80)),
        _mlp_path,
        _mlp_fit,
    ),
}

TAP_SETS = (
    ("block5_avg",),
    ("block5_avg3x3",),
    ("block5_avg3x3", "block4_avg", "block4_max"),
    ("block5_avg3x3", "block4_avg", "block4_max", "block3_avg", "block3_max"),
)
"""Sets of taps that are tried: block 5, its nine parts, these with block 4, with block 3. The nine
parts hold what the average does, and block 5's maximum added nothing: with both of them beside
block 4, each head had a larger log loss on held-out photos of chess. See `tap_sets`, too."""

View = tuple[tuple[str, ...], bool]
"""How rows are prepared: from which taps, and whether their square roots are taken."""

MLP_PHOTOS = 40_000
MLP_NORM = np.float32(20)
"""Of the rows that the MLP is given: on the val split of Caltech-101 its log loss was 0.19 with 10
or 20, and 0.28 with the 85 that gives every column a variance of 1."""

LARGE = 3 * 10**9


class Space(NamedTuple):
    """What is tried for a head.

    Attributes
    ----------
    views : list of View
        The smallest set of taps first.
    values : tuple of tuple of float
        Of the head's parameters.
    """

    views: list[View]
    values: tuple[Value, ...]


def tap_sets(
    taps: Collection[str], plain_sets: Sequence[tuple[str, ...]] = TAP_SETS
) -> list[tuple[str, ...]]:
    """Return the sets of taps that are tried where these taps are there, the smallest first.

    Each set that has block 4 is also tried at all sizes together, if there is more than one.
    """
    at_all_sizes = [
        tuple(tap for tap in taps if plain(tap) in own) for own in plain_sets if "block4_avg" in own
    ]
    return list(dict.fromkeys([*plain_sets, *at_all_sizes]))


def tried(taps: Mapping[str, int]) -> dict[str, int]:
    """Return those of the taps that are tried where these taps are there, in their order."""
    return among(taps, tap_sets(taps))


def among(taps: Mapping[str, int], sets: Iterable[tuple[str, ...]]) -> dict[str, int]:
    """Return those of the taps that are in any of the sets, in their order."""
    wanted = {tap for own in sets for tap in own}
    return {tap: width for tap, width in taps.items() if tap in wanted}


def space(name: str, *, rows: int, classes: int, taps: Mapping[str, int]) -> Space:
    """Decide what is searched for a head, from the size of the data and the taps alone.

    Small data are searched whole: every set of taps, with and without square roots, every value.
    Sets whose matrix would not fit into memory are left out (see `classify.out_of_core`), but for
    the smallest. Where searched rows x classes x columns, the operations of one step of the
    logistic head, exceed 3 x 10^9, only the nine parts of block 5, alone and with block 4, are tried, of
    the latter also those of all sizes. The MLP sees each photo so often that at most 40,000 photos
    pass, or 20 times where that is more.

    Parameters
    ----------
    name : str
        Key of `HEADS`.
    rows : int
        Photos of train and val.
    classes : int
    taps : mapping of str to int
        Name and width of each tap that is there, see `extract.store.features_file.Features`.
    """
    widths = {own: sum(taps[tap] for tap in own) for own in tap_sets(taps)}
    smallest, *larger = widths
    sets = [smallest, *(own for own in larger if rows * widths[own] <= out_of_core.IN_MEMORY)]
    searched = min(rows, out_of_core.SEARCH_ROWS)
    if searched * classes * min(searched, widths[sets[-1]]) > LARGE:
        few = tap_sets(taps, TAP_SETS[1:3])
        sets = [own for own in sets if own in few] or sets
    values = HEADS[name].values
    if name == "mlp":
        values = tuple(value for value in values if value[1] <= max(20, MLP_PHOTOS / rows))
    return Space([(own, root) for own in sets for root in (True, False)], values)


def unchosen(name: str) -> dict[str, Any]:
    """Return the hyper-parameters of a head where there is nothing to choose by: the middle."""
    head = HEADS[name]
    value = dict(zip(head.parameters, head.values[len(head.values) // 2], strict=True))
    return {"taps": list(TAP_SETS[-1]), "root": True, **value}


def preparation(taps: Mapping[str, int], *, root: bool) -> Pipeline:
    """Make the steps before a classifier: square root or not, L2 norm of each tap, centring.

    Centring without scaling leaves distances as the taps have them, and the norm makes them the
    same whatever the photo's contrast.

    Parameters
    ----------
    taps : mapping of str to int
        Name and width of those that the columns of the rows are, side by side.
    root : bool
    """
    places = columns(taps)
    steps = [FunctionTransformer(np.sqrt), Normalizer()] if root else [Normalizer()]
    per_tap = [(tap, make_pipeline(*steps), places[tap]) for tap in taps]
    centre = StandardScaler(with_std=False)
    return Pipeline([("taps", ColumnTransformer(per_tap)), ("centre", centre)])


def select(X: Matrix, taps: Iterable[str], *, among: Mapping[str, int]) -> Matrix:
    """Return the columns of `taps` side by side, of a matrix whose columns are those of `among`."""
    places = columns(among)
    return out_of_core.columns(X, [places[tap] for tap in taps])


def columns(taps: Mapping[str, int]) -> dict[str, slice]:
    """Return where each tap lies in a matrix of `taps`, of these widths, side by side."""
    ends = np.cumsum(list(taps.values())).tolist()
    return {tap: slice(end - taps[tap], end) for tap, end in zip(taps, ends, strict=True)}


def places(head: Pipeline) -> dict[str, slice]:
    """Return where a fitted head looks for its taps; it looks at no other column."""
    return {tap: columns for tap, _, columns in head[0].transformers_ if tap != "remainder"}


def on_columns(classifier: ClassifierMixin, basis: Matrix | None, *, scale: float) -> None:
    """Make a classifier that was fitted on ``scale * X @ basis`` one of X.

    Parameters
    ----------
    classifier : fitted classifier of a head
    basis : ndarray of shape (d, r), float32, or None for the identity
    scale : float
    """
    is_mlp = isinstance(classifier, MLPClassifier)
    weights = classifier.coefs_[0].T if is_mlp else classifier.coef_
    weights = weights * np.float32(scale)
    if basis is not None:
        weights = weights @ basis.T
    classifier.n_features_in_ = weights.shape[1]
    if is_mlp:
        classifier.coefs_[0] = np.ascontiguousarray(weights.T)
    else:
        classifier.coef_ = weights


def cool(classifier: ClassifierMixin, temperature: float) -> None:
    """Divide the scores of a classifier by a temperature, in its last weights."""
    if isinstance(classifier, MLPClassifier):
        last = [classifier.coefs_[-1], classifier.intercepts_[-1]]
    else:
        last = [classifier.coef_, classifier.intercept_]
    for weights in last:
        weights /= temperature


def parameters(head: Pipeline) -> int:
    """Count the numbers a fitted head learned in its classifier."""
    classifier = head[-1]
    if isinstance(classifier, MLPClassifier):
        arrays = [*classifier.coefs_, *classifier.intercepts_]
    else:
        arrays = [classifier.coef_, classifier.intercept_]
    return int(sum(array.size for array in arrays))
