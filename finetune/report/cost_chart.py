"""The main chart: the accuracy of each model against the time that it took."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from extract.system.console import one_line
from finetune.compare.comparison import Comparison
from finetune.compare.number_formats import duration, percent
from finetune.compare.records import ModelRecord
from finetune.report.svg import (
    INK,
    MARKS,
    OTHER_MARK,
    WIDE,
    Chart,
    draw_chart,
    figure,
    percent_tick,
    spread_labels,
)

TICKS = {
    0.01: "10 ms",
    0.1: "0.1 s",
    1: "1 s",
    10: "10 s",
    60: "1 min",
    600: "10 min",
    3600: "1 h",
    36000: "10 h",
    360000: "100 h",
}
"""Labels of the time axis by seconds."""

FURTHER_TICKS = {
    2: "2 s",
    5: "5 s",
    30: "30 s",
    120: "2 min",
    300: "5 min",
    1800: "30 min",
    7200: "2 h",
    18000: "5 h",
}
"""Labels between those, for an axis that covers less than `SHORT_RANGE`."""

SHORT_RANGE = 150
"""The ratio of the largest to the smallest time on an axis that needs `FURTHER_TICKS`."""

SHORTEST = 0.01
"""Seconds: shorter times are drawn here, because a log scale has no zero."""

KEY = (
    ("head", "full", "head on VGG16 features, VGG16 pass included"),
    ("head", "none", "the same with the features already cached"),
    ("network", "full", "network trained with Keras"),
)
"""Stage, fill and meaning of each mark."""


@dataclass(frozen=True)
class _Layout:
    """Where things go; times are in powers of ten.

    Attributes
    ----------
    narrow : bool
    start, span : float
        The shortest time, and how much the axis covers.
    bottom, top : float
        Accuracies at the ends of the other axis.
    """

    narrow: bool
    start: float
    span: float
    bottom: float
    top: float

    @property
    def gap(self) -> float:
        """The least difference in height of two names side by side."""
        return (self.top - self.bottom) * (0.065 if self.narrow else 0.055)

    def name_length(self, name: str) -> float:
        """Return roughly how long a name is, in powers of ten of the time."""
        return self.span * (0.04 + 0.01 * len(name)) * (2 if self.narrow else 1)


@lru_cache(1)
def cost_chart(comparison: Comparison) -> Chart:
    """Draw the accuracy of each model against the time that it took.

    The page and ``compare.svg`` show the same chart, which takes a second to draw.
    """
    models = comparison.models
    best, fastest = models[0], min(models, key=lambda model: model.total_seconds)
    title = (
        f"Accuracy against total time. Highest accuracy: {_in_words(best)}. "
        f"Shortest time: {_in_words(fastest)}."
    )
    return draw_chart("cost", title, lambda width: _draw(models, width))


def _in_words(model: ModelRecord) -> str:
    return f"{model.name}, {percent(model.accuracy)} in {duration(model.total_seconds)}"


def _draw(models: Sequence[ModelRecord], width: int) -> Figure:
    layout = _layout(models, narrow=width < WIDE)
    picture = figure(width, 340 if layout.narrow else 400)
    axes = picture.add_subplot()
    axes.set_xscale("log")
    ends = layout.start - 0.05 * layout.span, layout.start + 0.95 * layout.span
    axes.set_xlim(10 ** ends[0], 10 ** ends[1])
    axes.set_ylim(layout.bottom, layout.top)
    for model in models:
        _draw_point(axes, model)
    _draw_names(axes, models, layout)
    _set_ticks(axes, every=2 if layout.narrow and layout.span > 3 else 1)
    axes.yaxis.set_major_formatter(percent_tick)
    axes.set_title("Accuracy on the test photos")
    axes.set_xlabel("total time (log scale)")
    _draw_key(picture, models, columns=1 if layout.narrow else 3)
    return picture


def _layout(models: Sequence[ModelRecord], *, narrow: bool) -> _Layout:
    start = math.log10(min(_seconds_without_pass(model) for model in models))
    end = math.log10(max(_seconds(model) for model in models))
    # Names stand to the right of their points, so the axis ends well after the last point.
    span = max(end - start, 1.0) / (0.66 if narrow else 0.82)
    low = min(model.accuracy_interval[0] for model in models)
    high = max(model.accuracy_interval[1] for model in models)
    room = 0.06 * max(high - low, 0.02)
    return _Layout(narrow, start, span, low - room, high + room)


def _draw_point(axes: Axes, model: ModelRecord) -> None:
    colour, marker = MARKS.get(model.result.stage, OTHER_MARK)
    total, accuracy = _seconds(model), model.accuracy
    axes.plot([total, total], model.accuracy_interval, color=colour, alpha=0.35, linewidth=2)
    if _pass_seconds(model):
        cached = _seconds_without_pass(model)
        axes.plot([cached, total], [accuracy] * 2, color=colour, alpha=0.35, linewidth=1)
        axes.plot(cached, accuracy, marker, color=colour, markersize=6, fillstyle="none")
    axes.plot(total, accuracy, marker, color=colour, markersize=7)


def _draw_names(axes: Axes, models: Sequence[ModelRecord], layout: _Layout) -> None:
    points = [(_seconds(model), model.accuracy) for model in models]
    heights = spread_labels(
        [math.log10(seconds) for seconds, _ in points],
        [accuracy for _, accuracy in points],
        reach=layout.span * (0.34 if layout.narrow else 0.16),
        gap=layout.gap,
    )
    for model, point, height in zip(models, points, heights, strict=True):
        # A name stands to the right of every point that it would cover.
        end = point[0] * 10 ** layout.name_length(model.name)
        covered = [
            seconds
            for seconds, accuracy in points
            if point[0] <= seconds < end and abs(accuracy - height) < layout.gap / 2
        ]
        right = max([point[0], *covered])
        axes.annotate(
            one_line(model.name),
            point,
            (right * 10 ** (0.025 * layout.span), height),
            va="center_baseline",
            arrowprops={"arrowstyle": "-", "color": INK, "alpha": 0.3, "linewidth": 0.8},
        )


def _set_ticks(axes: Axes, *, every: int) -> None:
    low, high = axes.get_xlim()
    labels = TICKS if high / low > SHORT_RANGE else TICKS | FURTHER_TICKS
    ticks = [seconds for seconds in sorted(labels) if low <= seconds <= high][::every]
    axes.set_xticks(ticks, [labels[seconds] for seconds in ticks])
    axes.set_xticks([], minor=True)


def _draw_key(picture: Figure, models: Sequence[ModelRecord], *, columns: int) -> None:
    """Explain the marks below the chart, only those that occur in it."""
    stages = {model.result.stage for model in models}
    for stage, fill, meaning in KEY:
        if stage in stages:
            colour, marker = MARKS[stage]
            picture.gca().plot([], [], marker, color=colour, fillstyle=fill, label=meaning)
    if stages & MARKS.keys():
        picture.legend(
            loc="outside lower left",
            ncols=columns,
            fontsize=11,
            handletextpad=0.2,
            columnspacing=1.2,
        )


def _pass_seconds(model: ModelRecord) -> float:
    return float(model.result.seconds.get("features", 0.0))


def _seconds(model: ModelRecord) -> float:
    return max(model.total_seconds, SHORTEST)


def _seconds_without_pass(model: ModelRecord) -> float:
    return max(model.total_seconds - _pass_seconds(model), SHORTEST)
