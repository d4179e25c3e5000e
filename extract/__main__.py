"""Photos to features.

VGG16 looks at every distinct photo once. Its pooled activations are published in
features/<data>.h5. No photo is computed twice. The photos may lie behind a URL such as
s3://bucket/photos, and so may the cache.
"""

import signal

if __name__ == "__main__":
    # The imports below take seconds, and Ctrl-C during them deserves no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
from collections.abc import Sequence
from pathlib import Path

from extract import build, options
from extract.photos import datasets
from extract.store import export, features_file, maintenance
from extract.system import console
from extract.vgg16.recipe import MAPS, SIZE, SIZES

DATA = (
    f"{', '.join(datasets.BUILT_IN)}, a folder or URL with one sub-folder per class, or a CSV file "
    "with the columns path and label"
)


def main(words: Sequence[str] | None = None, *, name: str = "") -> None:
    """Read the command line, or other words, and run the command; see `extract.options.parse`."""
    parser = options.Parser(
        prog="python -m extract",
        description=__doc__,
        epilog="python -m extract DATA is short for python -m extract features DATA.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_features(commands.add_parser("features", help="compute what is new, and publish"))
    _add_manifest(commands.add_parser("manifest", help="write photos and labels as a CSV file"))
    _add_export(commands.add_parser("export", help="write features for other programs"))
    _add_info(commands.add_parser("info", help="show what is in a features file"))
    _add_verify(commands.add_parser("verify", help="check every shard and features file"))
    _add_gc(commands.add_parser("gc", help="remove from the cache what no features file needs"))
    chosen = options.parse(parser, commands.choices, default="features", words=words, name=name)
    chosen.command(chosen)


def _add_features(parser: argparse.ArgumentParser) -> None:
    parser.description = "Bring features/<data>.h5 up to date with the photos."
    options.add_data(parser, DATA)
    options.add_out(parser, "features/")
    options.add_seed(parser, "the split")
    options.add_weights(parser)
    _add_background(parser)
    parser.add_argument(
        "--strict", action="store_true", help="treat an unreadable photo as an error"
    )
    parser.add_argument(
        "--rehash", action="store_true", help="read every file, whatever its size and time say"
    )
    parser.add_argument(
        "--allow-conflicts", action="store_true", help="accept the same photo in two classes"
    )
    _add_group_by(parser)
    parser.add_argument(
        "--keep-twins",
        action="store_true",
        help="allow the same picture, stored twice in other sizes or encodings, in two splits",
    )
    options.add_engine(parser)
    options.add_on(parser, "where VGG16 runs")
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=[SIZE],
        metavar="SIZE",
        help=f"sides in pixels of the squares that VGG16 sees: {SIZE} (the default), and others "
        f"that are multiples of 32 from {min(SIZES)} to {max(SIZES)}",
    )
    parser.add_argument(
        "--pairs",
        choices=("auto", "yes", "no"),
        default=build.Options.pairs,
        help="also keep products of pairs of channels, 8 KB more for each photo and size; auto: "
        "unless photos in the cache would have to be computed again (default %(default)s)",
    )
    parser.add_argument(
        "--activations",
        choices=tuple(MAPS),
        help="keep what fine-tuning starts from, from the same pass: block4_pool for --unfreeze "
        "block5, block3_pool for block4",
    )
    options.add_cache(parser, "where the features of every photo are kept (default features/cache)")
    parser.set_defaults(command=_features)


def _features(chosen: argparse.Namespace) -> None:
    build.build(
        chosen.data,
        build.Options(
            out=chosen.out,
            seed=chosen.seed,
            weights=chosen.weights,
            background=chosen.background,
            strict=chosen.strict,
            rehash=chosen.rehash,
            allow_conflicts=chosen.allow_conflicts,
            engine=chosen.engine,
            sizes=chosen.sizes,
            on=chosen.on,
            activations=chosen.activations,
            keep_twins=chosen.keep_twins,
            pairs=chosen.pairs,
            group_by=chosen.group_by,
            cache=chosen.cache,
        ),
    )


def _add_background(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--background", action="store_true", help=f"keep a class named {datasets.BACKGROUND}"
    )


def _add_group_by(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--group-by",
        metavar="PATTERN",
        type=options.group_by,
        default="",
        help="photos of a group stay in one split: a regular expression on the path whose part in "
        "brackets names the group, or the word folder for sub-folders of the classes",
    )


def _add_manifest(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the path, label and split of every photo as a CSV file, which can be edited and "
        "given as DATA."
    )
    options.add_data(parser, DATA)
    parser.add_argument(
        "--to",
        metavar="FILE",
        type=options.path,
        default=Path("labels.csv"),
        help="the file to write, which must not exist (default %(default)s)",
    )
    _add_background(parser)
    _add_group_by(parser)
    parser.set_defaults(command=_manifest)


def _manifest(chosen: argparse.Namespace) -> None:
    build.write_manifest(
        chosen.data, chosen.to, background=chosen.background, group_by=chosen.group_by
    )


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the features of a data set with path, label, split and digest of every photo."
    )
    options.add_data(parser, "a data set that has features, or a features file (.h5)")
    parser.add_argument("--to", choices=export.FORMATS, required=True, help="the format")
    parser.add_argument(
        "--taps", nargs="+", metavar="TAP", help="which taps to write (default: all of them)"
    )
    parser.add_argument(
        "--file",
        metavar="PATH",
        type=options.path,
        help="the file to write, for npy the folder (default: beside the features file)",
    )
    options.add_out(parser, "features/")
    parser.set_defaults(command=_export)


def _export(chosen: argparse.Namespace) -> None:
    with features_file.open_data_set(chosen.data, chosen.out) as features:
        ending = "-npy" if chosen.to == "npy" else f".{chosen.to}"
        beside = features_file.path_of(features.data, chosen.out).parent
        target = chosen.file or beside / f"{features.data}{ending}"
        export.export(features, chosen.to, chosen.taps or [*features.taps], target)
        photos = console.count(len(features.paths), "photo")
        console.say(f"{target}: {photos} of {features.data}")


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show what is in a features file."
    parser.add_argument("file", metavar="FILE", type=options.path, help="features/<data>.h5")
    parser.set_defaults(command=lambda chosen: maintenance.info(chosen.file))


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Read every shard and every features file and check them. A damaged shard is set aside."
    )
    options.add_out(parser, "features/")
    options.add_cache(parser, "another cache to check")
    parser.set_defaults(command=lambda chosen: maintenance.verify(chosen.out, chosen.cache))


def _add_gc(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Remove from the cache the images that no features file names, and join small shards."
    )
    options.add_out(parser, "features/")
    parser.set_defaults(command=lambda chosen: maintenance.collect(chosen.out))


if __name__ == "__main__":
    console.run(main)
