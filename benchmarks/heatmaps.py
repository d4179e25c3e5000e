"""The deletion test: how far hiding the hottest fifth of a photo lowers the probability of a class.

``python -m benchmarks.heatmaps chess svm finetuned`` reads test photos and models that are trained.
A fifth of the same shape at a random place is the control.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from classify import results
from classify.serving import heatmaps
from classify.serving.heatmaps import Heatmap
from classify.serving.model import load_model
from extract.store import features_file, shards


def sample(data: str, out: Path, *, most: int) -> tuple[Path, list[bytes]]:
    """Return the folder of a data set's results, and test photos in the order of their digests."""
    with features_file.open_data_set(data, out) as features:
        root = Path(features.attributes["root"])
        rows = np.flatnonzero(features.splits == "test").tolist()
        rows = sorted(rows, key=lambda row: features.digests[row])[:most]
        photos = [(root / features.paths[row]).read_bytes() for row in rows]
        return results.runs_of(features.data, out), photos


def measure(run: Path, photos: list[bytes], out: Path) -> tuple[list[Heatmap], float]:
    """Return the heatmaps of photos by a model, and the seconds that a photo took."""
    model = load_model(run, cache=shards.cache_of(out))
    squares = [heatmaps.squares(model, photo) for photo in photos]
    seeds = [heatmaps.seed_of(photo) for photo in photos]
    # The first batch includes what is loaded and compiled once.
    list(heatmaps.heatmaps(model, squares[:2], seeds[:2]))
    started = time.perf_counter()
    found = list(heatmaps.heatmaps(model, squares, seeds))
    return found, (time.perf_counter() - started) / len(photos)


def line(name: str, found: list[Heatmap], seconds: float) -> str:
    """Write one row: both mean falls in points, their difference with an interval, and the time."""
    hottest = np.array([one.probability - one.without_hottest for one in found])
    random = np.array([one.probability - one.without_random for one in found])
    more = 100 * (hottest - random)
    interval = 1.96 * more.std(ddof=1) / np.sqrt(len(more))
    return (
        f"| {name} | {len(found)} | {100 * hottest.mean():.1f} | {100 * random.mean():.1f} | "
        f"{more.mean():.1f} ± {interval:.1f} | {np.mean(more > 0):.0%} | {seconds:.2f} |"
    )


def main() -> None:
    """Print a table with a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="a data set that has features and trained models")
    parser.add_argument("models", nargs="+", help="the models, such as svm and finetuned")
    parser.add_argument("--photos", type=int, default=200, help="test photos at most")
    parser.add_argument("--out", type=Path, default=Path())
    given = parser.parse_args()
    runs, photos = sample(given.data, given.out, most=given.photos)
    print("| model | photos | fall, hottest | fall, random | difference | larger | s/photo |")
    for name in given.models:
        found, seconds = measure(runs / name, photos, given.out)
        print(line(name, found, seconds), flush=True)


if __name__ == "__main__":
    main()
