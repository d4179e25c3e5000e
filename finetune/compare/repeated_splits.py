"""Read what ``python -m classify`` measured over random splits of the same photos."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from classify import results
from extract.store.features_file import Features

MetricSummaries = Mapping[str, Mapping[str, float]]
"""The summary of each metric of one head, see `classify.protocols.summary`."""

LEARNING_CURVE = "learning-curve.json"


@dataclass(frozen=True)
class RepeatedSplits:
    """Summaries over random splits.

    Attributes
    ----------
    learning_curve : dict of int to dict of head to MetricSummaries
        The measurements of ``--learning-curve``, by training photos per class.
    protocols : dict of str to dict of head to MetricSummaries
        The measurements of ``--protocol``, by a description of the splits.
    """

    learning_curve: dict[int, dict[str, MetricSummaries]] = field(default_factory=dict)
    protocols: dict[str, dict[str, MetricSummaries]] = field(default_factory=dict)


def read_repeated_splits(runs: Path, features: Features) -> tuple[RepeatedSplits, list[str]]:
    """Read the files in ``runs/<data>/``, if there are any.

    Returns
    -------
    repeated_splits : RepeatedSplits
    refused : list of str
        One sentence for each file left out.
    """
    repeated_splits, refused = RepeatedSplits(), []
    for path in sorted([*runs.glob(LEARNING_CURVE), *runs.glob("protocol-*.json")]):
        try:
            record = results.read_json(path)
            if record["data_digest"] != features.data_digest:
                refused.append(f"{path.name}: made from other photos or splits; measure it again")
            elif path.name == LEARNING_CURVE:
                curve = {int(size): by_head for size, by_head in record["summary"].items()}
                repeated_splits.learning_curve.update(curve)
            else:
                options, n = record["options"], len(next(iter(record["repeats"].values())))
                title = (
                    f"{options['train']} photos a class to train, at most {options['test']} to "
                    f"test, {n} random splits"
                )
                repeated_splits.protocols[title] = record["summary"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            refused.append(f"{path.name}: not a valid record ({error}); measure it again")
    return repeated_splits, refused
