"""One command for every step: ``onepass all photos``.

Each command is one of ``extract``, ``classify`` or ``finetune``, and has the name that it has in
``make``.
"""

import signal

if __name__ == "__main__":
    # The imports below take a moment, and Ctrl-C during them deserves no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import importlib
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from extract import options
from extract.system import console
from extract.system.console import InputError, say


class Command(NamedTuple):
    """What a command calls.

    Attributes
    ----------
    package : str
        The package whose command line has it.
    name : str
        Its name there.
    what : str
        What it does, in a few words.
    """

    package: str
    name: str
    what: str


STEPS = {
    "features": Command("extract", "features", "let VGG16 see every photo once"),
    "heads": Command("classify", "train", "train logistic regression, an SVM and an MLP"),
    "finetune": Command("finetune", "train", "train a small network, and fine-tune VGG16"),
    "compare": Command("finetune", "compare", "write one page that compares all models"),
}

USES = {
    "predict": Command("classify", "predict", "print the classes of new photos"),
    "sort": Command("classify", "sort", "sort new photos into a folder for each class"),
    "serve": Command("classify", "serve", "open a page to try a model on"),
    "label": Command("classify", "label", "open a page to correct labels, and to add some"),
    "export": Command("finetune", "export", "write a model as one file for other programs"),
}

OTHERS = {
    "manifest": Command("extract", "manifest", "write photos and labels as a CSV file"),
    "table": Command("extract", "export", "write features as CSV, NumPy or Parquet"),
    "info": Command("extract", "info", "show what is in a features file"),
    "verify": Command("extract", "verify", "check every shard and features file"),
    "gc": Command("extract", "gc", "remove features that nothing needs"),
}

COMMANDS = STEPS | USES | OTHERS

ALL = "features, heads, compare, finetune and compare again, in this order"


def main() -> None:
    """Run the command that the first word names."""
    os.environ[console.STARTED_AS] = "onepass"
    word, *words = sys.argv[1:] or ["--help"]
    if word in ("-h", "--help"):
        print(_help())
    elif word == "--version":
        print(_version())
    elif word == "all":
        _all(words)
    elif word in COMMANDS:
        _with_features(word, words)
    else:
        near = get_close_matches(word, ["all", *COMMANDS], 1)
        meant = f"did you mean onepass {near[0]}? " if near else ""
        raise InputError(f"{word}: no such command; {meant}onepass --help lists them")


def _all(words: Sequence[str]) -> None:
    parser = options.Parser(prog="onepass all", description=f"Run {ALL}.")
    options.add_data(parser, "a folder of class folders, a built-in data set, or a CSV file")
    options.add_out(parser, "features/, runs/ and reports/")
    options.add_seed(parser, "the split and of everything random in training")
    parser.add_argument(
        "--group-by",
        metavar="PATTERN",
        type=options.group_by,
        default="",
        help="as for onepass features",
    )
    given = parser.parse_args(words)
    out, seed = ["--out", str(given.out)], ["--seed", str(given.seed)]
    groups = ["--group-by", given.group_by] if given.group_by else []
    data = ["--", given.data]
    from extract.engines import selection

    if not selection.has_keras():
        _run("features", [*out, *seed, *groups, *data])
        _run("heads", [*out, *seed, *data])
        _run("compare", [*out, *data])
        say("no network was trained: pip install 'onepass[cpu]' installs what they need")
        return
    # What fine-tuning starts from is kept from VGG16's only pass.
    _run("features", [*out, *seed, *groups, "--activations", "block4_pool", *data])
    _run("heads", [*out, *seed, *data])
    # The page does not wait for the networks, which take longest.
    _run("compare", [*out, "--so-far", *data])
    _run("finetune", [*out, *seed, *data])
    _run("compare", [*out, *data])


def _with_features(word: str, words: Sequence[str]) -> None:
    """Run a command, after the features that it needs and that are not there."""
    from extract.store.features_file import NoFeatures

    try:
        _run(word, words)
    except NoFeatures as missing:
        if word not in ("heads", "finetune", "label") or missing.data is None:
            raise
        say(f"{missing.data} has no features yet, so onepass features comes first")
        _run("features", ["--out", str(missing.out), "--", missing.data])
        _run(word, words)


def _run(word: str, words: Sequence[str]) -> None:
    command = COMMANDS[word]
    # Each of them imports what the others do without.
    module = importlib.import_module(f"{command.package}.__main__")
    module.main([command.name, *words], name=f"onepass {word}")


def _help() -> str:
    lines = ["usage: onepass COMMAND ...", "", "From photos to a comparison of classifiers.", ""]
    lines += [_line("all", ALL), ""]
    for group in (STEPS, USES, OTHERS):
        lines += [_line(word, command.what) for word, command in group.items()]
        lines.append("")
    return "\n".join([*lines, "onepass COMMAND --help lists the options of a command."])


def _line(word: str, what: str) -> str:
    return f"  {word:10} {what}"


def _version() -> str:
    try:
        return f"onepass {version('onepass')}"
    except PackageNotFoundError:
        return "onepass, from a checkout that is not installed"


def start() -> None:
    """Run the command line; the entry point of the installed program."""
    console.run(main)


if __name__ == "__main__":
    start()
