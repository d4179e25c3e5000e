"""The comparison as a table for the terminal."""

from rich.table import Table
from rich.text import Text

from extract.system.console import encodable, one_line
from finetune.compare.comparison import Comparison
from finetune.compare.number_formats import decimal, duration, interval, percent
from finetune.report import tables


def comparison_table(comparison: Comparison) -> Table:
    """Return the table of all models, with the columns that fit into 80 characters."""
    models = comparison.models
    metrics = [model.result.metrics for model in models]
    on_train = tables.learned_from(models).get(tables.FROM_TRAIN)
    return terminal_table(
        {
            "Model": [model.name for model in models],
            "Accuracy": [percent(model.accuracy) for model in models],
            "95% interval": [interval(model.accuracy_interval) for model in models],
            **({tables.FROM_TRAIN: [cell.text for cell in on_train]} if on_train else {}),
            "Mean class recall": [percent(one["mean_class_recall"]) for one in metrics],
            "Log loss": [decimal(one["log_loss"]) for one in metrics],
            "Total time": [duration(model.total_seconds) for model in models],
        }
    )


def terminal_table(columns: dict[str, list[str]]) -> Table:
    """Return columns as a table for the terminal, the first left-aligned."""
    table = Table(box=None, pad_edge=False)
    for place, (heading, cells) in enumerate(columns.items()):
        # A heading may take several lines where the table would be too wide, and a cell may not.
        is_longest = len(heading) > max(map(len, cells), default=0)
        table.add_column(
            _text(heading, no_wrap=not is_longest),
            justify="right" if place else "left",
            no_wrap=not is_longest,
        )
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(_text, row))
    return table


def _text(cell: str, *, no_wrap: bool = True) -> Text:
    """Return a cell as it is: rich would take ``[red]`` in a string for markup."""
    return Text(encodable(one_line(cell)), no_wrap=no_wrap)
