"""The commands that make a comparison again, from what its results recorded."""

import re
import shlex
from collections.abc import Sequence

from extract.system.console import as_started
from extract.vgg16.recipe import SIZE, SIZES, named
from finetune.compare.comparison import Comparison
from finetune.compare.records import ModelRecord


def commands(comparison: Comparison) -> list[str]:
    """Return the commands that make the features, the models and the comparison again.

    Whether heads were trained with ``--balanced`` is not recorded, so the commands lack it.
    """
    features = comparison.features
    data = quoted(features.data)
    seed = features.attributes.get("seed", 0)
    further = [str(n) for n in SIZES[1:] if named("seconds", n) in features.attributes]
    sizes = f" --sizes {SIZE} {' '.join(further)}" if further else ""
    lines = [f"python -m extract features {data} --seed {seed}{sizes}"]
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
    if name.isprintable():
        return shlex.quote(name)
    return "$'" + "".join(map(_escaped, name)) + "'"


def _escaped(character: str) -> str:
    if character.isprintable() and character not in "'\\":
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode())


def _options(model: ModelRecord) -> str:
    words = [model.result.model, "--seed", str(model.result.seed)]
    asked = model.result.hyperparameters.get("asked", {})
    for option, value in asked.items() if isinstance(asked, dict) else ():
        if value is None or value is False:
            continue
        words.append(f"--{option.replace('_', '-')}")
        words += [] if value is True else _words(value)
    return shlex.join(words)


def _words(value: object) -> Sequence[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
