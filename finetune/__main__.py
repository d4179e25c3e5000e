"""Photos to networks, and results to a report.

``python -m finetune train chess`` trains the baseline from scratch and fine-tunes VGG16;
``python -m finetune compare chess`` compares every result with every other;
``python -m finetune compare chess cats_vs_dogs`` does so for each, and puts them side by side;
``python -m finetune export runs/chess/svm --to onnx`` writes a model as one file for use elsewhere.
"""

import argparse
import json
import time
import webbrowser
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from classify import results
from classify.results import Result
from extract.store import features_file, shards
from extract.store.features_file import Features
from extract.system import atomic, console
from extract.system.console import InputError, say, warn
from extract.system.machine import machine
from extract.system.provenance import now, versions
from extract.vgg16 import weights
from extract.vgg16.recipe import SIZE, recipe_digest
from finetune.compare.comparison import Comparison, compare_data_set
from finetune.report.files import write_report
from finetune.report.overview import overview_table, write_overview
from finetune.report.terminal import comparison_table

if TYPE_CHECKING:
    from finetune.train.loop import Trained

OF_BOTH = ("learning_rate", "epochs", "batch_size", "label_smoothing", "balanced")
OF_ONE = {"baseline": ("batch_norm",), "finetuned": ("unfreeze", "variants")}
"""Options that a result depends on."""


def main() -> None:
    """Read the command line and train or compare."""
    parser = argparse.ArgumentParser(prog="python -m finetune", description=__doc__)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train", help="train the networks")
    training.add_argument("data", help="a data set that has features, or a features file (.h5)")
    console.add_out(training, "runs/")
    console.add_seed(training, "weights, order, augmentation")
    training.add_argument("--models", nargs="+", choices=OF_ONE, default=list(OF_ONE))
    training.add_argument(
        "--unfreeze",
        choices=("block5", "block4", "all"),
        default="block5",
        help="the first block of VGG16 that is trained",
    )
    training.add_argument(
        "--variants",
        type=console.at_least(0),
        default=2,
        help="of each photo whose activations are cached: plain, mirrored, then cropped and lit; "
        "0 caches none and augments anew each time, which is slower (default %(default)s)",
    )
    training.add_argument("--weights", type=Path, help="VGG16's weights, if not the usual ones")
    training.add_argument("--learning-rate", type=float, help="of the last phase, if not by rule")
    training.add_argument(
        "--epochs", type=console.at_least(1), help="at most, of the last phase, if not by rule"
    )
    training.add_argument(
        "--batch-size", type=console.at_least(1), help="of the last phase, if not by rule"
    )
    training.add_argument(
        "--label-smoothing",
        type=console.share,
        default=0.0,
        help="how much of each label is given to all classes alike (default %(default)s)",
    )
    training.add_argument(
        "--balanced", action="store_true", help="let every class weigh the same, few photos or many"
    )
    training.add_argument(
        "--batch-norm",
        action="store_true",
        help="normalise after each convolution of the baseline, by batch",
    )
    training.add_argument("--again", action="store_true", help="train even if nothing changed")
    training.set_defaults(command=_train)
    comparing = commands.add_parser("compare", help="compare all results of a data set")
    comparing.add_argument("data", nargs="+", help="data sets that have results")
    console.add_out(comparing, "reports/")
    comparing.add_argument("--open", action="store_true", help="show the page in the browser")
    comparing.set_defaults(command=_compare)
    exporting = commands.add_parser("export", help="write a model as one file, photo in")
    exporting.add_argument("run", type=Path, help="runs/<data>/<model>")
    exporting.add_argument("--to", choices=("keras", "onnx", "litert"), required=True)
    console.add_out(exporting, "features/")
    exporting.add_argument("--weights", type=Path, help="VGG16's weights, if not the usual ones")
    exporting.add_argument(
        "--photos", type=Path, help="folder of photos to compare on (default: the test photos)"
    )
    exporting.set_defaults(command=_export)
    options = parser.parse_args()
    options.command(options)


def _export(options: argparse.Namespace) -> None:
    # Importing Keras takes seconds.
    from finetune import export

    path, difference = export.export(
        options.run,
        to=options.to,
        out=options.out,
        weights_file=options.weights,
        photos=options.photos,
    )
    megabytes = path.stat().st_size / 1e6
    say(f"{path}: written, {megabytes:.0f} MB, within {difference:.0e} of the original")


