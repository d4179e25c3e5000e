"""How fast a model looks at new photos: one from process start, one after another, many at once.

``python -m benchmarks.predict chess``, after ``make DATA=chess features heads``. The photos are
those of the test split, computed anew although the cache knows them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from classify import results
from classify.serving import predict
from classify.serving.predict import Model
from extract.compute import pipeline
from extract.compute.pipeline import BATCH_SIZE
from extract.store import features_file, shards
from extract.system import console, machine

ROUNDS = 5


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__)
    parser.add_argument("data", help="a data set that has features and results")
    console.add_out(parser, "features/ and runs/")
    parser.add_argument("--models", nargs="+", default=["svm"], help="of its results")
    parser.add_argument("--photos", type=console.at_least(BATCH_SIZE), default=110)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    with features_file.open(features_file.file_of(options.data, options.out)) as features:
        root = Path(str(features.attributes["root"]))
        paths = [features.paths[row] for row in features.rows("test")][: options.photos]
        runs = results.runs_of(features.data, options.out)
    found = {name: measure(runs / name, root, paths, out=options.out) for name in options.models}
    print(f"{options.data}, {machine.processor()}, {len(paths)} photos; median of {ROUNDS} rounds")
    print(f"{'':12}  s, one photo from process start  ms, one photo warm  photos/s, many")
    for name, figures in found.items():
        start, warm, speed = (statistics.median(values) for values in figures.values())
        print(f"{name:12}{start:33.2f}{1000 * warm:20.0f}{speed:16.1f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(run: Path, root: Path, paths: Sequence[str], *, out: Path) -> dict[str, list[float]]:
    """Measure one model, its three ways in turn.

    Returns
    -------
    dict
        ``start``, seconds for one photo from process start; ``warm``, seconds for one photo;
        ``many``, photos a second. Reading and decoding are in all of them.
    """
    cache = shards.cache_of(out)
    model = predict.load(run, cache=cache)
    if model.lookup:
        model.lookup.known = {}
    model = model._replace(known=())
    # The engine is built by the first photos.
    _answer(model, root, paths[:BATCH_SIZE])
    found: dict[str, list[float]] = {"start": [], "warm": [], "many": []}
    for number in range(ROUNDS):
        found["start"].append(_from_start(run, root / paths[number], out))
        found["warm"].append(_answer(model, root, [paths[number]]))
        found["many"].append(len(paths) / _answer(model, root, paths))
    return found


def _answer(model: Model, root: Path, paths: Sequence[str]) -> float:
    started = time.perf_counter()
    items = pipeline.read_ahead(root, paths, size=model.size, known=model.known)
    assert len(list(predict.answers(model, items))) == len(paths)
    return time.perf_counter() - started


def _from_start(run: Path, photo: Path, out: Path) -> float:
    """Return the seconds of a whole command on a photo that the cache does not know."""
    with tempfile.NamedTemporaryFile(suffix=photo.suffix) as unknown:
        # A byte after its end changes a photo's digest and not the photo.
        unknown.write(photo.read_bytes() + b"\0")
        unknown.flush()
        words = ["classify", "predict", str(run), unknown.name, "--out", str(out)]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
