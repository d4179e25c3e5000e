"""Train heads on the features of a data set: prepare, search, choose, fit and test them."""

import io
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skops.io
from joblib import delayed
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from classify import (
    calibration,
    cross_validation,
    heads,
    out_of_core,
    results,
    row_space,
    search,
    search_space,
)
from classify.arrays import Matrix, Rows, TrainingData
from classify.calibration import Calibration
from classify.cross_validation import Fold
from classify.heads import HEADS
from classify.novelty import KEEP, left_out
from classify.novelty.detector import MEMBERS, TAP, NoveltyDetector, prepared
from classify.results import Predictions, Result
from classify.search import Choice, SearchOutcome, SearchPlan
from extract.store.features_file import Features
from extract.system import console
from extract.system.console import InputError, say
from extract.system.machine import machine
from extract.system.processes import parallel
from extract.system.provenance import now, versions


class Novelty(NamedTuple):
    """A novelty detector, and how well it does if it could be measured."""

    detector: NoveltyDetector
    measured: left_out.LeftOut | None

    @property
    def record(self) -> dict[str, float]:
        """What a result keeps of it."""
        return {"keep": KEEP, **(self.measured._asdict() if self.measured else {})}


class FittedHead(NamedTuple):
    """A head that was fitted.

    Attributes
    ----------
    name : str
    pipeline : Pipeline
        It is given the chosen taps side by side.
    hyperparameters : dict
        With ``taps`` and ``root``.
    seconds : float
        How long fitting took.
    on_train : Pipeline or None
        The same head, fitted to the train split alone, as networks are; None if that was not asked
        for or is not possible.
    """

    name: str
    pipeline: Pipeline
    hyperparameters: dict[str, Any]
    seconds: float
    on_train: Pipeline | None = None


def train_heads(
    features: Features, names: Sequence[str], *, out: Path, seed: int, balanced: bool
) -> None:
    """Train heads, save the result of each, and say how well they do on the test split.

    Parameters
    ----------
    features : Features
    names : sequence of str
        Keys of `classify.heads.HEADS`.
    out : Path
        The folder that has ``runs/``.
    seed : int
    balanced : bool
        Whether every class counts the same, however many photos it has.

    Raises
    ------
    InputError
        If the splits are too small to train or to test on.
    """
    check(features)
    data, plan = prepare(features, names, seed=seed, balanced=balanced)
    with console.progress("heads", plan.steps, unit="steps", at_most=True) as advance:
        outcome = search.search(data, plan, advance=advance)
        choices = search.choose(outcome)
        fitted = fit_heads(data, choices, plan, train=train_rows(features), advance=advance)
    novelty = fit_novelty(features, plan)
    for head in fitted:
        _test_and_save(head, outcome, novelty, features, out=out, seed=seed, balanced=balanced)
    say(_told(novelty))


def check(features: Features) -> None:
    """Make sure that heads can be trained and tested on the splits of a data set.

    Raises
    ------
    InputError
        If a class has fewer than two photos in train and val, or test has none.
    """
    labels = features.labels[features.rows("train", "val")]
    counts = np.bincount(labels, minlength=len(features.class_names))
    for name, photos in zip(features.class_names, counts.tolist(), strict=True):
        if photos < 2:
            raise InputError(
                f"class '{name}' has {console.count(photos, 'photo')} in train and val, and a "
                "head needs two; add photos and run make features"
            )
    if not len(features.rows("test")):
        raise InputError(f"{features.data} has no test photo; add some and run make features")


def prepare(
    features: Features, names: Sequence[str], *, seed: int, balanced: bool
) -> tuple[TrainingData, SearchPlan]:
    """Read the photos of train and val, and decide what is searched on them."""
    rows = features.rows("train", "val")
    labels = features.labels[rows]
    spaces = search_space.search_spaces(names, labels, features.taps)
    taps = search_space.taps_of(spaces, features.taps)
    X = out_of_core.read(features, taps, "train", "val")
    units = [features.units[row] for row in rows]
    is_val = features.splits[rows] == "val"
    folds = cross_validation.folds(labels, units, is_val, seed=seed)
    data = TrainingData.weighted(X, taps, labels, balanced=balanced)
    return data, SearchPlan(spaces, folds, seed)


def train_rows(features: Features) -> Rows | None:
    """Return which photos of train and val are in train; None if there is nothing to tell apart.

    That is so if one of the two splits has no photo, or train has photos of one class only.
    """
    rows = features.rows("train", "val")
    found = np.flatnonzero(features.splits[rows] == "train")
    is_part = 0 < len(found) < len(rows)
    return found if is_part and len(np.unique(features.labels[rows[found]])) > 1 else None


