"""The new top is the minimum of its loss, chosen on val."""

import numpy as np
import pytest

from extract.recipe import TAPS
from finetune import logistic, networks
from finetune.logistic import solve


def points(n: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return clouds around the corners of a simplex, and which corner."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    noise = random.normal(size=(n, 6)).astype(np.float32)
    return (noise + 2 * np.eye(6, dtype=np.float32)[labels]).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_solution_is_that_of_the_strength_that_is_best_on_val(classes: int) -> None:
    x, y = points(200, classes, 0)
    val_x, val_y = points(100, classes, 1)
    found = solve(x, y, val_x, val_y, classes=classes)
    logits = val_x @ found.kernel + found.bias
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    losses = found.chosen["val_loss"]
    assert losses[found.chosen["C"]] == min(losses.values())
    assert -logits[np.arange(100), val_y].mean() == pytest.approx(min(losses.values()), rel=1e-4)
    assert (logits.argmax(axis=1) == val_y).mean() > 0.7


def test_balanced_a_rare_class_weighs_as_much_as_a_common_one() -> None:
    x, y = points(400, 2, 0)
    val_x, val_y = points(100, 2, 1)
    x, val_x = x / 2, val_x / 2
    # Of class 1 an eighth is left.
    few = np.flatnonzero((y == 0) | (np.arange(400) < 50))
    few_val = np.flatnonzero((val_y == 0) | (np.arange(100) < 12))
    recalls = []
    for balanced in (False, True):
        found = solve(
            *(x[few], y[few], val_x[few_val], val_y[few_val]),
            classes=2,
            balanced=balanced,
        )
        predicted = (val_x @ found.kernel + found.bias).argmax(axis=1)
        recalls.append([(predicted == k)[val_y == k].mean() for k in (0, 1)])
    assert recalls[0][0] > recalls[0][1] + 0.2
    assert abs(recalls[1][0] - recalls[1][1]) < 0.15


def test_a_class_without_a_photo_in_train_is_never_predicted() -> None:
    x, y = points(60, 2, 0)
    found = solve(x, y * 2, x, y * 2, classes=3)
    assert set((x @ found.kernel + found.bias).argmax(axis=1)) == {0, 2}


def test_the_top_gives_the_same_as_the_solution() -> None:
    width = sum(TAPS[tap] for tap in networks.TOP_TAPS)
    taps = np.random.default_rng(0).gamma(1.0, 1.0, (40, width)).astype(np.float32)

    class Cached:
        class_names = ("a", "b")
        labels = np.arange(40) % 2

        def rows(self, split: str) -> np.ndarray:
            return np.arange(40)[:30] if split == "train" else np.arange(40)[30:]

        def read(self, names: object, split: str) -> np.ndarray:
            return taps[self.rows(split)]

    top = networks.top(taps[:30], 2)
    history, chosen = logistic.fit(top, Cached())
    assert history["val_loss"][0] == pytest.approx(chosen["val_loss"][chosen["C"]], rel=1e-3)
    assert history["accuracy"] == [1.0]
    assert {len(values) for values in history.values()} == {1}
