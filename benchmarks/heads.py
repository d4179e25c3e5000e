"""Heads against GridSearchCV: ``.venv/bin/python -m benchmarks.heads chess cats_vs_dogs``.

The same candidates, the same folds, the same hold-out scores: our search, which rotates each view
of the rows once to their span and follows the path of each head's parameter, against scikit-learn's
`GridSearchCV` over pipelines that know nothing of this. Both have as many processes as there are
processors, with one thread of linear algebra each; with ``--plain`` GridSearchCV runs as it comes,
in one process that takes all threads. The two alternate, head by head; seconds include the last fit
on train and val. The data sets need features; a path of a features file will do.
"""

import argparse
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from threadpoolctl import threadpool_limits

from classify import heads, protocols, search
from classify.heads import HEADS, Space, View
from extract.store import features_file


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heads", description=__doc__)
    parser.add_argument("data", nargs="+", help="data sets, or features files (.h5)")
    parser.add_argument("--out", type=Path, default=Path(), help="where features/ is")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--plain", action="store_true", help="GridSearchCV as it comes")
    parser.add_argument("--ours", action="store_true", help="time our search alone")
    parser.add_argument(
        "--views", type=int, help="give GridSearchCV this many views, from the smallest"
    )
    options = parser.parse_args()
    # The processes of joblib are there before anything is timed.
    Parallel(n_jobs=-1)(delayed(abs)(1) for _ in range(8))
    found = [_measure(data, options) for data in options.data]
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def _measure(data: str, options: argparse.Namespace) -> dict[str, Any]:
    with features_file.open(features_file.file_of(data, options.out)) as features:
        rows, taps = features.rows("train", "val"), heads.tried(features.taps)
        X, labels = features.read(taps, "train", "val"), features.labels[rows]
        digests = [features.digests[row] for row in rows]
        folds = search.folds(labels, digests, features.splits[rows] == "val", seed=0)
        unseen, truth = features.read(taps, "test"), features.labels[features.rows("test")]
        name = features.data
    print(f"{name}: {len(X):,} photos of train and val, {labels.max() + 1} classes")
    started = time.perf_counter()
    the_spaces = search.spaces(options.heads, labels, taps)
    search.tune(the_spaces, X, labels, folds, taps=taps, seed=0)
    together = time.perf_counter() - started
    table: list[Sequence[Any]] = [
        ["Head", "Candidates", "Ours", "GridSearchCV", "Times", "Held out", "Grid's", "Test", "Its"]
    ]
    figures: list[dict[str, Any]] = []
    for head, space in ({} if options.ours else the_spaces).items():
        views = space.views[: options.views]
        one = _ours(head, space, X, labels, folds, taps, unseen, truth)
        other = _grid(
            *(head, views, space.values, X, labels, folds, taps, unseen, truth),
            plain=options.plain,
        )
        times = other["seconds"] / one["seconds"]
        tried = len(space.views) * len(space.values), len(views) * len(space.values)
        figures.append({"head": head, "candidates": tried, "ours": one, "grid": other})
        table.append(
            [
                head,
                tried[0] if tried[0] == tried[1] else f"{tried[0]}, grid {tried[1]}",
                f"{one['seconds']:.1f} s",
                f"{other['seconds']:.1f} s",
                f"{times:.1f}",
                *(f"{value:.4f}" for value in (one["held_out"], other["held_out"])),
                *(f"{value:.4f}" for value in (one["test"], other["test"])),
            ]
        )
    for line in protocols.table(table) if figures else []:
        print(f"  {line}")
    if figures:
        sums = [sum(row[who]["seconds"] for row in figures) for who in ("ours", "grid")]
        print(f"  heads one by one: {sums[0]:.1f} s, GridSearchCV {sums[1]:.1f} s")
        print(f"  all together: {together:.1f} s, {sums[1] / together:.1f} times faster")
    else:
        print(f"  all together: {together:.1f} s")
    return {"data": name, "rows": len(X), "together": together, "heads": figures}


def _ours(
    head: str,
    space: Space,
    X: Any,
    labels: Any,
    folds: Any,
    taps: Mapping[str, int],
    unseen: Any,
    truth: Any,
) -> dict[str, float]:
    started = time.perf_counter()
    tuned = search.tune({head: space}, X, labels, folds, taps=taps, seed=0)[head]
    seconds = time.perf_counter() - started
    own = heads.select(unseen, tuned.chosen["taps"], among=taps)
    return {
        "seconds": seconds,
        "held_out": max(candidate["score"] for candidate in tuned.tried),
        "test": float((tuned.head.predict(own) == truth).mean()),
    }


def _grid(
    head: str,
    views: Sequence[View],
    values: Sequence[tuple[float, ...]],
    X: Any,
    labels: Any,
    folds: Any,
    taps: Mapping[str, int],
    unseen: Any,
    truth: Any,
    *,
    plain: bool,
) -> dict[str, float]:
    prepared = [_view(own, root=root, among=taps) for own, root in views]
    pipeline = Pipeline(
        [
            ("view", clone(prepared[0])),
            ("scale", FunctionTransformer(_scaled, kw_args={"unit": head == "mlp"})),
            ("classifier", _plain(head)),
        ]
    )
    grid: dict[str, Any] = {"view": prepared}
    for parameter, tried in zip(HEADS[head].parameters, zip(*values, strict=True), strict=True):
        name = "max_iter" if parameter == "epochs" else parameter
        grid[f"classifier__{name}"] = sorted(set(tried))
    search = GridSearchCV(pipeline, grid, cv=folds, n_jobs=None if plain else -1)
    started = time.perf_counter()
    with threadpool_limits(None if plain else 1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(X, labels)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "held_out": float(search.best_score_),
        "test": float((search.predict(unseen) == truth).mean()),
    }


def _view(taps: Sequence[str], *, root: bool, among: Mapping[str, int]) -> Pipeline:
    """Make the preparation of a view that picks its taps out of all that are tried."""
    own = FunctionTransformer(heads.select, kw_args={"taps": taps, "among": among})
    prepare = heads.preparation({tap: among[tap] for tap in taps}, root=root)
    return Pipeline([("own", own), ("prepare", prepare)])


def _plain(head: str) -> Any:
    if head == "logistic":
        return LogisticRegression(max_iter=1000, tol=1e-5)
    if head == "svm":
        return RidgeClassifier()
    return MLPClassifier((128,), tol=0.0, n_iter_no_change=100, random_state=0)


def _scaled(X: Any, *, unit: bool) -> Any:
    """Scale rows as the heads do; a function of the rows at hand, which differs little."""
    size = np.sqrt(np.square(X).sum(axis=1).mean())
    return X * np.float32((heads.MLP_NORM if unit else 1.0) / size)


if __name__ == "__main__":
    main()
