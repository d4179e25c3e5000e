"""Train Keras networks, compare all results of a data set, and export a model as one file."""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # The imports below take seconds, and Ctrl-C during them deserves no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from classify import results
from extract import options
from extract.options import at_least
from extract.store import features_file, shards
from extract.store.features_file import Features
from extract.system import atomic, console, machine
from extract.system.console import say, warn
from finetune.export.file_formats import FORMATS
from finetune.train.request import (
    OPTIONS,
    UNFREEZE,
    FinetunedAllOptions,
    FinetunedOptions,
    Request,
    TrainingOptions,
)

# Each command imports what it runs. Keras, scikit-learn and matplotlib take seconds, and --help and
# a wrong option are answered without them.
if TYPE_CHECKING:
    from finetune.compare.comparison import Comparison

SLOWEST = FinetunedAllOptions.model
"""The network that is not trained without a GPU unless it is named."""


def main(words: Sequence[str] | None = None, *, name: str = "") -> None:
    """Read the command line, or other words, and run the command; see `extract.options.parse`."""
    parser = options.Parser(prog="python -m finetune", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_train(commands.add_parser("train", help="train the networks"))
    _add_compare(commands.add_parser("compare", help="compare all results of a data set"))
    _add_export(commands.add_parser("export", help="write a model as one file"))
    chosen = options.parse(parser, commands.choices, words=words, name=name)
    chosen.command(chosen)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train the baseline from scratch, and fine-tune the last block of VGG16, then all of it. "
        "Each network leaves a result in runs/DATA/, and is not trained again while nothing has "
        "changed."
    )
    options.add_data(parser, "a data set that has features, or a features file (.h5)")
    options.add_out(parser, "features/ and runs/")
    options.add_seed(parser, "the initial weights, the order of the photos and the augmentation")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=OPTIONS,
        help=f"the networks to train (default: all; without a GPU all but {SLOWEST}, which starts "
        "from finetuned and trains every layer)",
    )
    options.add_weights(parser)
    _add_schedule_options(parser)
    options.add_balanced(parser)
    parser.add_argument(
        "--batch-norm",
        action="store_true",
        help="baseline: normalise each batch after every convolution",
    )
    parser.add_argument(
        "--unfreeze",
        type=_unfreeze,
        choices=[block for block in UNFREEZE if block != "all"],
        default=FinetunedOptions.unfreeze,
        help="finetuned: the first block of VGG16 that is trained (default %(default)s)",
    )
    parser.add_argument(
        "--variants",
        metavar="N",
        type=at_least(0),
        default=FinetunedOptions.variants,
        help="finetuned: how many variants of each photo have their activations cached: the photo, "
        "its mirror image, then crops in other light. 0 caches none and augments the photos in "
        "each epoch, which is slower (default %(default)s)",
    )
    parser.add_argument("--again", action="store_true", help="train even if nothing has changed")
    parser.set_defaults(command=_train)


def _add_schedule_options(parser: argparse.ArgumentParser) -> None:
    by_rule = "of the last phase (default: a rule decides, by the number of photos)"
    parser.add_argument(
        "--learning-rate",
        metavar="X",
        type=options.positive,
        help=f"highest learning rate {by_rule}",
    )
    parser.add_argument(
        "--epochs", metavar="N", type=at_least(1), help=f"largest number of epochs {by_rule}"
    )
    parser.add_argument(
        "--batch-size", metavar="N", type=at_least(1), help="photos per batch of the last phase"
    )
    parser.add_argument(
        "--label-smoothing",
        metavar="SHARE",
        type=options.share,
        default=TrainingOptions.label_smoothing,
        help="the share of each label that is spread evenly over all classes (default %(default)s)",
    )


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare every result of a data set with every other and write a report to "
        "reports/DATA/. With several data sets, a further report puts them side by side."
    )
    options.add_data(parser, "data sets that have results", nargs="+")
    options.add_out(parser, "features/, runs/ and reports/")
    parser.add_argument(
        "--so-far",
        action="store_true",
        help="say only where the report is, because networks are still to be trained",
    )
    parser.add_argument(
        "--heatmaps",
        choices=["on", "off"],
        default="on",
        help="whether the report shows where the models looked, which takes most of the time; "
        "--so-far leaves it out (default %(default)s)",
    )
    options.add_weights(parser)
    parser.add_argument("--open", action="store_true", help="show the report in the browser")
    parser.set_defaults(command=_compare)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a model as one file that takes photos and gives probabilities. It is "
        "compared with the original first."
    )
    parser.add_argument("run", metavar="MODEL", type=options.path, help="runs/<data>/<model>")
    parser.add_argument("--to", choices=FORMATS, required=True, help="the format of the file")
    options.add_out(parser, "features/")
    options.add_weights(parser)
    parser.add_argument(
        "--photos",
        metavar="FOLDER",
        type=options.path,
        help="photos for the comparison with the original (default: the test photos)",
    )
    parser.set_defaults(command=_export)


