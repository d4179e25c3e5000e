"""Train a network of one hidden layer for the search, as scikit-learn's `MLPClassifier` does.

The search trains hundreds of networks, none of which is kept. `MLPClassifier` computes half of a
step in double precision, in a new array for each operation, and checks all rows before each epoch.
Here everything is in single precision, in place, and all parameters lie in one vector, so that a
step of the optimiser is a handful of operations. The networks are those of `MLPClassifier` up to
rounding: ReLU, softmax (a logistic function for two classes), cross-entropy, an L2 penalty on the
weights of ``alpha / 2`` divided by the weight of a batch, Adam (Kingma and Ba, "Adam: a method for
stochastic optimization", ICLR 2015), and the same random numbers for the initial weights (Glorot
and Bengio, 2010) and for the order of the rows.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.linalg.blas import saxpy, sgemm
from scipy.special import expit

from classify.arrays import Labels, Matrix, SampleWeight

HIDDEN = 128
"""Units of the hidden layer."""

LEARNING_RATE, DECAY_1, DECAY_2, EPSILON = 0.001, 0.9, 0.999, 1e-8
"""Adam's constants, in scikit-learn and in the paper."""


def batch_size(rows: int) -> int:
    """Return how many rows a batch has; in large ones, few rows would be learned in few steps."""
    return min(rows, int(np.clip(rows // 10, 32, 200)))


class Network:
    """A network in training.

    Parameters
    ----------
    width : int
        Number of columns.
    outputs : int
        Number of classes, but 1 for two classes.
    alpha : float
        Strength of the L2 penalty.
    random : RandomState
    """

    def __init__(
        self, width: int, outputs: int, alpha: float, random: np.random.RandomState
    ) -> None:
        self.alpha, self.steps = alpha, 0
        shapes = [(width, HIDDEN), (HIDDEN, outputs), (HIDDEN,), (outputs,)]
        self.penalised = (width + outputs) * HIDDEN
        self.parameters, self.gradient, self.first, self.second = np.zeros(
            (4, self.penalised + HIDDEN + outputs), np.float32
        )
        self.layers = _views(self.parameters, shapes)
        self.slopes = _views(self.gradient, shapes)
        for kernel, bias in ((0, 2), (1, 3)):
            bound = np.sqrt(6 / sum(shapes[kernel]))
            for part in (kernel, bias):
                self.layers[part][...] = random.uniform(-bound, bound, shapes[part])

    def scores(self, X: Matrix) -> Matrix:
        """Return the outputs before the softmax or the logistic function, shape (n, outputs)."""
        return self._hidden(X) @ self.layers[1] + self.layers[3]

    def step(self, X: Matrix, targets: Matrix, weight: Matrix) -> None:
        """Learn from a batch.

        Parameters
        ----------
        X : ndarray of shape (n, width), float32
        targets : ndarray of shape (n, outputs), float32
        weight : ndarray of shape (n, 1), float32
        """
        _, last, _, last_bias = self.layers
        slope, last_slope, bias_slope, last_bias_slope = self.slopes
        total = weight.sum()
        hidden = self._hidden(X)
        error = _probabilities(hidden @ last + last_bias)
        error -= targets
        error *= weight / total
        back = error @ last.T
        back *= hidden > 0
        np.multiply(
            self.parameters[: self.penalised],
            np.float32(self.alpha) / total,
            out=self.gradient[: self.penalised],
        )
        last_slope += hidden.T @ error
        # BLAS adds the product in place; numpy would need another array as large.
        sgemm(1.0, back.T, X.T, beta=1.0, c=slope.T, trans_b=True, overwrite_c=True)
        back.sum(axis=0, out=bias_slope)
        error.sum(axis=0, out=last_bias_slope)
        self._adam()

    def _hidden(self, X: Matrix) -> Matrix:
        hidden: Matrix = X @ self.layers[0]
        hidden += self.layers[2]
        return np.maximum(hidden, 0, out=hidden)

    def _adam(self) -> None:
        """Change the parameters; the two moments are kept without their constant factors."""
        self.steps += 1
        gradient = self.gradient
        self.first *= np.float32(DECAY_1)
        self.first += gradient
        self.second *= np.float32(DECAY_2)
        np.square(gradient, out=gradient)
        self.second += gradient
        scale = np.sqrt(1 - DECAY_2)
        np.sqrt(self.second, out=gradient)
        gradient += np.float32(EPSILON / scale)
        np.divide(self.first, gradient, out=gradient)
        rate = LEARNING_RATE * np.sqrt(1 - DECAY_2**self.steps) / (1 - DECAY_1**self.steps)
        saxpy(gradient, self.parameters, a=-rate * (1 - DECAY_1) / scale)


def _views(vector: Matrix, shapes: Sequence[tuple[int, ...]]) -> list[Matrix]:
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    parts = np.split(vector, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _probabilities(scores: Matrix) -> Matrix:
    if scores.shape[1] == 1:
        expit(scores, out=scores)
        return scores
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


def path(
    X: Matrix,
    labels: Labels,
    sample_weight: SampleWeight,
    grid: Sequence[tuple[float, ...]],
    seed: int,
) -> Iterator[Network]:
    """Yield a network for each alpha and number of epochs; each alpha is trained only once.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
    labels : ndarray of shape (n,), int64
    sample_weight : ndarray of shape (n,), float64
    grid : sequence of (alpha, epochs)
        Those of an alpha are neighbours, the fewest epochs first.
    seed : int
    """
    present = np.unique(labels)
    columns = present[1:] if len(present) == 2 else present
    targets = (labels[:, None] == columns).astype(np.float32)
    weight = sample_weight.astype(np.float32)[:, None]
    size, epochs_done, network = batch_size(len(X)), 0, None
    for alpha, epochs in grid:
        if network is None or network.alpha != alpha:
            random = np.random.RandomState(seed)
            network, epochs_done = Network(X.shape[1], len(columns), alpha, random), 0
        for _ in range(int(epochs) - epochs_done):
            order = random.permutation(len(X))
            for start in range(0, len(X), size):
                batch = order[start : start + size]
                network.step(X[batch], targets[batch], weight[batch])
        epochs_done = int(epochs)
        yield network
