"""The commands that make a comparison again, from what its results recorded."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

from extract.system.console import as_started
from extract.vgg16.recipe import SIZE, SIZES, named
from finetune.compare.comparison import Comparison
from finetune.compare.records import ModelRecord


def commands(comparison: Comparison) -> list[str]:
    """Return the commands that make the features, the models and the comparison again.

    Features and heads of an older version do not record all options, so the commands lack these.
    """
    features = comparison.features
    data = quoted(features.data)
    seed = features.attributes.get("seed", 0)
    further = [str(n) for n in SIZES[1:] if named("seconds", n) in features.attributes]
    sizes = f" --sizes {SIZE} {' '.join(further)}" if further else ""
    pairs = "" if features.has_pairs else " --pairs no"
    asked = _asked(features.asked)
    lines = [f"python -m extract features {data} --seed {seed}{sizes}{pairs}{asked}"]
    for model in sorted(comparison.models, key=lambda model: (model.result.stage, model.name)):
        if model.result.stage == "head":
            lines.append(f"python -m classify train {data} --heads {_options(model)}")
        else:
            lines.append(f"python -m finetune train {data} --models {_options(model)}")
    return [as_started(line) for line in [*lines, f"python -m finetune compare {data}"]]


def quoted(name: str) -> str:
    """Quote the name of a data set for a shell, on one line."""
    if not re.match(r"\w", name):
        name = f"./{name}"  # Otherwise it could be taken for an option, or for a user's home.
    return _shell_word(name)


def _shell_word(word: str) -> str:
    """Quote a word for a shell, on one line."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_escaped, word)) + "'"


def _escaped(character: str) -> str:
    if character.isprintable() and character not in "'\\":
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode())


def _options(model: ModelRecord) -> str:
    result = model.result
    asked = result.asked or result.hyperparameters.get("asked", {})
    return f"{result.model} --seed {result.seed}{_asked(asked)}"


def _asked(options: Any) -> str:
    """Return recorded options as a shell reads them, each after a space."""
    words = []
    for option, value in options.items() if isinstance(options, dict) else ():
        if value is None or value is False:
            continue
        words.append(f"--{option.replace('_', '-')}")
        words += [] if value is True else _words(value)
    return "".join(f" {_shell_word(word)}" for word in words)


def _words(value: object) -> Sequence[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
