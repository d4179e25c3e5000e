"""The verdict: which model to use, and why."""

from collections.abc import Sequence

import numpy as np

from extract.system.console import count
from finetune.compare.formats import alternatives, duration, interval, percent
from finetune.compare.records import ModelRecord
from finetune.compare.significance import LEVEL, PairedTest

TEST = "McNemar's exact test with Holm's correction"

MAX_COST_RATIO = 2
"""A model may cost up to this many times the cheapest if their difference may be chance."""


def verdict(models: Sequence[ModelRecord], tests: Sequence[PairedTest]) -> str:
    """Say in a few sentences which model to use and why.

    If several models do not differ significantly from the most accurate one, the choice is the most
    accurate of those that cost at most twice the time of the cheapest.

    Parameters
    ----------
    models : sequence of ModelRecord
        Best first, see `records.read_records`.
    tests : sequence of PairedTest
        Of every two models.
    """
    best = models[0]
    guess = float(np.bincount(best.predictions.labels).max() / len(best.correct))
    if best.accuracy_interval[0] <= guess:
        return _no_better_than_guessing(best, guess)
    if len(models) == 1:
        return f"{best.name} is the only model. Its {_accuracy(best)}, and it {_cost(best)}."
    p_values = {test.second: test.p_holm for test in tests if test.first == best.name}
    rivals = {name: p for name, p in p_values.items() if p > LEVEL}
    if not rivals:
        return (
            f"Use {best.name}. It is the most accurate model, and it differs significantly from "
            f"every other model ({TEST}, largest p = {max(p_values.values()):.2g}). "
            f"Its {_accuracy(best)}, and it {_cost(best)}."
        )
    contenders = [best, *(model for model in models if model.name in rivals)]
    limit = MAX_COST_RATIO * min(model.total_seconds for model in contenders)
    chosen = next(model for model in contenders if model.total_seconds <= limit)
    if chosen is best:
        return (
            f"No model is clearly the best. Use {best.name}: it ranks first, its "
            f"{_accuracy(best)}, and it {_cost(best)}. On {_test_photos(best)} it does not differ "
            f"significantly from {alternatives(list(rivals))} ({TEST}, smallest "
            f"p = {min(rivals.values()):.2g}), but none of them takes less than half as long."
        )
    return (
        f"No model is clearly the best. Use {chosen.name}: its accuracy is "
        f"{percent(chosen.accuracy)}, and it {_cost(chosen)}. {best.name} ranks first: its "
        f"{_accuracy(best)}, but it {_cost(best)}, and on {_test_photos(best)} the two do not "
        f"differ significantly ({TEST}, p = {rivals[chosen.name]:.2g})."
    )


def _no_better_than_guessing(best: ModelRecord, guess: float) -> str:
    return (
        f"Do not use any of these models yet. {best.name} ranks first, and its {_accuracy(best)}. "
        f"On {_test_photos(best)} that cannot be told apart from always predicting the most "
        f"frequent class, which is correct for {percent(guess)}."
    )


def _accuracy(model: ModelRecord) -> str:
    bounds = interval(model.accuracy_interval)
    return f"accuracy is {percent(model.accuracy)} (95% interval {bounds})"


def _cost(model: ModelRecord) -> str:
    return f"took {duration(model.total_seconds)}"


def _test_photos(model: ModelRecord) -> str:
    return count(len(model.correct), "test photo")
