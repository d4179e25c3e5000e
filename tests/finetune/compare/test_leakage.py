"""What a split of single photos would have claimed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from extract.photos import splits
from extract.store import features_file
from finetune.compare import leakage
from tests.synthetic import publish

SVM: Any = SimpleNamespace(
    name="svm",
    result=SimpleNamespace(
        stage="head",
        seed=0,
        hyperparameters={"taps": ["block5_avg"], "root": True, "C": 1.0, "alpha": 1.0},
    ),
)


def test_known_test_photos_are_counted_and_measured_apart(tmp_path: Path) -> None:
    with features_file.open(publish(tmp_path, signal=0.3)) as features:
        assert leakage.measure(features, [SVM]) is None
        features.attributes["split_rule"] = splits.BY_DIGEST + splits.TOGETHER
        features.groups = [f"group {row // 2}" for row in range(len(features.paths))]
        features.units = features.groups
        found = leakage.measure(features, [SVM])
        assert found is not None
        names = [features.class_names[label] for label in features.labels]
        none = [""] * len(names)
        alone = splits.assign(features.class_names, names, features.digests, none, seed=0)
        tested = np.flatnonzero(alone == "test")
        known = sum(alone[row ^ 1] != "test" for row in tested)
        assert (found.photos, found.known) == (len(tested), known)
        assert 0 < known < len(tested)
        assert 0 <= found.others <= 1
        features.attributes["split_rule"] = splits.GIVEN
        assert leakage.measure(features, [SVM]) is None


def test_without_a_head_nothing_is_measured(tmp_path: Path) -> None:
    with features_file.open(publish(tmp_path)) as features:
        features.attributes["split_rule"] = splits.BY_DIGEST
        features.groups[0] = "group"
        assert leakage.measure(features, []) is None
