"""The command line of `classify`: train heads, and use what was trained.

``python -m classify chess`` is short for ``python -m classify train chess``.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # The imports below take seconds, and Ctrl-C during them deserves no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classify import HEADS
from classify.novelty import KEEP
from classify.serving import HOST, PORT, UNSURE
from classify.sorting import record
from extract import options
from extract.system import console

# Each command imports what it runs. scikit-learn takes seconds, and --help, a wrong option and a
# missing model are answered without it.
if TYPE_CHECKING:
    from classify.serving import neighbours
    from classify.serving.model import Model
    from extract.compute.cached_vgg16 import CachedVGG16


def main(words: Sequence[str] | None = None, *, name: str = "") -> None:
    """Read the command line, or other words, and run the command; see `extract.options.parse`."""
    parser = options.Parser(
        prog="python -m classify",
        description="Train classifiers (heads) on the features of a data set, and use them. "
        "The word train may be left out: python -m classify DATA.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_train(commands)
    _add_predict(commands)
    _add_sort(commands)
    _add_serve(commands)
    _add_label(commands)
    chosen = options.parse(parser, commands.choices, default="train", words=words, name=name)
    chosen.command(chosen)


def _add_train(commands: Any) -> None:
    description = (
        "Choose, fit and test each head on cached features, and leave a result in "
        "runs/<data>/<head>/. With --protocol or --learning-curve, heads are measured over many "
        "random splits instead, and the figures are left in runs/<data>/."
    )
    parser = commands.add_parser(
        "train", help="train heads on the features of a data set", description=description
    )
    options.add_data(parser, "a data set that has features, or a features file (.h5)")
    options.add_out(parser, "features/ and runs/")
    options.add_seed(parser, "cross-validation, the MLP and random splits")
    parser.add_argument(
        "--heads",
        metavar="HEAD",
        nargs="+",
        choices=HEADS,
        default=[*HEADS],
        help=f"the heads to train (default: {', '.join(HEADS)})",
    )
    options.add_balanced(parser)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--protocol", choices=["per-class"], help="measure on repeated random splits of all photos"
    )
    instead.add_argument(
        "--learning-curve",
        action="store_true",
        help="measure accuracy against the number of training photos per class",
    )
    for name, default, what in (
        ("--train", 30, "training photos per class, for --protocol"),
        ("--test", 50, "test photos per class at most, for --protocol"),
        ("--repeats", 10, "random splits, for --protocol and --learning-curve"),
    ):
        parser.add_argument(
            name,
            metavar="N",
            type=options.at_least(1),
            default=default,
            help=f"{what} (default %(default)s)",
        )
    options.add_on(parser, "train on all machines of a cluster")
    parser.set_defaults(command=_train)


def _train(given: argparse.Namespace) -> None:
    from classify import protocols, ray_backend, results, train
    from extract.store import features_file
    from extract.system import atomic

    with (
        features_file.open_data_set(given.data, given.out) as features,
        ray_backend.parallel_on(given.on),
    ):
        atomic.make_writable(results.runs_of(features.data, given.out), "--out")
        measurement = protocols.Measurement(given.heads, given.repeats, given.seed, given.balanced)
        if given.protocol:
            protocols.report_per_class(
                features, measurement, train=given.train, test=given.test, out=given.out
            )
        elif given.learning_curve:
            protocols.report_learning_curve(features, measurement, out=given.out)
        else:
            train.train_heads(
                features, given.heads, out=given.out, seed=given.seed, balanced=given.balanced
            )


def _add_predict(commands: Any) -> None:
    description = "Print the classes of new photos, as a trained model sees them."
    parser = commands.add_parser(
        "predict", help="print the classes of new photos", description=description
    )
    _add_model(parser)
    parser.add_argument(
        "photos",
        metavar="PHOTO",
        nargs="+",
        type=options.local,
        help="a photo, a folder, or - for a photo on standard input",
    )
    parser.add_argument(
        "--top",
        metavar="N",
        type=options.at_least(1),
        default=5,
        help="how many classes to print per photo (default %(default)s)",
    )
    parser.add_argument(
        "--heatmaps",
        metavar="FOLDER",
        type=options.path,
        help="also show where in each photo the model found its class: write a picture for each "
        "photo, and heatmaps.csv, into a folder that is new or empty",
    )
    write = parser.add_mutually_exclusive_group()
    for form, what in (("json", "print one JSON object"), ("csv", "print CSV")):
        write.add_argument(f"--{form}", dest="form", action="store_const", const=form, help=what)
    parser.set_defaults(command=_predict, form="text")


def _predict(given: argparse.Namespace) -> None:
    run = _run(given)
    from classify.serving import answer_formats, predict

    predict.predict_photos(
        run,
        given.photos,
        write=partial(answer_formats.WRITE[given.form], top=given.top),
        unsure=given.unsure,
        keep=_keep(given),
        heatmaps=given.heatmaps,
        **_vgg16(given, run),
    )


def _add_sort(commands: Any) -> None:
    description = (
        "Sort photos into a folder for each class, as a trained model sees them. Those that it is "
        "not sure of go into unsure/, and those that are none of its classes into none/. Without "
        "--how, only say what would happen."
    )
    parser = commands.add_parser(
        "sort", help="sort new photos into a folder for each class", description=description
    )
    _add_model(parser)
    parser.add_argument(
        "photos", metavar="PHOTO", nargs="+", type=options.local, help="a photo or a folder"
    )
    parser.add_argument(
        "--to", metavar="FOLDER", type=options.path, required=True, help="the folder to sort into"
    )
    parser.add_argument(
        "--how", choices=record.HOW, default="", help="do it: link, copy or move the photos"
    )
    parser.add_argument(
        "--undo",
        metavar="FILE",
        type=options.path,
        action=_Undo,
        help=f"undo a sort, whose record is {record.NAME} in its folder; needs nothing else",
    )
    parser.set_defaults(command=_sort)


class _Undo(argparse.Action):
    """Undo a sort at once, as ``--help`` helps: the arguments of a sort are not needed for it."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        from classify.sorting import sort

        sort.undo(given[1])
        parser.exit()


