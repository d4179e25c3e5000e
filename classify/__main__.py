"""Features to heads: ``python -m classify chess``.

Chooses, fits and tests each head on the cached features of a data set and leaves a result in
``runs/<data>/<head>/``.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import skops.io
from sklearn.pipeline import Pipeline

from classify import heads, results, tune
from classify.heads import HEADS
from classify.results import Predictions, Result
from extract import atomic, console, store
from extract.console import InputError, say
from extract.provenance import now, versions
from extract.recipe import TAPS
from extract.store import Features


def main() -> None:
    """Read the command line and train the heads."""
    parser = argparse.ArgumentParser(prog="python -m classify", description=__doc__)
    parser.add_argument("data", help="a data set that has features, or a features file (.h5)")
    console.add_out(parser, "runs/")
    console.add_seed(parser, "the folds and the MLP")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    options = parser.parse_args()
    with store.open(store.file_of(options.data, options.out)) as features:
        train_heads(features, options.heads, out=options.out, seed=options.seed)


def train_heads(features: Features, names: Sequence[str], *, out: Path, seed: int) -> None:
    """Choose, fit and test heads, each leaving a result, and say how well they do.

    Raises
    ------
    InputError
        If the splits are too small to learn from or to test on.
    """
    _check(features)
    rows = features.rows("train", "val")
    X, labels = features.read(TAPS, "train", "val"), features.labels[rows]
    the_folds = tune.folds(
        labels,
        [features.digests[row] for row in rows],
        features.splits[rows] == "val",
        seed=seed,
    )
    for name in names:
        with console.progress(name, tune.fits(name, the_folds), unit="fits") as advance:
            tuned = tune.tune(name, X, labels, the_folds, seed=seed, advance=advance)
        started = time.perf_counter()
        predictions = _test(tuned.head, features)
        seconds = {
            "features": features.seconds,
            **tuned.seconds,
            "predict": time.perf_counter() - started,
        }
        result = Result(
            model=name,
            stage="head",
            data=features.data,
            data_digest=features.data_digest,
            recipe_digest=features.recipe_digest,
            class_names=features.class_names,
            hyperparameters=tuned.chosen,
            tried=tuned.tried,
            seconds=seconds,
            epochs=None,
            parameters=heads.parameters(tuned.head),
            seed=seed,
            metrics=results.metrics(predictions),
            versions=versions(),
            created=now(),
        )
        folder = results.runs_of(features.data, out) / name
        results.save(folder, result, predictions, write_model=partial(_write, tuned.head))
        spent = tuned.seconds["tune"] + tuned.seconds["fit"]
        figures = f"accuracy {result.metrics['accuracy']:.4f}"
        say(
            f"{name}: {figures} on {len(predictions.labels):,} test photos, {spent:.1f} s: {folder}"
        )


def _check(features: Features) -> None:
    labels = features.labels[features.rows("train", "val")]
    learning = np.bincount(labels, minlength=len(features.class_names))
    for name, photos in zip(features.class_names, learning, strict=True):
        if photos < 2:
            raise InputError(
                f"class '{name}' has {console.count(int(photos), 'photo')} in train and val; "
                "a head needs two: add photos and run make features"
            )
    if not len(features.rows("test")):
        raise InputError(f"{features.data} has no test photo; add some and run make features")


def _test(head: Pipeline, features: Features) -> Predictions:
    rows = features.rows("test")
    return Predictions(
        paths=[features.paths[row] for row in rows],
        labels=features.labels[rows],
        probabilities=head.predict_proba(features.read(TAPS, "test")).astype(np.float32),
    )


def _write(head: Pipeline, folder: Path) -> None:
    atomic.write_bytes(folder / "head.skops", skops.io.dumps(head))


if __name__ == "__main__":
    console.run(main)
