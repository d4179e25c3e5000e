import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss, recall_score

from classify import results
from classify.results import Predictions, wilson_interval
from finetune.compare.significance import bootstrap_intervals, holm, mcnemar


def predictions(n: int, *, k: int = 3, right: float = 0.8, seed: int = 0) -> Predictions:
    """Return predictions for n photos by a model that is right with this probability."""
    random = np.random.default_rng(seed)
    labels = np.sort(random.integers(k, size=n))
    predicted = np.where(random.random(n) < right, labels, (labels + 1) % k)
    probabilities = random.uniform(0, 0.3, (n, k))
    probabilities[np.arange(n), predicted] += 1
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Predictions([str(i) for i in range(n)], labels, probabilities.astype(np.float32))


def test_wilson_interval_by_hand() -> None:
    z = 1.959963984540054
    for correct, n in ((8, 10), (0, 10), (10, 10), (1, 1)):
        p = correct / n
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        assert wilson_interval(correct, n) == pytest.approx(
            (middle - half, middle + half), abs=1e-12
        )
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(3, 3) == 1
    assert mcnemar(6, 0) == pytest.approx(2 / 2**6)
    assert mcnemar(1, 7) == mcnemar(7, 1) == pytest.approx(2 * (1 + 8) / 2**8)


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_bootstrap_agrees_with_scikit_learns_metrics() -> None:
    given = predictions(120)
    found = bootstrap_intervals(given)
    random = np.random.default_rng(1)
    classes = [np.flatnonzero(given.labels == label) for label in range(3)]
    drawn = [np.concatenate([random.choice(own, len(own)) for own in classes]) for _ in range(1000)]
    predicted = given.probabilities.argmax(axis=1)
    measures = {
        "mean_class_recall": lambda i: recall_score(given.labels[i], predicted[i], average="macro"),
        "macro_f1": lambda i: f1_score(given.labels[i], predicted[i], average="macro"),
        "log_loss": lambda i: log_loss(given.labels[i], given.probabilities[i]),
    }
    assert found.keys() == measures.keys()
    for name, measure in measures.items():
        low, high = np.quantile([measure(i) for i in drawn], [0.025, 0.975])
        tenth = (high - low) / 10
        assert found[name] == (pytest.approx(low, abs=tenth), pytest.approx(high, abs=tenth))


def test_bootstrap_covers_the_truth_about_as_often_as_it_claims() -> None:
    covered = 0
    for seed in range(50):
        low, high = bootstrap_intervals(predictions(150, seed=seed))["mean_class_recall"]
        covered += low <= 0.8 <= high
    assert 43 <= covered <= 50


def test_bootstrap_depends_on_the_order_of_photos_only_by_chance() -> None:
    given = predictions(90)
    order = np.random.default_rng(0).permutation(90)
    mixed = Predictions(given.paths, given.labels[order], given.probabilities[order])
    one, other = bootstrap_intervals(given), bootstrap_intervals(mixed)
    assert bootstrap_intervals(given) == one
    for name, (low, high) in one.items():
        assert other[name] == (pytest.approx(low, rel=0.1), pytest.approx(high, rel=0.1))


def test_bootstrap_of_classes_that_never_occur_or_are_never_predicted() -> None:
    given = predictions(40, k=3)
    wide = np.zeros((40, 5), np.float32)
    wide[:, [0, 2, 4]] = given.probabilities
    spread = Predictions(given.paths, given.labels * 2, wide)
    found, metrics = bootstrap_intervals(spread), results.metrics(spread)
    assert found["mean_class_recall"] == bootstrap_intervals(given)["mean_class_recall"]
    low, high = found["macro_f1"]
    assert low < metrics["macro_f1"] < high < 3 / 5
