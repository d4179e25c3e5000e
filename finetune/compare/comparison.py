"""The comparison of all results of one data set, from the folders to the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from classify import results
from extract.store.features_file import Features
from extract.system.console import InputError
from finetune.compare import fairness, leakage
from finetune.compare.leakage import Leakage
from finetune.compare.records import ModelRecord, read_records
from finetune.compare.repeated_splits import RepeatedSplits, read_repeated_splits
from finetune.compare.significance import PairedTest, paired_tests
from finetune.compare.suspects import LabelCheck, check_labels
from finetune.compare.verdict import verdict


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every comparable result of one data set.

    Attributes
    ----------
    features : Features
        The published features, which hold the photos and labels that were to be predicted.
    models : list of ModelRecord
        Highest accuracy of what is compared first, ties by lower log loss, then by name.
    paired_tests : list of PairedTest
        Every two models: the first with each of the others, then the second, and so on.
    refused : list of str
        One sentence for each result left out.
    verdict : str
        Which model to use, why, and which photos the models learned from.
    repeated_splits : RepeatedSplits
    label_check : LabelCheck or None
        Labels of train and val that may be wrong; None if they were not checked.
    leakage : Leakage or None
        What would have been claimed without groups; None if it was not measured.
    """

    features: Features
    models: list[ModelRecord]
    paired_tests: list[PairedTest]
    refused: list[str]
    verdict: str
    repeated_splits: RepeatedSplits = field(default_factory=RepeatedSplits)
    label_check: LabelCheck | None = None
    leakage: Leakage | None = None


def compare(features: Features, folders: Sequence[Path]) -> Comparison:
    """Compare the results in `folders` that were made from these features' photos and splits.

    Raises
    ------
    InputError
        If no result is left to compare.
    """
    records, refused = read_records(features, folders)
    models = fairness.alike(records)
    if not models:
        reasons = "".join(f"; {reason}" for reason in refused)
        raise InputError(f"{features.data}: no result to compare, run `make heads`{reasons}")
    learned_from = {model.name: model.compared_from for model in models}
    tests = [
        replace(test, same_photos=learned_from[test.first] == learned_from[test.second])
        for test in paired_tests({model.name: model.compared_correct for model in models})
    ]
    said = f"{verdict(models, tests)} {fairness.describe(models, features)}"
    return Comparison(features, models, tests, refused, said)


def compare_data_set(features: Features, runs: Path) -> Comparison:
    """Compare everything in ``runs/<data>/``, and check the labels of train and val.

    Raises
    ------
    InputError
        If there is no result to compare.
    """
    comparison = compare(features, results.folders(runs))
    repeated_splits, refused = read_repeated_splits(runs, features)
    return replace(
        comparison,
        refused=comparison.refused + refused,
        repeated_splits=repeated_splits,
        label_check=check_labels(features, comparison.models),
        leakage=leakage.measure(features, comparison.models),
    )