def _sort(given: argparse.Namespace) -> None:
    run = _run(given)
    from classify.sorting import sort

    wanted = sort.Wanted(given.to, given.how, given.unsure, _keep(given))
    sort.sort_photos(run, given.photos, wanted, **_vgg16(given, run))


def _add_serve(commands: Any) -> None:
    description = "Open a web page on this machine, on which photos can be dropped."
    parser = commands.add_parser(
        "serve", help="open a web page to try a model on", description=description
    )
    _add_model(parser, nargs="?")
    parser.add_argument("--model", metavar="MODEL", type=options.path, help="the same as MODEL")
    _add_address(parser)
    parser.set_defaults(command=_serve)


def _add_address(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that say where its page is."""
    parser.add_argument(
        "--host",
        default=HOST,
        help="the address to listen on (default %(default)s, this machine only)",
    )
    parser.add_argument(
        "--port",
        type=options.port,
        default=PORT,
        help="the port to listen on (default %(default)s)",
    )


def _serve(given: argparse.Namespace) -> None:
    if (given.run is None) == (given.model is None):
        raise console.InputError("give one model, as MODEL or --model, such as runs/chess/svm")
    given.run = given.run or given.model
    run = _run(given)
    from classify import results
    from classify.serving import model, server, web

    server.check_address(given.host, given.port)
    about_vgg16 = _vgg16(given, run)
    loaded = model.load_model(run, **about_vgg16)
    vgg16 = _of_224(loaded, about_vgg16)
    training = _training(loaded, vgg16, results.out_of(run), given.out)
    keep = _keep(given)
    if keep is not None:
        model.warn_without_novelty(run, loaded)
    app = web.application(loaded, vgg16, training, unsure=given.unsure, keep=keep, host=given.host)
    photos = console.count(len(training.paths) if training else 0, "training photo")
    listening = server.Server(app, host=given.host, port=given.port)
    told = f"{run}: {{url}}, compared with {photos}; stop it with Ctrl-C"
    server.serve(listening, given.host, told)


def _add_label(commands: Any) -> None:
    description = (
        "Open a web page on this machine that asks for labels, one photo after the other: labels "
        "that the head contradicts, near-duplicates with different labels, and photos of a pool "
        "without labels that would teach the head most. Every answer is kept in a manifest. "
        "Photos are never changed."
    )
    parser = commands.add_parser(
        "label", help="open a web page to correct and add labels", description=description
    )
    options.add_data(parser, "a data set that has features, or a features file (.h5)")
    options.add_out(parser, "features/ and labels/")
    parser.add_argument(
        "--pool",
        metavar="FOLDER",
        type=options.path,
        help="a folder of photos without labels; their features are computed first",
    )
    parser.add_argument(
        "--to",
        metavar="FILE.csv",
        type=options.path,
        help="the manifest of the answers (default: DATA itself if it is one with the columns "
        "answer and time, otherwise labels/<data>-labels.csv)",
    )
    parser.add_argument(
        "--include-test",
        action="store_true",
        help="ask for photos of the test split too; what is measured on them then flatters",
    )
    _add_address(parser)
    options.add_weights(parser)
    options.add_engine(parser)
    parser.set_defaults(command=_label)


def _label(given: argparse.Namespace) -> None:
    from classify.labeling import album, answers, command, facts, session, web
    from classify.serving import server
    from extract.compute.cached_vgg16 import CachedVGG16
    from extract.store import features_file

    server.check_address(given.host, given.port)
    with features_file.open_data_set(given.data, given.out) as features:
        file = command.file_of_answers(features, given.out, given.to)
        with answers.opened(file, [*album.lines_of(features).values()]) as opened:
            vgg16 = partial(CachedVGG16, **_vgg16(given))
            photos = command.photos(features, given.pool, vgg16, include_test=given.include_test)
            running = session.Session(photos, opened)
            anew = command.command(file, given.out)
            app = web.application(
                running, command=anew, done=lambda: listening.shutdown(), host=given.host
            )
            listening = server.Server(app, host=given.host, port=given.port)
            said = f"{features.data}: {{url}}; answers go to {file}; stop it with q or Ctrl-C"
            server.serve(listening, given.host, said)
            console.say(facts.summary(running))
            console.say(f"{file}: make everything anew with {anew}")


def _of_224(loaded: Model, given: dict[str, Any]) -> CachedVGG16:
    """Return VGG16 at the size at which similar photos are found."""
    from extract.compute.cached_vgg16 import CachedVGG16
    from extract.vgg16.recipe import SIZE

    of_model = next(iter(loaded.vgg16.values()), None)
    if of_model is None:
        return CachedVGG16(**given)
    return loaded.vgg16.get(SIZE) or of_model.of_size(SIZE)


def _training(
    loaded: Model, vgg16: CachedVGG16, *outs: Path | None
) -> neighbours.TrainingPhotos | None:
    """Return the training photos of a model, or say why there are none."""
    from classify.serving import neighbours
    from extract.store import features_file

    result = loaded.result
    files = [features_file.path_of(result.data, out) for out in outs if out]
    file = next((file for file in files if file.exists()), files[0])
    try:
        return neighbours.training_photos(file, result, weights_digest=vgg16.weights.digest)
    except console.InputError as error:
        console.warn(f"no similar photos are shown: {error}")
        return None


def _add_model(parser: argparse.ArgumentParser, *, nargs: str | None = None) -> None:
    """Give a command the options that say which model is used, and how."""
    parser.add_argument(
        "run",
        metavar="MODEL",
        type=options.path,
        nargs=nargs,
        help="the folder of a result, runs/<data>/<model>, of this or another OUT: a head or a "
        "network",
    )
    parser.add_argument(
        "--data",
        type=options.data_set,
        help="a data set; MODEL may then be the name of one of its models, such as svm",
    )
    options.add_out(parser, "features/")
    parser.add_argument(
        "--unsure",
        metavar="P",
        type=options.probability,
        default=UNSURE,
        help="the probability below which a photo is called unsure (default %(default)s)",
    )
    parser.add_argument(
        "--keep",
        metavar="P",
        type=options.probability,
        default=KEEP,
        help="the share of photos of the known classes that are not called none of these "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--none",
        choices=["on", "off"],
        default="on",
        help="whether a photo may be called none of these (default %(default)s)",
    )
    options.add_weights(parser)
    options.add_engine(parser)


def _keep(given: argparse.Namespace) -> float | None:
    """Return the share of known photos to keep; None if no photo is called none of these."""
    keep: float = given.keep
    return None if given.none == "off" else keep


def _run(given: argparse.Namespace) -> Path:
    """Return the folder of the result that the options of `_add_model` name."""
    from classify import results
    from extract.store import features_file

    name = "" if given.data is None else features_file.name_of(given.data)
    if name and features_file.file_of(given.data, given.out).exists():
        with features_file.open_data_set(given.data, given.out) as features:
            name = features.data
    return results.find(given.run, given.out, name)


def _vgg16(given: argparse.Namespace, run: Path | None = None) -> dict[str, Any]:
    """Return the options of `_add_model` that are about VGG16.

    A result may be used from anywhere, so its own cache comes before the download of weights.
    """
    from classify import results
    from extract.store import shards

    caches = [shards.cache_of(out) for out in (given.out, run and results.out_of(run)) if out]
    return {
        "cache": next((cache for cache in caches if cache.exists()), caches[0]),
        "weights_file": given.weights,
        "engine": given.engine,
    }


if __name__ == "__main__":
    console.run(main)