def _unfreeze(block: str) -> str:
    if block == "all":
        raise argparse.ArgumentTypeError(
            f"all: a network of its own trains every layer; choose it with --models {SLOWEST}"
        )
    return block


def _train(chosen: argparse.Namespace) -> None:
    with features_file.open_data_set(chosen.data, chosen.out) as features:
        requests = {
            model: Request(
                options.pick(vars(chosen)), chosen.seed, chosen.out, weights_file=chosen.weights
            )
            for model, options in OPTIONS.items()
        }
        trained: dict[str, Any] = {}
        for model in _models(chosen, requests[SLOWEST], features):
            request = requests[model]
            if not chosen.again and request.is_done(features):
                say(f"{request.folder(features)}: nothing to do (--again trains it again)")
                continue
            atomic.make_writable(results.runs_of(features.data, chosen.out), "--out")
            from extract.vgg16 import keras_backend
            from finetune.train import run

            # The backend may not be able to use the GPU of the machine.
            if chosen.models or model != SLOWEST or keras_backend.gpus():
                trained[model] = run.train(features, request)
        if not chosen.models:
            _tell_of_slowest(features, requests[SLOWEST], trained)


def _models(chosen: argparse.Namespace, slowest: Request, features: Features) -> list[str]:
    """Return the networks to train, each after the one that it starts from."""
    if not chosen.models:
        return [model for model in OPTIONS if model != SLOWEST or machine.has_gpu()]
    wanted = set(chosen.models)
    if SLOWEST in wanted and slowest.start(features) is None:
        wanted.add(FinetunedOptions.model)
    return [model for model in OPTIONS if model in wanted]


def _tell_of_slowest(features: Features, request: Request, trained: dict[str, Any]) -> None:
    """Say, if a network was never trained, how to do that and how long it would take.

    The time can be measured only where the network that it starts from was trained just now.
    """
    folder = request.folder(features)
    if SLOWEST in trained or folder in results.folders(folder.parent):
        return
    how = f"train it with --models {SLOWEST} (make finetune MODELS={SLOWEST})"
    start = trained.get(FinetunedOptions.model)
    if start is None:
        say(f"{SLOWEST}: not trained, because there is no GPU; {how}")
        return
    from finetune.train import estimate

    said = estimate.describe(features, start, request.options)
    say(f"{SLOWEST}: not trained, because there is no GPU{said}; {how}")


def _compare(chosen: argparse.Namespace) -> None:
    from finetune.report import overview

    # Two ways to write a data set are one, and what is refused is refused before any is compared.
    data_sets: dict[Path, str] = {}
    for data in chosen.data:
        data_sets.setdefault(features_file.file_of(data, chosen.out), data)
        features_file.open_data_set(data, chosen.out).file.close()
    compare_one = _compare_so_far if chosen.so_far else _compare_one
    found = [compare_one(data, chosen) for data in data_sets.values()]
    written = [page for page, _ in found]
    if len(found) > 1:
        several = [comparison for _, comparison in found]
        written = overview.write_overview(several, chosen.out / "reports")
        Console().print(overview.overview_table(several))
        say(f"all of them: {written[0]}")
    if chosen.open:
        webbrowser.open(written[0].resolve().as_uri())


def _compare_one(data: str, chosen: argparse.Namespace) -> tuple[Path, Comparison]:
    """Compare the results of one data set, write the report and print the table."""
    from finetune.report.terminal import comparison_table

    page, found = _report_one(data, chosen, heat=chosen.heatmaps == "on")
    for sentence in found.refused:
        warn(sentence)
    Console().print(comparison_table(found))
    say(found.verdict)
    say(f"the report: {page}")
    return page, found


def _compare_so_far(data: str, chosen: argparse.Namespace) -> tuple[Path, Comparison]:
    """Compare the results of one data set and write the report, before its networks are trained."""
    page, found = _report_one(data, chosen, heat=False)
    say(f"the report so far: {page}; it is written again after the networks")
    return page, found


def _report_one(data: str, chosen: argparse.Namespace, *, heat: bool) -> tuple[Path, Comparison]:
    from finetune.compare.comparison import compare_data_set
    from finetune.report.files import write_report
    from finetune.report.heatmaps import NO_HEATMAPS, draw

    out: Path = chosen.out
    with features_file.open_data_set(data, out) as features:
        runs = results.runs_of(features.data, out)
        found = compare_data_set(features, runs)
        drawn = NO_HEATMAPS
        if heat:
            drawn = draw(found, runs, cache=shards.cache_of(out), weights_file=chosen.weights)
        page, *_ = write_report(found, out / "reports" / found.features.data, drawn)
    return page, found


def _export(chosen: argparse.Namespace) -> None:
    from finetune.export import model_file

    path, difference = model_file.write(
        results.find(chosen.run, chosen.out),
        to=chosen.to,
        out=chosen.out,
        weights_file=chosen.weights,
        photos=chosen.photos,
    )
    megabytes = path.stat().st_size / 1e6
    say(f"{path}: written, {megabytes:.0f} MB, within {difference:.0e} of the original")


if __name__ == "__main__":
    console.run(main)
