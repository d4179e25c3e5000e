"""Made-up results of models, for tests of the comparison and the report."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify import results
from finetune.compare.comparison import Comparison, compare
from finetune.compare.repeated_splits import RepeatedSplits
from finetune.compare.suspects import LabelCheck, Suspect
from tests.conftest import picture

HISTORY = {
    "loss": [1.0, 0.5, 0.25],
    "val_loss": [1.5, 1.25, float("nan")],
    "accuracy": [0.5, 0.75, 1.0],
    "val_accuracy": [0.5, 0.625, 0.75],
    "phase": ["top", "top", "<b>block5"],
    "seconds": [1.0, 2.0, 3.0],
}
MODELS = {
    "logistic": ("head", 0.8),
    "svm": ("head", 0.9),
    "mlp": ("head", 0.8),
    "baseline": ("network", 0.4),
    "finetuned": ("network", 0.85),
}


@dataclass
class FakeFeatures:
    """The parts of a features file that a comparison reads."""

    class_names: list[str]
    labels: NDArray[np.int64]
    splits: NDArray[np.str_]
    paths: list[str]
    digests: list[str]
    data: str = "chess"
    data_digest: str = "d" * 64
    recipe_digest: str = "e" * 64
    seconds: float = 61.0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    near: list[tuple[int, int, float]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    same: list[tuple[str, str, float]] = field(default_factory=list)
    taps: dict[str, int] = field(default_factory=dict)
    has_pairs: bool = True
    asked: dict[str, Any] = field(default_factory=dict)
    near_found: int = 1
    near_photos: int = 2
    attributes: dict[str, Any] = field(default_factory=dict)

    def read_rows(self, taps: Sequence[str], rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return taps in which the classes differ most."""
        width = sum(self.taps[tap] for tap in taps)
        noise = np.random.default_rng(0).random((len(self.paths), width), np.float32)
        return (noise + 9 * np.eye(width, dtype=np.float32)[self.labels % width])[rows]


def fake_features(class_names: Sequence[str], *, test: int = 20, **changes: Any) -> Any:
    """Return features of `test` test photos, each between a train and a val photo of its class."""
    k = len(class_names)
    labels = np.repeat(np.arange(test) % k, 3)
    splits = np.array(["train", "test", "val"] * test)
    paths = [f"{i:05d} ü.jpg" for i in range(3 * test)]
    digests = [hashlib.sha256(path.encode()).hexdigest() for path in paths]
    return FakeFeatures(list(class_names), labels, splits, paths, digests, **changes)


def save(
    runs: Path,
    features: Any,
    model: str,
    wrong: Sequence[int],
    *,
    sure: float = 0.9,
    wrong_on_train: Sequence[int] | None = None,
    **changes: Any,
) -> Path:
    """Save a result that predicts the next class for each test photo in `wrong`.

    Fitted to train alone, it does so for each in `wrong_on_train`, if that is given.
    """
    test = np.flatnonzero(features.splits == "test")
    labels = features.labels[test]
    k = len(features.class_names)

    def predicted(wrong: Sequence[int]) -> NDArray[np.float32]:
        classes = labels.copy()
        classes[list(wrong)] = (classes[list(wrong)] + 1) % k
        probabilities = np.full((len(test), k), (1 - sure) / max(k - 1, 1), np.float32)
        probabilities[np.arange(len(test)), classes] = sure
        return probabilities

    predictions = results.Predictions(
        [features.paths[i] for i in test],
        labels,
        predicted(wrong),
        None if wrong_on_train is None else predicted(wrong_on_train),
    )
    record = results.Result(
        model=model,
        stage="head",
        data=features.data,
        data_digest=features.data_digest,
        recipe_digest=features.recipe_digest,
        class_names=features.class_names,
        hyperparameters={"C": 1.0},
        tried=[],
        seconds={"features": 60.0, "tune": 2.0, "fit": 1.0, "predict": 0.5},
        epochs=None,
        parameters=1234,
        seed=0,
        metrics=results.metrics(predictions),
        versions={"python": "3.11", "numpy": "2.1"},
        created="2025-01-01T00:00:00+00:00",
        learned_from=["train"] if changes.get("stage") == "network" else ["train", "val"],
    )
    record = replace(record, **changes)
    results.save(runs / model, record, predictions, write_model=lambda folder: None)
    return runs / model


def edit(folder: Path, **changes: Any) -> None:
    """Change a saved record by hand."""
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes))


def comparison(runs: Path, features: Any, **models: Any) -> Comparison:
    """Compare models, given by name with the test photos that they get wrong."""
    return compare(
        features, [save(runs, features, model, wrong) for model, wrong in models.items()]
    )


def five(
    folder: Path, class_names: list[str], *, test: int, taps: Mapping[str, int] | None = None
) -> Comparison:
    """Compare five models that are right at random, on photos of which every second one exists.

    With `taps`, the photos can be placed on a map.
    """
    features = fake_features(
        class_names,
        test=test,
        taps=dict(taps or {}),
        skipped=[("b.fcgi", "not an image"), ("a.jpg", "truncated")],
        near=[(1, 3, 0.98765)],
        attributes={
            "weights": "VGG16 <ImageNet>",
            "seed": np.int64(3),
            "root": str(folder / "photos"),
            "versions": '{"python": "3.11"}',
            "recipe": '{"network": "VGG16", "taps": {"block5_avg": 512}}',
        },
    )
    (folder / "photos").mkdir(parents=True)
    for row, path in enumerate(features.paths):
        if row % 2:
            picture(row).save(folder / "photos" / path)
            photo = (folder / "photos" / path).read_bytes()
            features.digests[row] = hashlib.sha256(photo).hexdigest()
    random = np.random.default_rng(0)
    k = len(class_names)
    folders = []
    for model, (stage, right) in MODELS.items():
        wrong = np.flatnonzero(random.random(test) > right)
        took = {"features": 60.0 if stage == "head" else 0.0, "fit": 900.0, "predict": 0.5}
        made = save(
            folder / "runs", features, model, [], stage=stage, seconds=took, machine="a <machine>"
        )
        predictions = results.load_predictions(made)
        noise = random.dirichlet(np.ones(k), test)
        predicted = predictions.labels.copy()
        # The last class is never predicted.
        predicted[wrong] = random.integers(k - 1, size=len(wrong))
        predicted[predicted == k - 1] = 0
        probabilities = (0.45 * noise + 0.55 * np.eye(k)[predicted]).astype(np.float32)
        predictions = replace(predictions, probabilities=probabilities)
        result = replace(results.load(made), metrics=results.metrics(predictions))
        results.save(made, result, predictions, write_model=lambda f: None)
        (made / results.MODELS[stage == "network"]).write_bytes(bytes(1_234_567))
        if stage == "network":
            (made / "history.json").write_text(json.dumps(HISTORY))
        folders.append(made)
    folders.append(save(folder / "runs", features, "old", [], data_digest="0" * 64))
    summary = {"mean": 0.5, "sd": 0.25, "half_width": 0.125}
    by_head = {
        "svm": dict.fromkeys(
            ("accuracy", "mean_class_recall", "log_loss", "calibration_error"), summary
        )
    }
    return replace(
        compare(features, folders),
        repeated_splits=RepeatedSplits(
            {1: by_head, 1000: by_head}, {"30 photos <a class>": by_head}
        ),
        label_check=LabelCheck(
            "svm", 40, [Suspect(3, 1, 0, 0.01, 0.99), Suspect(0, 0, 1, 0.2, 0.7)]
        ),
    )