def fit_heads(
    data: TrainingData,
    choices: Mapping[str, Choice],
    plan: SearchPlan,
    *,
    train: Rows | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> list[FittedHead]:
    """Fit each head, as it was chosen, to all photos of train and val.

    Parameters
    ----------
    data : TrainingData
    choices : mapping of str to Choice
        By head, see `classify.search.choose`.
    plan : SearchPlan
        If the search used a sample of the photos, each head is first fitted to the fitted rows of
        the plan, which are about as many, to find its temperature on the held-out rows.
    train : ndarray of row numbers or None
        If given, each head is fitted a second time, to these rows alone. The time of that does not
        count.
    advance : callable
        Called with 1 for each head that is fitted.
    """
    # Every process holds a matrix of its own, which memory has room for only if it is small.
    is_small = data.X.size <= out_of_core.IN_MEMORY // 4
    fold = _recalibrated_on(data, plan)
    jobs = [
        delayed(_timed_fit)(name, choice, data, fold, train, plan.seed)
        for name, choice in choices.items()
    ]
    processes = cross_validation.processes(data, fits=len(jobs)) if is_small else 1
    answers = parallel(processes)(jobs)
    fitted = []
    for (name, choice), answer in zip(choices.items(), answers, strict=True):
        pipeline, seconds, on_train = answer
        fitted.append(FittedHead(name, pipeline, choice.hyperparameters, seconds, on_train))
        advance(1)
    return fitted


def _recalibrated_on(data: TrainingData, plan: SearchPlan) -> Fold | None:
    """Return rows to fit and to find the temperature on; None if the search used all rows."""
    if len(data.labels) <= out_of_core.SEARCH_ROWS or not plan.folds:
        return None
    fitted, held_out = plan.folds[0]
    enough = out_of_core.sample(data.labels[held_out], rows=out_of_core.SEARCH_ROWS, seed=plan.seed)
    return fitted, held_out[enough]


def _timed_fit(
    name: str,
    choice: Choice,
    data: TrainingData,
    fold: Fold | None,
    train: Rows | None,
    seed: int,
) -> tuple[Pipeline, float, Pipeline | None]:
    started = time.perf_counter()
    on_train = None
    if fold is not None:
        part, choice = _calibrated(name, choice, data, fold, seed=seed)
        if train is not None and np.array_equal(fold[0], train):
            on_train = part
    pipeline = fit_head(name, choice, data, seed=seed)
    seconds = time.perf_counter() - started
    if train is not None and on_train is None:
        on_train = fit_head(name, choice, _part(_with_taps(choice, data), train), seed=seed)
    return pipeline, seconds, on_train


def _with_taps(choice: Choice, data: TrainingData) -> TrainingData:
    """Return the data with the chosen taps alone."""
    taps = {tap: data.taps[tap] for tap in choice.hyperparameters["taps"]}
    return replace(data, X=heads.select(data.X, taps, among=data.taps), taps=taps)


def _part(data: TrainingData, rows: Rows) -> TrainingData:
    """Return some rows of the data; a large matrix is copied into a file."""
    X = out_of_core.rows(data.X, rows)
    return replace(data, X=X, labels=data.labels[rows], sample_weight=data.sample_weight[rows])


def _calibrated(
    name: str, choice: Choice, data: TrainingData, fold: Fold, *, seed: int
) -> tuple[Pipeline, Choice]:
    """Fit a head to one part of a fold, and calibrate it and the choice on the other part.

    The temperature depends on how many rows are fitted.
    """
    fitted, held_out = fold
    data = _with_taps(choice, data)
    part = _part(data, fitted)
    head = fit_head(name, choice._replace(calibration=Calibration()), part, seed=seed)
    blocks = [
        held_out[start : start + out_of_core.BLOCK]
        for start in range(0, len(held_out), out_of_core.BLOCK)
    ]
    scores = [heads.scores(head[-1], head[:-1].transform(data.X[block])) for block in blocks]
    known, classes = np.unique(part.labels), int(data.labels.max()) + 1
    found = calibration.fit(
        cross_validation.for_all_classes(np.concatenate(scores), known, classes),
        data.labels[held_out],
        data.sample_weight[held_out],
        with_floor=HEADS[name].has_floor,
    )
    heads.calibrate(head[-1], found)
    return head, choice._replace(calibration=found)


def fit_head(name: str, choice: Choice, data: TrainingData, *, seed: int) -> Pipeline:
    """Fit a head to all photos and calibrate it as held-out photos said."""
    hyperparameters = choice.hyperparameters
    widths = {tap: data.taps[tap] for tap in hyperparameters["taps"]}
    X = heads.select(data.X, widths, among=data.taps)
    preparation = heads.preparation(widths, **heads.preparation_options(hyperparameters))
    with threadpool_limits(1):
        Z, basis = row_space.basis(out_of_core.fit_prepared(preparation, X))
        scale = heads.unit_scale(Z)
        Z *= np.float32(scale)
        values = heads.values(name, hyperparameters)
        classifier = HEADS[name].fit(Z, data.labels, data.sample_weight, values, seed)
        heads.map_back(classifier, basis, scale=scale)
    heads.calibrate(classifier, choice.calibration)
    return Pipeline([*preparation.steps, ("classifier", classifier)])


def fit_novelty(features: Features, plan: SearchPlan) -> Novelty | None:
    """Fit a novelty detector to photos of train and val; None if none of them is held out.

    It is the same for all heads, and fitted on the rows that a search would use.
    """
    if not plan.folds:
        return None
    labels = features.labels[features.rows("train", "val")]
    sample = out_of_core.sample(labels, rows=out_of_core.SEARCH_ROWS, seed=plan.seed)
    folds = cross_validation.within(plan.folds, sample, rows=len(labels))
    rows = prepared(out_of_core.read(features, [TAP], "train", "val")[sample])
    return Novelty(*left_out.fit(rows, labels[sample], folds))


def _told(novelty: Novelty | None) -> str:
    if novelty is None:
        return "none of these: never answered, because no photo could be held out to set a limit"
    measured = novelty.measured
    if measured is None:
        return (
            "none of these: not measured, because strangers are photos of classes that are left "
            "out in turn, and of two classes none can be"
        )
    return (
        f"none of these: each head rejects {measured.rejected:.1%} of strangers where "
        f"{KEEP:.0%} of known photos are kept "
        f"({console.count(measured.strangers, 'photo')} of classes that were left out in turn)"
    )


def test(head: FittedHead, features: Features) -> Predictions:
    """Return what a head predicts for the photos of the test split."""
    return _test(head.pipeline, head, features)


def _test(pipeline: Pipeline, head: FittedHead, features: Features) -> Predictions:
    """Return what a pipeline of a head predicts for the photos of the test split."""
    batches = features.batches(head.hyperparameters["taps"], "test")
    parts = [predict(pipeline, features, X, rows) for rows, X in batches]
    return Predictions(
        paths=[path for part in parts for path in part.paths],
        labels=np.concatenate([part.labels for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
    )


def predict(pipeline: Pipeline, features: Features, X: Matrix, rows: Rows) -> Predictions:
    """Return what a head predicts for rows of a features file, given its taps of these rows.

    A class that it was not fitted on has probability 0.
    """
    probabilities = np.zeros((len(rows), len(features.class_names)), np.float32)
    probabilities[:, pipeline.classes_] = pipeline.predict_proba(X)
    return Predictions(
        paths=[features.paths[row] for row in rows],
        labels=features.labels[rows],
        probabilities=probabilities,
    )


def _test_and_save(
    head: FittedHead,
    outcome: SearchOutcome,
    novelty: Novelty | None,
    features: Features,
    *,
    out: Path,
    seed: int,
    balanced: bool,
) -> None:
    started = time.perf_counter()
    predictions = test(head, features)
    seconds_of_test = time.perf_counter() - started
    if head.on_train is not None:
        on_train = _test(head.on_train, head, features).probabilities
        predictions = replace(predictions, on_train=on_train)
    result = Result(
        model=head.name,
        stage="head",
        data=features.data,
        data_digest=features.data_digest,
        recipe_digest=features.recipe_digest,
        sizes=features.sizes,
        class_names=features.class_names,
        hyperparameters=head.hyperparameters,
        tried=[candidate.record for candidate in outcome.candidates[head.name]],
        seconds={
            "features": features.seconds,
            "tune": outcome.seconds[head.name],
            "fit": head.seconds,
            "predict": seconds_of_test,
        },
        epochs=head.hyperparameters.get("epochs"),
        parameters=heads.parameters(head.pipeline),
        seed=seed,
        metrics=results.metrics(predictions),
        versions=versions(),
        created=now(),
        machine=machine(),
        novelty=novelty.record if novelty else {},
        asked={"balanced": balanced},
        learned_from=[split for split in ("train", "val") if len(features.rows(split))],
    )
    folder = results.runs_of(features.data, out) / head.name
    results.save(
        folder, result, predictions, write_model=partial(_write, head.pipeline, novelty=novelty)
    )
    photos = console.count(len(predictions.labels), "test photo")
    seconds = result.seconds["tune"] + result.seconds["fit"]
    say(
        f"{head.name}: accuracy {result.metrics['accuracy']:.4f} on {photos}, "
        f"{seconds:.1f} s: {folder}"
    )


def _write(pipeline: Pipeline, folder: Path, *, novelty: Novelty | None = None) -> None:
    archive = io.BytesIO(skops.io.dumps(pipeline))
    if novelty is not None:
        with zipfile.ZipFile(archive, "a") as file:
            for name, array in novelty.detector.arrays().items():
                content = io.BytesIO()
                np.save(content, array, allow_pickle=False)
                file.writestr(f"{MEMBERS}{name}.npy", content.getvalue())
    (folder / "head.skops").write_bytes(archive.getvalue())
