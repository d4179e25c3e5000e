"""Compare our search of heads with GridSearchCV: ``python -m benchmarks.heads chess``.

Both try the same candidates on the same folds. Our search computes the row space of each feature
set once and follows the path of each head's hyper-parameters. scikit-learn's `GridSearchCV` fits a
pipeline for each candidate and shares no work between them. scikit-learn has no least-squares SVM
with a kernel, so the svm is compared without its kernel; a further line says how long all heads
take with it. Each search has as many processes as there are processors, with one thread of linear
algebra per process. With ``--plain`` GridSearchCV runs with its defaults: in one process that uses
all threads. The two alternate, head by head, and the seconds include the last fit on train and
val. Run ``make features`` for the data sets first.
"""

import argparse
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import delayed
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from threadpoolctl import threadpool_limits

from classify import heads, protocols, search, train
from classify.arrays import Labels, Matrix, TrainingData
from classify.heads import HEADS
from classify.search import SearchPlan
from classify.search_space import FeatureSet, SearchSpace
from extract import options as shared
from extract.store import features_file
from extract.system import console
from extract.system.processes import parallel


@dataclass(frozen=True, eq=False)
class Case:
    """A data set: the data for the search, and its test split."""

    data: TrainingData
    plan: SearchPlan
    test: Matrix
    labels: Labels


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heads", description=__doc__)
    parser.add_argument("data", nargs="+", help="data sets that have features, or features files")
    shared.add_out(parser, "features/")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--json", type=shared.path, help="a file to write the figures to")
    parser.add_argument("--plain", action="store_true", help="run GridSearchCV with its defaults")
    parser.add_argument("--ours", action="store_true", help="measure our search alone")
    parser.add_argument(
        "--feature-sets",
        type=int,
        help="how many feature sets GridSearchCV gets, from the smallest",
    )
    options = parser.parse_args()
    # Start joblib's processes, with what both searches import, before anything is measured.
    parallel(-1)(delayed(search.simplest)([np.ones(1)], np.ones(1)) for _ in range(8))
    measured = [_measure(data, options) for data in options.data]
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1) + "\n")


def _measure(data: str, options: argparse.Namespace) -> dict[str, Any]:
    with features_file.open(features_file.file_of(data, options.out)) as features:
        prepared, plan = train.prepare(features, options.heads, seed=0, balanced=False)
        test = features.read(prepared.taps, "test")
        case = Case(prepared, plan, test, features.labels[features.rows("test")])
        name = features.data
    rows, classes = len(prepared.X), int(prepared.labels.max()) + 1
    console.say(f"{name}: {rows:,} photos of train and val, {classes} classes")
    without_kernel = {head: space._replace(even_grid=()) for head, space in plan.spaces.items()}
    together = _ours(case, without_kernel)["seconds"]
    seconds = {"together": together}
    if without_kernel != plan.spaces:
        seconds["with_kernel"] = _ours(case, plan.spaces)["seconds"]
    figures = (
        [] if options.ours else [_compare(*one, case, options) for one in without_kernel.items()]
    )
    for line in protocols.table(_table(figures)) if figures else []:
        print(f"  {line}")
    if figures:
        ours, grid = (sum(row[who]["seconds"] for row in figures) for who in ("ours", "grid"))
        print(f"  heads one by one: {ours:.1f} s, GridSearchCV {grid:.1f} s")
        print(f"  all together: {together:.1f} s, {grid / together:.1f} times faster")
    else:
        print(f"  all together: {together:.1f} s")
    if "with_kernel" in seconds:
        print(f"  with the kernel of the svm: {seconds['with_kernel']:.1f} s")
    return {"data": name, "rows": rows, **seconds, "heads": figures}


def _compare(
    head: str, space: SearchSpace, case: Case, options: argparse.Namespace
) -> dict[str, Any]:
    """Measure both searches of one head."""
    few = SearchSpace(space.feature_sets[: options.feature_sets], space.grid)
    return {
        "head": head,
        "candidates": [
            len(searched.feature_sets) * len(searched.grid) for searched in (space, few)
        ],
        "ours": _ours(case, {head: space}),
        "grid": _grid(head, few, case, plain=options.plain),
    }


