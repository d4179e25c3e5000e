"""Features to heads: ``python -m classify chess``.

Chooses, fits and tests each head on the cached features of a data set and leaves a result in
``runs/<data>/<head>/``. With --protocol or --learning-curve the heads are measured over many random
splits instead, and the figures are left in ``runs/<data>/``.

``python -m classify predict runs/chess/svm PHOTO`` uses what was trained, networks too, and
``python -m classify serve runs/chess/svm`` opens a page to try it on.
"""

import argparse
import json
import os
import sys
import time
import webbrowser
from collections.abc import Sequence
from contextlib import closing, redirect_stdout, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from sklearn.pipeline import Pipeline

from classify import heads, large, predict, protocol, results, tasks, tune
from classify.heads import HEADS
from classify.predict import Answer, Model
from classify.protocol import Figures
from classify.results import Predictions, Result
from extract import atomic, console, images, pipeline, ray_cluster, shards, store
from extract.console import InputError, say, warn
from extract.engines import ENGINES, machine
from extract.lookup import Lookup
from extract.provenance import now, versions
from extract.store import Features


def main() -> None:
    """Read the command line and do what it says."""
    # A data set that is called like a command is given as ./predict.
    command = COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if command is None:
        _train(sys.argv[1:])
    else:
        command(sys.argv[2:])


def _predict(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m classify predict", description="Say what is on new photos."
    )
    _add_model(parser)
    parser.add_argument("photos", nargs="+", help="photos, folders, or - for standard input")
    parser.add_argument("--top", type=console.at_least(1), default=5, help="classes of each photo")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="write one JSON object")
    how.add_argument("--csv", action="store_true", help="write CSV")
    predict_photos(parser.parse_args(arguments))


def _serve(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m classify serve", description="Open a page to try a model on."
    )
    _add_model(parser)
    # Other commands do without it.
    from classify import serve

    parser.add_argument("--host", default=serve.HOST, help="this machine only: %(default)s")
    parser.add_argument("--port", type=int, default=serve.PORT, help="(default %(default)s)")
    options = parser.parse_args(arguments)
    model = predict.load(options.run, **_vgg16(options))
    lookup = model.lookup or Lookup(**_vgg16(options))
    training = serve.neighbours(store.file_of(model.result.data, options.out))
    app = serve.application(model, lookup, training, unsure=options.unsure, host=options.host)
    server = serve.server(app, host=options.host, port=options.port)
    url = f"http://{options.host}:{server.port}"
    photos = console.count(len(training.paths), "training photo")
    say(f"{options.run}: {url}, compared with {photos}; Ctrl-C ends it")
    if sys.stdout.isatty():
        webbrowser.open(url)
    with suppress(console.Stopped):
        server.serve_forever()


