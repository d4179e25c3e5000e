"""Compare the novelty detector with the largest probability of a head, on classes left out in turn.

``python -m benchmarks.novelty chess --far cats_vs_dogs`` reads the features files of both. Only
photos of train and val are looked at, while they are held out.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from classify import calibration, heads, out_of_core
from classify.novelty import KEEP
from classify.novelty.detector import TAP, Distances, Statistics, prepared
from classify.novelty.left_out import GROUPS
from extract.store import features_file

HEAD_TAP, WIDTH, ALPHA = "block5_avg3x3", 4608, 0.3
"""What the head whose probability is the baseline is fitted on: a least-squares SVM."""

ROWS, FAR_ROWS, FOLDS = 4000, 200, 5
"""The most photos of a data set, the most of another whose photos are strangers, and the folds."""

Scores = dict[str, NDArray[np.float64]]


class Photos(NamedTuple):
    """Photos by tap, and their classes."""

    taps: Mapping[str, NDArray[np.float32]]
    labels: NDArray[np.int64]

    def subset(self, rows: NDArray[np.intp]) -> "Photos":
        """Return some of the photos."""
        return Photos({tap: X[rows] for tap, X in self.taps.items()}, self.labels[rows])


def read(data: str, out: Path, *, most: int) -> Photos:
    """Read the photos of train and val, a sample if there are more than `most`."""
    with features_file.open_data_set(data, out) as features:
        labels = features.labels[features.rows("train", "val")]
        sample = out_of_core.sample(labels, rows=most, seed=0)
        taps = [TAP, HEAD_TAP]
        return Photos(
            {tap: out_of_core.read(features, [tap], "train", "val")[sample] for tap in taps},
            labels[sample],
        )


def scores(fitted: Photos, *others: Photos) -> list[Scores]:
    """Return both scores of photos, of which the first others are of known classes."""
    distances = Distances(Statistics.of(prepared(fitted.taps[TAP]), fitted.labels))
    preparation = heads.preparation({HEAD_TAP: WIDTH}, root=True)
    rows = preparation.fit_transform(fitted.taps[HEAD_TAP])
    scale = heads.unit_scale(rows)
    classes, codes = np.unique(fitted.labels, return_inverse=True)
    signs = np.where(codes[:, None] == np.arange(len(classes)), 1.0, -1.0)
    level = signs.mean(axis=0)
    kernel = scale**2 * (rows @ rows.T) + ALPHA * np.eye(len(rows), dtype=np.float32)
    weights = rows.T @ (scale**2 * np.linalg.solve(kernel, signs - level))
    outputs = [preparation.transform(one.taps[HEAD_TAP]) @ weights + level for one in others]
    known = np.searchsorted(classes, others[0].labels)
    temperature = calibration.fit(outputs[0].astype(np.float32), known).temperature
    return [
        {
            "novelty detector": distances.scores(prepared(one.taps[TAP])),
            "largest probability": -softmax(output / temperature, axis=1).max(axis=1),
        }
        for one, output in zip(others, outputs, strict=True)
    ]


def left_out(photos: Photos, far: Mapping[str, Photos]) -> Iterator[tuple[str, str, float, float]]:
    """Yield who was told, by which score, the share rejected, and the AUROC, for every group."""
    classes, step = np.unique(photos.labels), _groups(photos.labels)
    groups = [classes[start::step] for start in range(step)] or [classes[:0]]
    folds = list(
        StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(photos.labels, photos.labels)
    )
    for group in groups:
        found: dict[str, list[Scores]] = {}
        for fitted, held_out in folds if len(photos.labels) < 1000 else folds[:1]:
            is_stranger = np.isin(photos.labels, group)
            others = {
                "known": photos.subset(held_out[~is_stranger[held_out]]),
                "classes left out": photos.subset(held_out[is_stranger[held_out]]),
                **far,
            }
            others = {name: one for name, one in others.items() if len(one.labels)}
            told = scores(photos.subset(fitted[~is_stranger[fitted]]), *others.values())
            for name, one in zip(others, told, strict=True):
                found.setdefault(name, []).append(one)
        known = found.pop("known")
        for name, parts in found.items():
            for score in known[0]:
                inside = np.concatenate([one[score] for one in known])
                outside = np.concatenate([one[score] for one in parts])
                truth = np.arange(len(inside) + len(outside)) >= len(inside)
                auroc = roc_auc_score(truth, np.concatenate([inside, outside]))
                rejected = (outside > np.quantile(inside, KEEP)).mean()
                yield name, score, float(rejected), float(auroc)


def _groups(labels: NDArray[np.int64]) -> int:
    """Return the number of groups that are left out, as many as when heads are trained."""
    classes = len(np.unique(labels))
    return 0 if classes < 3 else classes if classes <= 2 * GROUPS else GROUPS


def report(data: str, photos: Photos, far: Mapping[str, Photos]) -> None:
    """Print the means over the groups that were left out."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for name, score, rejected, auroc in left_out(photos, far):
        found.setdefault((name, score), []).append((rejected, auroc))
    print(f"{data}: {len(photos.labels):,} photos, {len(np.unique(photos.labels))} classes")
    for (name, score), pairs in found.items():
        rejected, auroc = np.mean(pairs, axis=0)
        print(f"  {name:18}  {score:20}  rejected {rejected:6.1%}  AUROC {auroc:.3f}")


def main() -> None:
    """Read the command line and print the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.novelty", description=__doc__)
    parser.add_argument("data", nargs="+", help="data sets that have features")
    parser.add_argument("--far", nargs="*", default=[], help="data sets whose photos are strangers")
    parser.add_argument("--out", type=Path, default=Path(), help="the folder of features/")
    given = parser.parse_args()
    far = {name: read(name, given.out, most=FAR_ROWS) for name in given.far}
    for data in given.data:
        report(data, read(data, given.out, most=ROWS), {k: v for k, v in far.items() if k != data})


if __name__ == "__main__":
    main()
