"""How fast a model answers for new photos: one by one and many at once.

``python -m benchmarks.predict chess``, after ``make DATA=chess features heads``. It measures three
things: a whole command for one photo, one photo after another in a running process, and many
photos at once. The photos are those of the test split. Their features are computed again, although
the cache has them.
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
from classify.serving.model import Model, answers, load_model
from extract import options as shared
from extract.compute import reading
from extract.compute.reading import BATCH_SIZE
from extract.store import features_file, shards
from extract.system import console, machine

ROUNDS = 5


def main() -> None:
    """Measure, print, and write JSON if ``--json`` is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__)
    parser.add_argument("data", help="a data set that has features and results")
    shared.add_out(parser, "features/ and runs/")
    parser.add_argument(
        "--models", nargs="+", default=["svm"], help="names of its results (default: svm)"
    )
    parser.add_argument(
        "--photos",
        type=shared.at_least(BATCH_SIZE),
        default=110,
        help="how many photos (default %(default)s)",
    )
    parser.add_argument("--json", type=shared.path, help="a file to write the figures to")
    options = parser.parse_args()
    with features_file.open(features_file.file_of(options.data, options.out)) as features:
        root = Path(str(features.attributes["root"]))
        paths = [features.paths[row] for row in features.rows("test")][: options.photos]
        runs = results.runs_of(features.data, options.out)
    found = {name: measure(runs / name, root, paths, out=options.out) for name in options.models}
    photos = f"{len(paths)} photos; median of {ROUNDS} rounds"
    console.say(f"{options.data}, {machine.processor()}, {photos}")
    print(f"{'':12}  s, one photo from process start  ms, one photo warm  photos/s, many")
    for name, figures in found.items():
        start, warm, speed = (statistics.median(values) for values in figures.values())
        print(f"{name:12}{start:33.2f}{1000 * warm:20.0f}{speed:16.1f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(run: Path, root: Path, paths: Sequence[str], *, out: Path) -> dict[str, list[float]]:
    """Measure one model in all three ways, in turn.

    Returns
    -------
    dict
        ``start``: seconds of a whole command for one photo. ``warm``: seconds for one photo in a
        running process. ``many``: photos per second. All of them include reading and decoding.
    """
    cache = shards.cache_of(out)
    model = load_model(run, cache=cache)
    for vgg16 in model.vgg16.values():
        vgg16.known = {}
    model = model._replace(known=dict.fromkeys(model.known, ()))
    # The engine is built when the first photos arrive.
    _answer(model, root, paths[:BATCH_SIZE])
    measured: dict[str, list[float]] = {"start": [], "warm": [], "many": []}
    for number in range(ROUNDS):
        measured["start"].append(_from_start(run, root / paths[number], out))
        measured["warm"].append(_answer(model, root, [paths[number]]))
        measured["many"].append(len(paths) / _answer(model, root, paths))
    return measured


def _answer(model: Model, root: Path, paths: Sequence[str]) -> float:
    started = time.perf_counter()
    items = reading.read_squares_ahead(root, paths, known=model.known)
    assert len(list(answers(model, items))) == len(paths)
    return time.perf_counter() - started


def _from_start(run: Path, photo: Path, out: Path) -> float:
    """Return the seconds that a whole command takes for a photo that is not in the cache."""
    with tempfile.NamedTemporaryFile(suffix=photo.suffix) as unknown:
        # A byte after the end changes the digest of a photo but not its pixels.
        unknown.write(photo.read_bytes() + b"\0")
        unknown.flush()
        words = ["classify", "predict", str(run), unknown.name, "--out", str(out)]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
        return time.perf_counter() - started


if __name__ == "__main__":
    console.run(main)
