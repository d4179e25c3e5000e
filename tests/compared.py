"""Comparisons of made results: photos of which some are there, models that say at random."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from classify import results
from finetune.compare.comparison import Comparison, Repeats, compare
from finetune.compare.suspects import Suspect, Suspects
from tests.conftest import picture
from tests.test_compare import features, save

HOSTILE = [
    "<script>alert(1)</script>",
    'a "quoted" | piped',
    "line\nbreak",
    "Köpfe $x$",
    "</svg>&amp;{{ 1 }}",
]
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


def comparison(runs: Path, of: Any, **models: Any) -> Comparison:
    return compare(of, [save(runs, of, model, wrong) for model, wrong in models.items()])


def five(folder: Path, class_names: list[str], *, test: int) -> Comparison:
    """Compare five models that say at random, most often rightly, of photos some of which exist."""
    of = features(
        class_names,
        test=test,
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
    for row, path in enumerate(of.paths):
        if row % 2:
            picture(row).save(folder / "photos" / path)
            photo = (folder / "photos" / path).read_bytes()
            of.digests[row] = hashlib.sha256(photo).hexdigest()
    random = np.random.default_rng(0)
    k = len(class_names)
    folders = []
    for model, (stage, right) in MODELS.items():
        wrong = np.flatnonzero(random.random(test) > right)
        took = {"features": 60.0 if stage == "head" else 0.0, "fit": 900.0, "predict": 0.5}
        made = save(
            folder / "runs", of, model, [], stage=stage, seconds=took, machine="a <machine>"
        )
        said = results.load_predictions(made)
        noise = random.dirichlet(np.ones(k), test)
        named = said.labels.copy()
        # The last class is never predicted.
        named[wrong] = random.integers(k - 1, size=len(wrong))
        named[named == k - 1] = 0
        probabilities = (0.45 * noise + 0.55 * np.eye(k)[named]).astype(np.float32)
        said = replace(said, probabilities=probabilities)
        result = replace(results.load(made), metrics=results.metrics(said))
        results.save(made, result, said, write_model=lambda f: None)
        (made / results.MODELS[stage == "network"]).write_bytes(bytes(1_234_567))
        if stage == "network":
            (made / "history.json").write_text(json.dumps(HISTORY))
        folders.append(made)
    folders.append(save(folder / "runs", of, "old", [], data_digest="0" * 64))
    figures = {"mean": 0.5, "sd": 0.25, "half_width": 0.125}
    by_head = {
        "svm": dict.fromkeys(
            ("accuracy", "mean_class_recall", "log_loss", "calibration_error"), figures
        )
    }
    return replace(
        compare(of, folders),
        repeats=Repeats({1: by_head, 1000: by_head}, {"30 photos <a class>": by_head}),
        suspects=Suspects("svm", 40, [Suspect(3, 1, 0, 0.01, 0.99), Suspect(0, 0, 1, 0.2, 0.7)]),
    )
