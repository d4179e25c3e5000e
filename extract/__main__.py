"""Photos to features: ``python -m extract chess``.

VGG16 looks at every distinct photo once; its pooled activations are published in
``features/<data>.h5``, and a photo that was ever seen is not computed again. Photos may be behind a
URL, ``s3://bucket/photos``, and what VGG16 saw be kept at another, ``--cache``. Beside it:
``python -m extract info FILE`` tells what is in a features file, ``python -m extract verify``
checks the whole store, ``python -m extract gc`` removes from the cache what no features file needs.
"""

import argparse
import sys
from pathlib import Path

from extract import console, datasets, features, ray_cluster, remote, upkeep
from extract.engines import ENGINES
from extract.recipe import SIZE, SIZES


def main() -> None:
    """Read the command line and do what it says."""
    # A data set that is called like a command is given as ./verify.
    command = COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if command is None:
        _features(sys.argv[1:])
    else:
        command(sys.argv[2:])


def _features(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m extract",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(datasets.BUILT_IN)
    parser.add_argument("data", help=f"{names}, or a folder or URL with one sub-folder per class")
    console.add_out(parser, "features/")
    console.add_seed(parser, "the split")
    parser.add_argument("--weights", type=Path, help="VGG16's weights: Keras's file or ONNX")
    parser.add_argument(
        "--background", action="store_true", help=f"keep a class named {datasets.BACKGROUND}"
    )
    parser.add_argument(
        "--strict", action="store_true", help="take an unreadable photo for an error"
    )
    parser.add_argument(
        "--rehash", action="store_true", help="read every file, whatever its size and time say"
    )
    parser.add_argument(
        "--allow-conflicts", action="store_true", help="accept the same photo in two classes"
    )
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="what runs VGG16")
    ray_cluster.add_on(parser, "where VGG16 runs")
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=[SIZE],
        metavar="SIZE",
        help=f"of the squares that VGG16 is shown of each photo: {SIZE}, which is the default, and "
        f"others that are multiples of 32 from {min(SIZES)} to {max(SIZES)}",
    )
    _add_cache(parser, "where the features of every photo are kept, by default in features/cache")
    options = parser.parse_args(arguments)
    features.make(
        options.data,
        out=options.out,
        seed=options.seed,
        weights_file=options.weights,
        background=options.background,
        strict=options.strict,
        rehash=options.rehash,
        allow_conflicts=options.allow_conflicts,
        engine=options.engine,
        sizes=options.sizes,
        on=options.on,
        cache=options.cache,
    )


def _info(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m extract info", description="Tell what is in a features file."
    )
    parser.add_argument("file", type=Path, help="features/<data>.h5")
    upkeep.info(parser.parse_args(arguments).file)


def _verify(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m extract verify",
        description="Read every shard and every features file and check them; "
        "a damaged shard is set aside.",
    )
    console.add_out(parser, "features/")
    _add_cache(parser, "another cache to check")
    options = parser.parse_args(arguments)
    upkeep.verify(options.out, options.cache)


def _gc(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m extract gc",
        description="Remove from the cache the images that no features file names, "
        "and join small shards.",
    )
    console.add_out(parser, "features/")
    upkeep.collect(parser.parse_args(arguments).out)


def _add_cache(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--cache", type=remote.location, metavar="FOLDER|URL", help=f"{what}; may be shared"
    )


COMMANDS = {"info": _info, "verify": _verify, "gc": _gc}

if __name__ == "__main__":
    console.run(main)