def _compare(options: argparse.Namespace) -> None:
    found = [_compare_one(data, options) for data in dict.fromkeys(options.data)]
    written = [path for path, _ in found]
    if len(found) > 1:
        several = [comparison for _, comparison in found]
        written = write_overview(several, options.out / "reports")
        Console().print(overview_table(several))
        say(f"all of them: {written[0]}")
    if options.open:
        webbrowser.open(written[0].resolve().as_uri())


def _compare_one(data: str, options: argparse.Namespace) -> tuple[Path, Comparison]:
    """Compare the results of one data set, leave the report and print the table."""
    with features_file.open(features_file.file_of(data, options.out)) as features:
        found = compare_data_set(features, results.runs_of(features.data, options.out))
    for sentence in found.refused:
        warn(sentence)
    page, *_ = write_report(found, options.out / "reports" / found.features.data)
    Console().print(comparison_table(found))
    say(found.verdict)
    say(f"the report: {page}")
    return page, found


def _train(options: argparse.Namespace) -> None:
    with features_file.open(features_file.file_of(options.data, options.out)) as features:
        for name in options.models:
            _train_one(name, features, options)


def _train_one(name: str, features: Features, options: argparse.Namespace) -> None:
    """Train one network unless its result is there already, and leave its result."""
    folder = results.runs_of(features.data, options.out) / name
    asked = {key: getattr(options, key) for key in (*OF_BOTH, *OF_ONE[name])}
    if not options.again and _is_done(folder, features, asked, options.seed):
        say(f"{folder}: nothing to do (--again trains it anew)")
        return
    # Importing Keras takes seconds, and there may have been nothing to do.
    from finetune.train import hardware, loop

    on = hardware.find()
    given = {"seed": options.seed, "asked": asked, "folder": folder, "on": on}
    if name == "baseline":
        trained = loop.train_baseline(features, **given)
    else:
        cache = shards.cache_of(options.out)
        vgg16 = weights.load(options.weights, cache=cache)
        if vgg16.digest != features.attributes["weights_digest"]:
            raise InputError(
                f"{vgg16.origin}: not the weights the features were made with; give those with "
                "--weights, or run make features with these"
            )
        trained = loop.train_finetuned(features, vgg16, out=options.out, **given)
    if not on.is_chief:
        say(f"{name}: trained; worker 0 leaves the result")
        return
    started = time.perf_counter()
    predictions = loop.predict(trained.network, features)
    result = Result(
        model=name,
        stage="network",
        data=features.data,
        data_digest=features.data_digest,
        recipe_digest=recipe_digest(features.recipes[SIZE]),
        class_names=features.class_names,
        hyperparameters={
            "asked": asked,
            "precision": on.precision,
            "parts": on.train.parts,
            **trained.schedules,
        },
        tried=[],
        seconds={**trained.seconds, "predict": time.perf_counter() - started},
        epochs=len(trained.history["phase"]),
        parameters=trained.parameters,
        seed=options.seed,
        metrics=results.metrics(predictions),
        versions=versions(),
        created=now(),
        machine=machine(),
    )
    results.save(folder, result, predictions, write_model=partial(_write, trained))
    for name_of_unfinished in (loop.STATE, loop.BEST_SO_FAR):
        (folder / name_of_unfinished).unlink(missing_ok=True)
    photos = f"{len(predictions.labels):,} test photos"
    accuracy = f"accuracy {result.metrics['accuracy']:.4f}"
    epochs = f"{result.epochs} epochs, {trained.seconds['fit']:.0f} s"
    say(f"{name}: {accuracy} on {photos}, {epochs}: {folder}")


def _is_done(folder: Path, features: Features, asked: dict[str, Any], seed: int) -> bool:
    if not (folder / "result.json").exists():
        return False
    result = results.load(folder)
    made_of = (result.data_digest, result.recipe_digest, result.seed)
    same = made_of == (features.data_digest, recipe_digest(features.recipes[SIZE]), seed)
    return same and result.hyperparameters.get("asked") == asked


def _write(trained: "Trained", folder: Path) -> None:
    from finetune.train.loop import save

    atomic.write_text(folder / "history.json", json.dumps(trained.history) + "\n")
    save(trained.network, folder / "model.keras")


if __name__ == "__main__":
    console.run(main)
