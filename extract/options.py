"""The command line: its parser, and the options that several commands share, each defined once."""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from extract.engines.base import ENGINES
from extract.system import console, locations
from extract.system.console import InputError

LARGEST_SEED = 2**32 - 1
"""The largest seed that NumPy's generators accept."""


class Parser(argparse.ArgumentParser):
    """A parser that answers a wrong command line with one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where to find help, then exit."""
        if message.startswith("unrecognized arguments: ") and ": -" not in message:
            message += "; a path that contains spaces needs quotes"
        line = console.one_line(f"error: {message}; see {self.prog} --help")
        self.exit(console.UNUSABLE, f"{line}\n")


def parse(
    parser: Parser,
    commands: Mapping[str, Any],
    *,
    default: str | None = None,
    words: Sequence[str] | None = None,
    name: str = "",
) -> argparse.Namespace:
    """Read the command line.

    Parameters
    ----------
    parser : Parser
        Each of its sub-parsers sets the default ``command``, a function of the parsed options.
    commands : mapping of str to sub-parser
        The sub-parsers by name: ``choices`` of the object that `add_subparsers` returned.
    default : str or None
        The command to run if the first word does not name one: ``python -m extract chess`` is
        short for ``python -m extract features chess``. A data set with the name of a command is
        written ``./verify``.
    words : sequence of str or None
        The words of the command line; None reads those that the program was started with.
    name : str
        How the user calls the command that comes first in `words`, if it has another name.
    """
    words = sys.argv[1:] if words is None else [*words]
    if name:
        commands[words[0]].prog = name
    if default and words and words[0] not in {*commands, "-h", "--help"}:
        words = [default, *words]
    return parser.parse_args(words)


def data_set(text: str) -> str:
    """Read the name, path or URL of a data set, see `extract.system.locations.typed`."""
    try:
        return locations.typed(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def local(text: str) -> str:
    """Read a path on this machine and keep it as it was written."""
    given = data_set(text)
    if locations.is_url(given):
        raise argparse.ArgumentTypeError(f"{text} is a URL, and a path on this machine is needed")
    return given


def path(text: str) -> Path:
    """Read a path on this machine."""
    return Path(local(text))


def location(text: str) -> locations.Location:
    """Read the path or URL of a folder."""
    return locations.location(data_set(text))


def at_least(smallest: int, largest: float = float("inf")) -> Callable[[str], int]:
    """Return a function that reads a whole number and refuses one out of range."""

    def whole_number(text: str) -> int:
        number = int(text)
        if number < smallest:
            raise argparse.ArgumentTypeError(f"{text} is less than {smallest}")
        if number > largest:
            raise argparse.ArgumentTypeError(f"{text} is more than {largest}")
        return number

    return whole_number


def port(text: str) -> int:
    """Read a network port, 1 to 65535."""
    return at_least(1, 65535)(text)


def share(text: str) -> float:
    """Read a share: at least 0 and less than 1."""
    number = float(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0 and less than 1")
    return number


def probability(text: str) -> float:
    """Read a probability, 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def positive(text: str) -> float:
    """Read a finite number greater than 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number greater than 0")
    return number


def group_by(text: str) -> str:
    """Read how paths name groups, see `extract.photos.scan.grouped`."""
    if text in ("", "folder"):
        return text
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text} is no regular expression ({error})") from error
    if groups != 1:
        raise argparse.ArgumentTypeError(
            f"{text} has {groups} groups in brackets, and the one that names the group of a photo "
            "is needed, as in '([^/]+)/[^/]+$'"
        )
    return text


def add_data(parser: argparse.ArgumentParser, description: str, **more: Any) -> None:
    """Give a command the data set it works on."""
    parser.add_argument("data", metavar="DATA", type=data_set, help=description, **more)


def add_out(parser: argparse.ArgumentParser, holds: str) -> None:
    """Give a command the option for the folder that has `holds`, such as ``features/``."""
    parser.add_argument(
        "--out", metavar="FOLDER", type=path, default=Path(), help=f"the folder that has {holds}"
    )


def add_seed(parser: argparse.ArgumentParser, what: str) -> None:
    """Give a command the option for the seed of `what`, which is drawn at random."""
    parser.add_argument(
        "--seed",
        type=at_least(0, LARGEST_SEED),
        default=0,
        help=f"the seed of {what} (default %(default)s)",
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Give a command the option that names a file of VGG16's weights."""
    parser.add_argument(
        "--weights",
        metavar="FILE",
        type=path,
        help="a file with VGG16's weights, Keras's or ONNX (default: the published ones)",
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Give a command the option that chooses what runs VGG16."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="the library that runs VGG16 (default %(default)s: the fastest one here)",
    )


def add_on(parser: argparse.ArgumentParser, what: str) -> None:
    """Give a command the option that names a cluster."""
    parser.add_argument(
        "--on",
        metavar="CLUSTER",
        help=f"{what}: ray, the cluster that this machine is in, or ray://HOST:PORT",
    )


def add_cache(parser: argparse.ArgumentParser, what: str) -> None:
    """Give a command the option that names a cache, which several machines may share."""
    parser.add_argument("--cache", metavar="FOLDER|URL", type=location, help=what)


def add_balanced(parser: argparse.ArgumentParser) -> None:
    """Give a command the option that gives all classes the same weight."""
    parser.add_argument(
        "--balanced",
        action="store_true",
        help="give every class the same weight, whether it has few photos or many",
    )