def _table(figures: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [
        ["Head", "Candidates", "Ours", "GridSearchCV", "Times", "Held out", "Grid's", "Test", "Its"]
    ]
    for row in figures:
        (every, few), ours, grid = row["candidates"], row["ours"], row["grid"]
        rows.append(
            [
                row["head"],
                str(every) if every == few else f"{every}, grid {few}",
                f"{ours['seconds']:.1f} s",
                f"{grid['seconds']:.1f} s",
                f"{grid['seconds'] / ours['seconds']:.1f}",
                *(f"{by[what]:.4f}" for what in ("held_out", "test") for by in (ours, grid)),
            ]
        )
    return rows


def _ours(case: Case, spaces: Mapping[str, SearchSpace]) -> dict[str, float]:
    """Measure our search of some heads; held-out and test accuracy are those of the last one."""
    plan = SearchPlan(spaces, case.plan.folds, case.plan.seed)
    started = time.perf_counter()
    outcome = search.search(case.data, plan)
    fitted = train.fit_heads(case.data, search.choose(outcome), plan)
    seconds = time.perf_counter() - started
    head = fitted[-1]
    test = heads.select(case.test, head.hyperparameters["taps"], among=case.data.taps)
    return {
        "seconds": seconds,
        "held_out": max(candidate.score for candidate in outcome.candidates[head.name]),
        "test": float((head.pipeline.predict(test) == case.labels).mean()),
    }


def _grid(head: str, space: SearchSpace, case: Case, *, plain: bool) -> dict[str, float]:
    """Measure GridSearchCV on one head."""
    prepared = [_preparation(features, case.data.taps) for features in space.feature_sets]
    pipeline = Pipeline(
        [
            ("features", clone(prepared[0])),
            ("scale", FunctionTransformer(_scaled, kw_args={"unit": head == "mlp"})),
            ("classifier", _classifier(head)),
        ]
    )
    grid: dict[str, Any] = {"features": prepared}
    tried = zip(*space.grid, strict=True)
    for hyperparameter, values in zip(HEADS[head].hyperparameters, tried, strict=True):
        if hyperparameter == "gamma":
            continue
        name = "max_iter" if hyperparameter == "epochs" else hyperparameter
        grid[f"classifier__{name}"] = sorted(set(values))
    by_grid = GridSearchCV(pipeline, grid, cv=case.plan.folds, n_jobs=None if plain else -1)
    started = time.perf_counter()
    with threadpool_limits(None if plain else 1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        by_grid.fit(case.data.X, case.data.labels)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "held_out": float(by_grid.best_score_),
        "test": float((by_grid.predict(case.test) == case.labels).mean()),
    }


def _preparation(features: FeatureSet, among: Mapping[str, int]) -> Pipeline:
    """Make the preparation of a feature set, which first selects its taps among all."""
    select = FunctionTransformer(heads.select, kw_args={"taps": features.taps, "among": among})
    widths = {tap: among[tap] for tap in features.taps}
    prepare = heads.preparation(widths, root=features.root, by_block=features.by_block)
    return Pipeline([("select", select), ("prepare", prepare)])


def _classifier(head: str) -> Any:
    if head == "logistic":
        return LogisticRegression(max_iter=1000, tol=1e-5)
    if head == "svm":
        return RidgeClassifier()
    return MLPClassifier((128,), tol=0.0, n_iter_no_change=100, random_state=0)


def _scaled(X: Any, *, unit: bool) -> Any:
    """Scale rows as the heads do, but by the norm of the given rows, which differs little."""
    size = np.sqrt(np.square(X).sum(axis=1).mean())
    return X * np.float32((heads.MLP_NORM if unit else 1.0) / size)


if __name__ == "__main__":
    console.run(main)