def _add_model(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that say which model is used, and how."""
    parser.add_argument("run", type=Path, help="runs/<data>/<model>, a head or a network")
    console.add_out(parser, "features/")
    parser.add_argument(
        "--unsure",
        type=float,
        default=predict.UNSURE,
        help="probability below which a photo is called unsure (default %(default)s)",
    )
    parser.add_argument("--weights", type=Path, help="VGG16's weights, if not the usual ones")
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="what runs VGG16")


def _vgg16(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the options of `_add_model` say of VGG16, as `Lookup` takes it."""
    return {
        "cache": shards.cache_of(options.out),
        "weights_file": options.weights,
        "engine": options.engine,
    }


def predict_photos(options: argparse.Namespace) -> None:
    """Print what a model says of photos; all else that there is to say goes to standard error.

    Raises
    ------
    InputError
        If there is no such model or photo, or none can be read.
    """
    paths, skipped = _listed(options.photos)
    found: list[Answer] = []
    with redirect_stdout(sys.stderr):
        model = predict.load(options.run, **_vgg16(options))
        try:
            _answer(model, paths, options, found, skipped)
        except console.Stopped:
            _print(found, skipped, model.result, options)
            raise
    for path, reason in skipped:
        warn(f"skipped: {path}: {reason}")
    if not found:
        raise InputError(f"{options.photos[0]}: no photo there that can be read")
    _print(found, skipped, model.result, options)
    unsure = sum(not answer.sure for answer in found)
    warn(
        f"{model.result.model} of {model.result.data}: {console.count(len(found), 'photo')}, "
        f"{unsure:,} unsure (below {options.unsure:.0%}), {len(skipped):,} skipped"
    )


def _listed(given: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the photos that arguments name, and what lies in folders and is none."""
    paths: list[str] = []
    skipped: list[tuple[str, str]] = []
    for name in given:
        if name != "-" and not os.path.exists(name):
            raise InputError(f"{name}: no such file or folder")
        if os.path.isdir(name):
            inside = images.scan_flat(Path(name))
            paths += [str(Path(name, photo.path)) for photo in inside.photos]
            skipped += [(str(Path(name, path)), reason) for path, reason in inside.skipped]
        else:
            paths.append(name)
    return paths, skipped


def _answer(
    model: Model,
    paths: Sequence[str],
    options: argparse.Namespace,
    found: list[Answer],
    skipped: list[tuple[str, str]],
) -> None:
    files = [path for path in paths if path != "-"]
    how: dict[str, Any] = {"size": model.size, "known": model.known}
    given = [pipeline.decoded("-", sys.stdin.buffer.read(), **how)] if "-" in paths else []
    with (
        console.progress("predict", len(files) + len(given), unit="photos") as advance,
        closing(pipeline.read_ahead(Path(), files, **how)) as read,
    ):
        for answer in predict.answers(model, chain(given, read), unsure=options.unsure):
            path = images.readable_name(answer.path)
            if isinstance(answer, Answer):
                found.append(answer._replace(path=path))
            else:
                skipped.append((path, answer.reason))
            advance(1)


def _print(
    found: Sequence[Answer],
    skipped: Sequence[tuple[str, str]],
    result: Result,
    options: argparse.Namespace,
) -> None:
    if options.json:
        sys.stdout.write(predict.as_json(found, skipped, result, top=options.top))
    elif options.csv:
        sys.stdout.write(predict.as_csv(found, top=options.top))
    else:
        for line in predict.lines(found, top=options.top):
            say(line)


def _train(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m classify", description=__doc__)
    parser.add_argument("data", help="a data set that has features, or a features file (.h5)")
    console.add_out(parser, "runs/")
    console.add_seed(parser, "the folds, the MLP and random splits")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument(
        "--balanced", action="store_true", help="let every class weigh the same, few photos or many"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--protocol", choices=["per-class"], help="repeated random splits of all photos"
    )
    what.add_argument(
        "--learning-curve", action="store_true", help="accuracy against training photos a class"
    )
    positive = console.at_least(1)
    parser.add_argument("--train", type=positive, default=30, help="photos a class (--protocol)")
    parser.add_argument("--test", type=positive, default=50, help="at most, a class (--protocol)")
    parser.add_argument("--repeats", type=positive, default=10, help="of each random split")
    ray_cluster.add_on(parser, "search on all machines of a cluster")
    options = parser.parse_args(arguments)
    file = store.file_of(options.data, options.out)
    with store.open(file) as features, tasks.spread(options.on):
        if options.protocol:
            measure_per_class(features, options)
        elif options.learning_curve:
            measure_learning_curve(features, options)
        else:
            train_heads(
                features,
                options.heads,
                out=options.out,
                seed=options.seed,
                balanced=options.balanced,
            )


def train_heads(
    features: Features, names: Sequence[str], *, out: Path, seed: int, balanced: bool
) -> None:
    """Choose, fit and test heads, each leaving a result, and say how well they do.

    Raises
    ------
    InputError
        If the splits are too small to learn from or to test on.
    """
    _check(features)
    rows = features.rows("train", "val")
    labels = features.labels[rows]
    the_spaces = tune.spaces(names, labels, features.taps)
    taps = heads.among(
        features.taps, [own for space in the_spaces.values() for own, _ in space.views]
    )
    X = large.read(features, taps, "train", "val")
    the_folds = tune.folds(
        labels,
        [features.digests[row] for row in rows],
        features.splits[rows] == "val",
        seed=seed,
    )
    with console.progress("heads", tune.steps(the_spaces), unit="steps") as advance:
        tuned = tune.tune(
            the_spaces,
            X,
            labels,
            the_folds,
            taps=taps,
            seed=seed,
            balanced=balanced,
            advance=advance,
        )
    tested = features.rows("test")
    for name in names:
        head, chosen, tried, spent = tuned[name]
        started = time.perf_counter()
        predictions = _test(head, features, chosen["taps"])
        seconds = {
            "features": features.seconds,
            **spent,
            "predict": time.perf_counter() - started,
        }
        result = Result(
            model=name,
            stage="head",
            data=features.data,
            data_digest=features.data_digest,
            recipe_digest=features.recipe_digest,
            class_names=features.class_names,
            hyperparameters=chosen,
            tried=tried,
            seconds=seconds,
            epochs=chosen.get("epochs"),
            parameters=heads.parameters(head),
            seed=seed,
            metrics=results.metrics(predictions),
            versions=versions(),
            created=now(),
            machine=machine(),
        )
        folder = results.runs_of(features.data, out) / name
        results.save(folder, result, predictions, write_model=partial(_write, head))
        figures = f"accuracy {result.metrics['accuracy']:.4f}"
        say(
            f"{name}: {figures} on {len(tested):,} test photos, "
            f"{spent['tune'] + spent['fit']:.1f} s: {folder}"
        )


def measure_per_class(features: Features, options: argparse.Namespace) -> None:
    """Measure heads on repeated random splits and print a row a head."""
    with console.progress("repeats", options.repeats, unit="repeats") as advance:
        repeats = protocol.per_class(
            features,
            options.heads,
            train=options.train,
            test=options.test,
            repeats=options.repeats,
            seed=options.seed,
            balanced=options.balanced,
            advance=advance,
        )
    found = protocol.summaries(repeats)
    shown = {"mean_class_recall": "Mean class recall", "accuracy": "Accuracy"}
    say(
        f"{features.data}: {console.count(options.train, 'photo')} a class to train, at most "
        f"{options.test} to test, {console.count(options.repeats, 'random split')}; mean and sd"
    )
    rows = [["Head", *shown.values(), "Log loss", "Calibration error"]]
    for name in options.heads:
        cells = [_spread(found[name][metric], "sd") for metric in shown]
        log_loss, error = found[name]["log_loss"], found[name]["calibration_error"]
        rows.append([name, *cells, f"{log_loss['mean']:.3f}", f"{error['mean']:.3f}"])
    record = {"summary": found, "repeats": repeats}
    name = f"protocol-per-class-{options.train}-{options.test}"
    _leave(features, options, name, rows, record, asked=("train", "test"))


def measure_learning_curve(features: Features, options: argparse.Namespace) -> None:
    """Measure heads against the number of training photos and print a row a number."""
    _check(features)
    draws = len(protocol.curve_sizes(features)) * options.repeats
    with console.progress("learning curve", draws, unit="draws") as advance:
        repeats = protocol.learning_curve(
            features,
            options.heads,
            repeats=options.repeats,
            seed=options.seed,
            balanced=options.balanced,
            advance=advance,
        )
    found = {size: protocol.summaries(figures) for size, figures in repeats.items()}
    say(
        f"{features.data}: accuracy on its {len(features.rows('test')):,} test photos, mean of "
        f"{console.count(options.repeats, 'draw')} with the 95% interval"
    )
    rows = [["Photos a class", *options.heads]]
    for size, figures in found.items():
        cells = [_spread(figures[name]["accuracy"], "half_width") for name in options.heads]
        rows.append([f"{size:,}", *cells])
    _leave(features, options, "learning-curve", rows, {"summary": found, "repeats": repeats})


def _spread(figures: Figures, what: str) -> str:
    return f"{figures['mean']:.1%} ± {100 * figures[what]:.1f}"


def _leave(
    features: Features,
    options: argparse.Namespace,
    name: str,
    rows: Sequence[Sequence[str]],
    record: dict[str, Any],
    *,
    asked: Sequence[str] = (),
) -> None:
    """Print a table, and write the record of it with what it was made from."""
    for line in protocol.table(rows):
        say(line)
    made_from = {
        "data": features.data,
        "data_digest": features.data_digest,
        "recipe_digest": features.recipe_digest,
        "options": {key: getattr(options, key) for key in (*asked, "seed", "balanced")},
        "versions": versions(),
        "created": now(),
    }
    path = results.runs_of(features.data, options.out) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**made_from, **record}, indent=1, ensure_ascii=False)
    atomic.write_text(path, text + "\n")
    say(path)


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


def _test(head: Pipeline, features: Features, taps: Sequence[str]) -> Predictions:
    batches = features.batches(taps, "test")
    found = [protocol.predictions(head, features, X, rows) for rows, X in batches]
    return Predictions(
        paths=[path for part in found for path in part.paths],
        labels=np.concatenate([part.labels for part in found]),
        probabilities=np.concatenate([part.probabilities for part in found]),
    )


def _write(head: Pipeline, folder: Path) -> None:
    atomic.write_bytes(folder / "head.skops", skops.io.dumps(head))


COMMANDS = {"predict": _predict, "serve": _serve}

if __name__ == "__main__":
    console.run(main)
