"""The verdict: which model to use, and why."""

from collections.abc import Sequence

import numpy as np

from classify.results import LEVEL
from extract.system.console import count
from finetune.compare.number_formats import alternatives, duration, interval, percent
from finetune.compare.records import ModelRecord
from finetune.compare.significance import PairedTest

TEST = "McNemar's exact test with Holm's correction"


def verdict(models: Sequence[ModelRecord], tests: Sequence[PairedTest]) -> str:
    """Say in a few sentences which model to use and why.

    If several models do not differ significantly from the most accurate one, the choice is the most
    accurate of those that need the least work, see `_work`. It does not depend on seconds, which
    differ from run to run.

    Parameters
    ----------
    models : sequence of ModelRecord
        Best first, see `fairness.alike`.
    tests : sequence of PairedTest
        One test for every two models.
    """
    best = models[0]
    guess = float(np.bincount(best.predictions.labels).max() / len(best.correct))
    if best.accuracy_interval[0] <= guess:
        return (
            f"No model can be recommended yet. The best is {best.name}, with an {_accuracy(best)}. "
            f"On {_test_photos(best)}, that cannot be told apart from the {percent(guess)} of "
            "always predicting the most frequent class."
        )
    outcome = f"an {_accuracy(best)} and took {duration(best.total_seconds)}"
    if len(models) == 1:
        return f"The only model is {best.name}. It has {outcome}."
    p_values = {test.second: test.p_holm for test in tests if test.first == best.name}
    rivals = {name: p for name, p in p_values.items() if p > LEVEL}
    if not rivals:
        return (
            f"Use {best.name}. It is the most accurate model, and it differs significantly from "
            f"every other model ({TEST}, largest p = {max(p_values.values()):.2g}). "
            f"It has {outcome}."
        )
    contenders = [best, *(model for model in models if model.name in rivals)]
    chosen = min(contenders, key=_work)
    if chosen is best:
        return (
            f"No model is clearly the best. Use {best.name}, which ranks first: it has {outcome}. "
            f"On {_test_photos(best)}, it does not differ significantly from "
            f"{alternatives(list(rivals))} ({TEST}, smallest p = {min(rivals.values()):.2g})."
        )
    return (
        f"No model is clearly the best. Use {chosen.name}: it has an accuracy of "
        f"{percent(chosen.accuracy)} and took {duration(chosen.total_seconds)}. The top-ranked "
        f"model, {best.name}, has {outcome}. On {_test_photos(best)}, the two do not differ "
        f"significantly ({TEST}, p = {rivals[chosen.name]:.2g}), and {_reason(chosen, best)}."
    )


def _work(model: ModelRecord) -> int:
    """Return the rank of a model by the work that training takes, whatever the machine.

    A head needs one pass over the photos, and a network many. A network that starts from another
    one needs the training of both.
    """
    if model.result.stage == "head":
        return 0
    return 2 if "started_from" in model.result.hyperparameters else 1


def _reason(chosen: ModelRecord, best: ModelRecord) -> str:
    """Say why one model takes less work than another."""
    if chosen.result.stage == "head":
        return "a head needs one pass over the photos, where a network needs many"
    return f"{best.name} needs the training of another network first"


def _accuracy(model: ModelRecord) -> str:
    bounds = interval(model.accuracy_interval)
    return f"accuracy of {percent(model.accuracy)} (95% interval {bounds})"


def _test_photos(model: ModelRecord) -> str:
    return count(len(model.correct), "test photo")
