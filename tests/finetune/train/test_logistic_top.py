"""The new top: its last layer minimises the loss, and val chooses its hyperparameters."""

import numpy as np
import pytest

from extract.vgg16.keras_backend import keras
from extract.vgg16.recipe import TAPS
from finetune.train import logistic_top, networks
from finetune.train.logistic_top import Split, solve


def points(n: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return clouds around the corners of a simplex, and which corner."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    noise = random.normal(size=(n, 6)).astype(np.float32)
    return (noise + 2 * np.eye(6, dtype=np.float32)[labels]).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_losses_are_those_of_the_solution_on_val(classes: int) -> None:
    x, y = points(200, classes, 0)
    val_x, val_y = points(100, classes, 1)
    found = solve(Split(x, y), Split(val_x, val_y), classes=classes, C=0.1)
    logits = val_x @ found.kernel + found.bias
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found.losses, -logits[np.arange(100), val_y], atol=1e-5)
    assert (logits.argmax(axis=1) == val_y).mean() > 0.7


def test_a_class_without_a_photo_in_train_is_never_predicted() -> None:
    x, y = points(60, 2, 0)
    split = Split(x, y * 2)
    found = solve(split, split, classes=3, C=0.1)
    assert set((x @ found.kernel + found.bias).argmax(axis=1)) == {0, 2}


def test_the_top_gives_the_same_as_the_solution() -> None:
    width = TAPS[networks.TOP_TAP]
    random = np.random.default_rng(0)
    taps = random.gamma(1.0, 1.0, (40, width)).astype(np.float32)
    taps[1::2, :500] *= 2

    class Cached:
        class_names = ("a", "b")
        labels = np.arange(40) % 2

        def rows(self, split: str) -> np.ndarray:
            return np.arange(40)[:30] if split == "train" else np.arange(40)[30:]

        def read(self, names: object, split: str) -> np.ndarray:
            return taps[self.rows(split)]

    top, history, chosen = logistic_top.fit(Cached())
    tried = {(one["logarithm"], one["C"]): one["val_loss"] for one in chosen["tried"]}
    assert len(tried) == 2 * len(logistic_top.C_VALUES)
    reached = tried[chosen["logarithm"], chosen["C"]]
    assert history["val_loss"][0] == pytest.approx(reached, rel=1e-3)
    assert reached < np.log(2) / 2
    assert history["accuracy"] == [1.0]
    assert {len(values) for values in history.values()} == {1}
    assert keras.ops.convert_to_numpy(top(taps[:3])).argmax(axis=1).tolist() == [0, 1, 0]
