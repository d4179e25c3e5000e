"""The smaller charts: scores, learning curves, calibration, and photos needed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from classify import results
from extract.system.console import one_line
from finetune.compare.comparison import Comparison
from finetune.compare.records import ModelRecord
from finetune.compare.repeated_splits import MetricSummaries
from finetune.report.svg import (
    HEAD,
    INK,
    MARKS,
    NETWORK,
    OTHER_MARK,
    WIDE,
    Chart,
    draw_chart,
    figure,
    panels,
    percent_tick,
    spread_labels,
)

LINE_STYLES = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."))
"""Marker and dashes of each head in turn."""

MAX_CALIBRATION_COLUMNS = 5
LONGEST_PANEL_TITLE = 16


@dataclass(frozen=True)
class _CurvePanel:
    """One metric by epoch: its name, and the keys of the history to draw."""

    metric: str
    training: str
    validation: str

    def recorded(self, history: Mapping[str, Any]) -> dict[str, str]:
        """Return name and key of each curve that the history holds."""
        curves = {"training": self.training, "validation": self.validation}
        return {name: key for name, key in curves.items() if history.get(key)}


CURVE_PANELS = (
    _CurvePanel("Loss", "loss", "val_loss"),
    _CurvePanel("Accuracy", "accuracy", "val_accuracy"),
)


def score_chart(comparison: Comparison) -> Chart:
    """Draw accuracy with its interval, and log loss, one line for each model."""
    title = (
        "Accuracy with its 95% interval, and log loss, of each model. The table has the numbers."
    )
    return draw_chart("scores", title, lambda width: _draw_scores(comparison.models, width))


def curve_chart(model: ModelRecord, *, name: str) -> Chart | None:
    """Draw the learning curves of a network; None if it recorded none.

    Parameters
    ----------
    name : str
        The name of the chart, unique on the page.
    """
    recorded = [panel for panel in CURVE_PANELS if panel.recorded(model.history)]
    if not recorded:
        return None
    title = f"Learning curves of {model.name} by epoch. The table below has the numbers."
    return draw_chart(name, title, lambda width: _draw_curves(model, recorded, width))


def calibration_chart(models: Sequence[ModelRecord]) -> Chart:
    """Draw how often each model was right against how confident it was."""
    title = "Accuracy against predicted probability of each model. The table below has the numbers."
    return draw_chart("reliability", title, lambda width: _draw_calibration(models, width))


def photos_needed_chart(curve: Mapping[int, Mapping[str, MetricSummaries]]) -> Chart:
    """Draw the accuracy of heads against the number of training photos per class."""
    title = (
        "Accuracy of each head against training photos per class. The table below has the numbers."
    )
    return draw_chart("photos-needed", title, lambda width: _draw_photos_needed(curve, width))


def _draw_scores(models: Sequence[ModelRecord], width: int) -> Figure:
    narrow = width < WIDE
    height = 26 * len(models) + 46
    picture = figure(width, 2 * height if narrow else height)
    accuracy, loss = panels(picture, 2, narrow=narrow)
    for position, model in enumerate(models):
        colour, marker = MARKS.get(model.result.stage, OTHER_MARK)
        accuracy.plot(
            model.accuracy_interval, [position] * 2, color=colour, alpha=0.35, linewidth=3
        )
        accuracy.plot(model.accuracy, position, marker, color=colour, markersize=7)
        loss.plot(model.result.metrics["log_loss"], position, marker, color=colour, markersize=7)
    accuracy.set_title("Accuracy with 95% interval")
    accuracy.xaxis.set_major_formatter(percent_tick)
    loss.set_title("Log loss in nats (lower is better)")
    # A margin of the losses' own range would be too narrow for a marker if they are alike.
    loss.set_xlim(0, 1.05 * max(model.result.metrics["log_loss"] for model in models) or None)
    for axes in (accuracy, loss):
        axes.set_yticks(range(len(models)), [one_line(model.name) for model in models])
        axes.set_ylim(len(models) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return picture


def _draw_curves(model: ModelRecord, recorded: Sequence[_CurvePanel], width: int) -> Figure:
    narrow = width < WIDE
    picture = figure(width, 220 * len(recorded) if narrow else 260)
    phases = [str(phase) for phase in model.history.get("phase", [])]
    all_axes = panels(picture, len(recorded), narrow=narrow)
    for axes, panel in zip(all_axes, recorded, strict=True):
        for name, key in panel.recorded(model.history).items():
            _draw_curve(axes, name, _finite(model.history[key]))
        _mark_phases(axes, phases)
        axes.margins(y=0.15)
        axes.set_title(f"{panel.metric} by epoch")
        if panel.metric == "Accuracy":
            axes.yaxis.set_major_formatter(percent_tick)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    all_axes[0].legend(loc="best", fontsize=11)
    return picture


def _draw_curve(axes: Axes, name: str, values: NDArray[np.float64]) -> None:
    colour, alpha = (INK, 0.45) if name == "training" else (NETWORK, 1)
    epochs = np.arange(1, len(values) + 1)
    axes.plot(epochs, values, marker="o", markersize=3, color=colour, alpha=alpha, label=name)


def _mark_phases(axes: Axes, phases: Sequence[str]) -> None:
    """Name each phase of training at its first epoch, and separate it from the one before."""
    changes = [i for i in range(1, len(phases)) if phases[i] != phases[i - 1]]
    for start in changes:
        axes.axvline(start + 0.5, color=INK, alpha=0.4, linewidth=0.8, linestyle=(0, (3, 3)))
    for start in [0, *changes] if phases else []:
        axes.annotate(
            one_line(phases[start]),
            (start + 0.55 if start else axes.get_xlim()[0], 1),
            (3, -3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            fontsize=10,
            alpha=0.7,
        )


def _draw_calibration(models: Sequence[ModelRecord], width: int) -> Figure:
    columns = 2 if width < WIDE else min(len(models), MAX_CALIBRATION_COLUMNS)
    lines = -(-len(models) // columns)
    picture = figure(width, lines * (width / columns + 28))
    grid = list(picture.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axes, model in zip(grid, models, strict=False):
        _draw_bins(axes, model)
    for axes in grid[len(models) :]:
        axes.remove()
    for axes in grid[max(len(models) - columns, 0) : len(models)]:
        axes.tick_params(labelbottom=True)
    axes = grid[0]
    axes.set_xlim(-0.04, 1.06)
    axes.set_ylim(-0.06, 1.08)
    axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])
    # The panels are so close that 0% would run into the 100% of the panel on its left.
    axes.set_xticks([0, 0.5, 1], ["", "50%", "100%"])
    return picture


def _draw_bins(axes: Axes, model: ModelRecord) -> None:
    colour, marker = MARKS.get(model.result.stage, OTHER_MARK)
    photos, confidence, accuracy = results.reliability(model.confidence, model.correct)
    occupied = photos > 0
    area = 12 + 130 * photos[occupied] / photos.sum()
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.3, linewidth=0.8)
    axes.scatter(
        confidence[occupied],
        accuracy[occupied],
        area,
        colour,
        marker=marker,
        alpha=0.75,
        linewidths=0,
    )
    axes.set_title(_shortened(model.name))


def _draw_photos_needed(curve: Mapping[int, Mapping[str, MetricSummaries]], width: int) -> Figure:
    narrow = width < WIDE
    picture = figure(width, 300 if narrow else 340)
    axes = picture.add_subplot()
    sizes = sorted(curve)
    heads = list(curve[sizes[-1]])
    for head, (marker, dashes) in zip(heads, LINE_STYLES * len(heads), strict=False):
        points = [(size, curve[size][head]["accuracy"]) for size in sizes if head in curve[size]]
        axes.errorbar(
            [size for size, _ in points],
            [accuracy["mean"] for _, accuracy in points],
            list(zip(*(_error_bar(accuracy) for _, accuracy in points), strict=True)),
            color=HEAD,
            marker=marker,
            markersize=5,
            linestyle=dashes,
            linewidth=1.2,
            elinewidth=1,
            alpha=0.8,
        )
    axes.set_xscale("log")
    span = max(math.log10(sizes[-1] / sizes[0]), 0.3)
    room = 0.3 if narrow else 0.12
    axes.set_xlim(sizes[0] * 10 ** (-0.04 * span), sizes[-1] * 10 ** (room * span))
    last = {head: curve[sizes[-1]][head]["accuracy"]["mean"] for head in heads}
    _name_curves(axes, last, size=sizes[-1], indent=10 ** (0.03 * span))
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(percent_tick)
    axes.set_title("Accuracy on the test photos")
    axes.set_xlabel("training photos per class (log scale)")
    return picture


def _error_bar(accuracy: Mapping[str, float]) -> tuple[float, float]:
    """Return how far an interval reaches below and above the mean."""
    if "low" not in accuracy:
        return accuracy["half_width"], accuracy["half_width"]
    return accuracy["mean"] - accuracy["low"], accuracy["high"] - accuracy["mean"]


def _name_curves(axes: Axes, last: Mapping[str, float], *, size: int, indent: float) -> None:
    """Write the name of each head to the right of its last point, at `size` photos."""
    low, high = axes.get_ylim()
    heights = spread_labels(
        [0.0] * len(last), list(last.values()), reach=1, gap=(high - low) * 0.06
    )
    for (head, accuracy), height in zip(last.items(), heights, strict=True):
        axes.annotate(
            one_line(head), (size, accuracy), (size * indent, height), va="center_baseline"
        )


def _shortened(name: str) -> str:
    """Cut a name that is too long for a small panel."""
    name = one_line(name)
    return name if len(name) <= LONGEST_PANEL_TITLE else f"{name[: LONGEST_PANEL_TITLE - 1]}…"


def _finite(values: Sequence[Any]) -> NDArray[np.float64]:
    """Return the values of a curve, NaN for each that is not a finite number."""
    return np.array(
        [v if isinstance(v, int | float) and math.isfinite(v) else math.nan for v in values]
    )
