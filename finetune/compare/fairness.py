"""Which photos the models learned from, and what compares models of different photos fairly.

A head learns from train and val, and a network from train alone, because it needs val to know when
to stop. A head is therefore fitted to train alone too, and what it then predicts takes the place of
its own predictions wherever it is compared with a network.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from extract.store.features_file import Features
from extract.system.console import count
from finetune.compare.number_formats import percent
from finetune.compare.records import ModelRecord


def alike(records: Sequence[ModelRecord]) -> list[ModelRecord]:
    """Let the records compare models that learned from the same photos, as far as they can.

    Returns
    -------
    list of ModelRecord
        Highest accuracy of what is compared first, ties by lower log loss, then by name.
    """
    if len({record.compared_from for record in records}) > 1:
        records = [_on_train(record) for record in records]
    return sorted(
        records,
        key=lambda record: (
            -record.compared_metrics["accuracy"],
            record.compared_metrics["log_loss"],
            record.name,
        ),
    )


def describe(models: Sequence[ModelRecord], features: Features) -> str:
    """Say which photos each model learned from, and what was compared."""
    by_splits: dict[tuple[str, ...], list[ModelRecord]] = {}
    for model in models:
        by_splits.setdefault(tuple(model.result.learned_from), []).append(model)
    if len(by_splits) == 1:
        (splits,) = by_splits
        who = "All models" if len(models) > 1 else "It"
        return f"{who} learned from {_photos(splits, features)}."
    parts = [
        f"{_names(found)} learned from {_photos(splits, features)}"
        for splits, found in by_splits.items()
    ]
    refitted = [model for model in models if model.is_refitted]
    said = f"{'; '.join(parts)}."
    if refitted:
        scores = [f"{model.name} {percent(model.compared_accuracy)}" for model in refitted]
        said += (
            " To be ranked and tested against the others, models of train and val were fitted to "
            f"train alone too ({', '.join(scores)})."
        )
    if len({model.compared_from for model in models}) > 1:
        others = [model for model in models if model.compared_from != ("train",)]
        said += (
            f" {_names(others)} could not be compared as fitted to the same photos, so the extra "
            f"photos may explain a difference; run `{others[0].result.command}` again."
        )
    return said


def _on_train(record: ModelRecord) -> ModelRecord:
    """Return a record that is compared as fitted to train alone, if its predictions are there."""
    on_train = record.predictions.on_train
    if on_train is None:
        return record
    predictions = replace(record.predictions, probabilities=on_train, on_train=None)
    return replace(record, compared=predictions, compared_from=("train",))


def _names(models: Sequence[ModelRecord]) -> str:
    names = [model.name for model in models]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _photos(splits: Sequence[str], features: Features) -> str:
    photos = count(int(np.isin(features.splits, splits).sum()), "photo")
    return f"the {photos} of {' and '.join(splits)}"
