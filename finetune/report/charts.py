"""The charts of a comparison, as SVG that takes its colours from the page it stands in."""

import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from classify import results
from extract.system.console import one_line
from finetune.compare.comparison import Comparison, Figures, Row

# Stand-ins that Matplotlib can draw with, for colours that only the page knows.
INK, HEAD, NETWORK = "#010203", "#010204", "#010205"
COLOURS = {INK: "currentColor", HEAD: "var(--head)", NETWORK: "var(--network)"}
STAGES = {"head": (HEAD, "o"), "network": (NETWORK, "s")}
STYLE: dict[Any, Any] = {
    "font.size": 12,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titlepad": 10,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 7,
    "ytick.major.pad": 7,
    "axes.labelpad": 8,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "figure.constrained_layout.hspace": 0.08,
    "figure.constrained_layout.wspace": 0.04,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "onepass",
}
ALONE = """<style>
svg { color: #1b1e22; background: #fff; --head: #1f66a8; --network: #b8501f }
@media (prefers-color-scheme: dark) {
  svg { color: #e4e7eb; background: #14171a; --head: #6cb2f4; --network: #f2955e }
}
</style>"""
TIMES = {
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
BETWEEN = {
    2: "2 s",
    5: "5 s",
    30: "30 s",
    120: "2 min",
    300: "5 min",
    1800: "30 min",
    7200: "2 h",
    18000: "5 h",
}
"""Times that are told where few of the others are."""

SHORTEST = 0.01
LINES = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."))
MARGIN = 24


@dataclass(frozen=True)
class Chart:
    """One chart: what it shows, in words, and its SVG for a wide and for a narrow page."""

    title: str
    wide: str
    narrow: str


def cost(comparison: Comparison) -> Chart:
    """Draw accuracy against the seconds that each model cost, the picture of the project."""
    best, cheapest = comparison.rows[0], min(comparison.rows, key=lambda row: row.seconds)
    title = (
        f"Accuracy against total time. Highest: {best.model}, {best.accuracy:.1%} in "
        f"{best.seconds:.3g} s. Cheapest: {cheapest.model}, {cheapest.accuracy:.1%} in "
        f"{cheapest.seconds:.3g} s."
    )
    return _chart("cost", title, lambda width: _cost(comparison.rows, width))


def scores(comparison: Comparison) -> Chart:
    """Draw accuracy with its interval, and log loss, one line a model."""
    title = "Accuracy with its 95% interval, and log loss, of each model, as in the table above."
    return _chart("scores", title, lambda width: _scores(comparison.rows, width))


def curves(row: Row, *, name: str) -> Chart | None:
    """Draw the learning curves of a network; None where it left none."""
    panels = [
        (label, [(style, key) for style, key in pair if row.history.get(key)])
        for label, pair in (
            ("Loss", (("training", "loss"), ("validation", "val_loss"))),
            ("Accuracy", (("training", "accuracy"), ("validation", "val_accuracy"))),
        )
    ]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return None
    title = f"Learning curves of {row.model}, one value an epoch, as in the table below."
    return _chart(name, title, lambda width: _curves(row, panels, width))


def reliability(rows: Sequence[Row]) -> Chart:
    """Draw how often each model was right against how sure it was."""
    title = "Share named rightly against the probability given, by model, as in the table below."
    return _chart("reliability", title, lambda width: _reliability(rows, width))


def photos_needed(curve: Mapping[int, Mapping[str, Figures]]) -> Chart:
    """Draw the accuracy of heads against the photos of each class that they learned from."""
    title = "Accuracy against training photos a class, of each head, as in the table below."
    return _chart("photos-needed", title, lambda width: _photos_needed(curve, width))


def alone(chart: Chart) -> str:
    """Return the wide SVG as a file of its own, with its own colours for light and dark."""
    head, body = chart.wide.split(">", 1)
    head = re.sub(r'width="(\d+)" height="(\d+)" viewBox="[^"]*"', _with_margin, head)
    return f"{head}>{ALONE}{body}"


def _with_margin(size: re.Match[str]) -> str:
    width, height = (int(length) + 2 * MARGIN for length in size.groups())
    return f'width="{width}" height="{height}" viewBox="-{MARGIN} -{MARGIN} {width} {height}"'


def _chart(name: str, title: str, draw: Callable[[int], Figure]) -> Chart:
    with matplotlib.rc_context(STYLE):
        wide, narrow = (
            _svg(draw(width), prefix=f"{name}-{width}", title=title) for width in (820, 350)
        )
    return Chart(title, wide, narrow)


def _svg(figure: Figure, *, prefix: str, title: str) -> str:
    """Write a figure as SVG whose ids no other chart of the page has."""
    text = io.StringIO()
    undated = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", metadata=undated, transparent=True)
    svg = re.sub(r"(?s)^.*?<svg[^>]*>|<defs>\s*<style.*?</defs>", "", text.getvalue())
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}-', svg).replace("(#", f"(#{prefix}-")
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    for stand_in, colour in COLOURS.items():
        svg = svg.replace(stand_in, colour)
    width, height = (round(inches * 72) for inches in figure.get_size_inches())
    label = html.escape(one_line(title))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" stroke-linejoin="round" role="img" '
        f'aria-label="{label}"><title>{label}</title>{svg}'
    )


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width / 72, height / 72), layout="constrained")


def _panels(figure: Figure, n: int, *, narrow: bool) -> list[Axes]:
    rows, columns = (n, 1) if narrow else (1, n)
    return list(figure.subplots(rows, columns, squeeze=False).flat)


def _cost(rows: Sequence[Row], width: int) -> Figure:
    narrow = width < 600
    figure = _figure(width, 340 if narrow else 400)
    axes = figure.add_subplot()
    totals = [max(row.seconds, SHORTEST) for row in rows]
    shared = [max(row.seconds - _pass(row), SHORTEST) for row in rows]
    low, high = math.log10(min(shared)), math.log10(max(totals))
    # Names stand to the right of their points, so the axis ends well after the last of them.
    span = max(high - low, 1.0) / (0.66 if narrow else 0.82)
    axes.set_xscale("log")
    axes.set_xlim(10 ** (low - 0.05 * span), 10 ** (low + 0.95 * span))
    bottom, top = _limits(rows)
    axes.set_ylim(bottom, top)
    reach, gap = span * (0.34 if narrow else 0.16), (top - bottom) * (0.065 if narrow else 0.055)
    places = [math.log10(total) for total in totals]
    labels = _apart(places, [row.accuracy for row in rows], reach=reach, gap=gap)
    for row, total, marginal, height in zip(rows, totals, shared, labels, strict=True):
        # A name stands to the right of every point that it would cover.
        long = span * (0.04 + 0.01 * len(row.model)) * (2 if narrow else 1)
        right = max(
            other
            for other, neighbour in zip(totals, rows, strict=True)
            if neighbour is row
            or (total <= other < total * 10**long and abs(neighbour.accuracy - height) < gap / 2)
        )
        colour, marker = STAGES.get(row.result.stage, (INK, "o"))
        axes.plot([total, total], row.interval, color=colour, alpha=0.35, linewidth=2)
        if _pass(row):
            axes.plot([marginal, total], [row.accuracy] * 2, color=colour, alpha=0.35, linewidth=1)
            axes.plot(marginal, row.accuracy, marker, color=colour, markersize=6, fillstyle="none")
        axes.plot(total, row.accuracy, marker, color=colour, markersize=7)
        axes.annotate(
            one_line(row.model),
            (total, row.accuracy),
            (right * 10 ** (0.025 * span), height),
            va="center_baseline",
            arrowprops={"arrowstyle": "-", "color": INK, "alpha": 0.3, "linewidth": 0.8},
        )
    _times(axes, every=2 if narrow and span > 3 else 1)
    axes.yaxis.set_major_formatter(_percent)
    axes.set_title("Accuracy on the test photos")
    axes.set_xlabel("total time, log scale")
    _key(figure, rows, columns=1 if narrow else 3)
    return figure


def _key(figure: Figure, rows: Sequence[Row], *, columns: int) -> None:
    """Explain the marks below the picture, only those that occur in it."""
    stages = {row.result.stage for row in rows}
    marks = [
        ("head", "full", "classifier on cached features, VGG16 pass included"),
        ("head", "none", "the same once the features are cached"),
        ("network", "full", "network trained by Keras"),
    ]
    for stage, fill, words in marks:
        if stage in stages:
            colour, marker = STAGES[stage]
            figure.gca().plot([], [], marker, color=colour, fillstyle=fill, label=words)
    if stages & STAGES.keys():
        figure.legend(
            loc="outside lower left",
            ncols=columns,
            fontsize=11,
            handletextpad=0.2,
            columnspacing=1.2,
        )


def _scores(rows: Sequence[Row], width: int) -> Figure:
    narrow = width < 600
    panel = 26 * len(rows) + 46
    figure = _figure(width, 2 * panel if narrow else panel)
    accuracy, loss = _panels(figure, 2, narrow=narrow)
    for place, row in enumerate(rows):
        colour, marker = STAGES.get(row.result.stage, (INK, "o"))
        accuracy.plot(row.interval, [place] * 2, color=colour, alpha=0.35, linewidth=3)
        accuracy.plot(row.accuracy, place, marker, color=colour, markersize=7)
        loss.plot(row.result.metrics["log_loss"], place, marker, color=colour, markersize=7)
    accuracy.set_title("Accuracy and its 95% interval")
    accuracy.xaxis.set_major_formatter(_percent)
    loss.set_title("Log loss, in nats: lower is better")
    loss.set_xlim(0, None)
    for axes in (accuracy, loss):
        axes.set_yticks(range(len(rows)), [one_line(row.model) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure


def _curves(row: Row, panels: Sequence[tuple[str, Any]], width: int) -> Figure:
    narrow = width < 600
    figure = _figure(width, 220 * len(panels) if narrow else 260)
    phases = [str(phase) for phase in row.history.get("phase", [])]
    starts = [i for i in range(1, len(phases)) if phases[i] != phases[i - 1]]
    for axes, (label, lines) in zip(
        _panels(figure, len(panels), narrow=narrow), panels, strict=True
    ):
        for style, key in lines:
            faint = style == "training"
            values = _numbers(row.history[key])
            axes.plot(
                np.arange(1, len(values) + 1),
                values,
                marker="o",
                markersize=3,
                color=INK if faint else NETWORK,
                alpha=0.45 if faint else 1,
                label=style,
            )
        for start in starts:
            axes.axvline(start + 0.5, color=INK, alpha=0.4, linewidth=0.8, linestyle=(0, (3, 3)))
        for start in [0, *starts] if phases else []:
            place = (start + 0.55 if start else axes.get_xlim()[0], 1)
            axes.annotate(
                one_line(phases[start]),
                place,
                (3, -3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                va="top",
                fontsize=10,
                alpha=0.7,
            )
        axes.margins(y=0.15)
        axes.set_title(f"{label} by epoch")
        if label == "Accuracy":
            axes.yaxis.set_major_formatter(_percent)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    figure.axes[0].legend(loc="best", fontsize=11)
    return figure


def _reliability(rows: Sequence[Row], width: int) -> Figure:
    columns = 2 if width < 600 else min(len(rows), 5)
    lines = -(-len(rows) // columns)
    side = width / columns
    figure = _figure(width, lines * (side + 28))
    grid = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axes, row in zip(grid, rows, strict=False):
        colour, marker = STAGES.get(row.result.stage, (INK, "o"))
        photos, confidence, accuracy = results.reliability(row.confidence, row.correct)
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.3, linewidth=0.8)
        some = photos > 0
        area = 12 + 130 * photos[some] / photos.sum()
        axes.scatter(
            confidence[some],
            accuracy[some],
            area,
            colour,
            marker=marker,
            alpha=0.75,
            linewidths=0,
        )
        axes.set_title(_short(row.model))
    for axes in grid[len(rows) :]:
        axes.remove()
    for axes in grid[max(len(rows) - columns, 0) : len(rows)]:
        axes.tick_params(labelbottom=True)
    axes = grid[0]
    axes.set_xlim(-0.04, 1.06)
    axes.set_ylim(-0.06, 1.08)
    axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])
    # The panels stand so close that 0% would run into the 100% beside it.
    axes.set_xticks([0, 0.5, 1], ["", "50%", "100%"])
    return figure


def _photos_needed(curve: Mapping[int, Mapping[str, Figures]], width: int) -> Figure:
    narrow = width < 600
    figure = _figure(width, 300 if narrow else 340)
    axes = figure.add_subplot()
    sizes = sorted(curve)
    names = list(curve[sizes[-1]])
    ends = [curve[sizes[-1]][name]["accuracy"]["mean"] for name in names]
    for name, (marker, line) in zip(names, LINES * len(names), strict=False):
        figures = [(size, curve[size][name]["accuracy"]) for size in sizes if name in curve[size]]
        axes.errorbar(
            [size for size, _ in figures],
            [accuracy["mean"] for _, accuracy in figures],
            [accuracy["half_width"] for _, accuracy in figures],
            color=HEAD,
            marker=marker,
            markersize=5,
            linestyle=line,
            linewidth=1.2,
            elinewidth=1,
            alpha=0.8,
        )
    axes.set_xscale("log")
    span = max(math.log10(sizes[-1] / sizes[0]), 0.3)
    room = 0.3 if narrow else 0.12
    axes.set_xlim(sizes[0] * 10 ** (-0.04 * span), sizes[-1] * 10 ** (room * span))
    low, high = axes.get_ylim()
    heights = _apart([0.0] * len(names), ends, reach=1, gap=(high - low) * 0.06)
    for name, end, height in zip(names, ends, heights, strict=True):
        axes.annotate(
            one_line(name),
            (sizes[-1], end),
            (sizes[-1] * 10 ** (0.03 * span), height),
            va="center_baseline",
        )
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(_percent)
    axes.set_title("Accuracy on the test photos")
    axes.set_xlabel("training photos a class, log scale")
    return figure


def _short(name: str) -> str:
    """Cut a name that is longer than a small panel is wide."""
    name = one_line(name)
    return name if len(name) <= 16 else f"{name[:15]}…"


def _percent(value: float, _: float) -> str:
    return f"{100 * value:.4g}%"


def _pass(row: Row) -> float:
    return float(row.result.seconds.get("features", 0.0))


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    low, high = min(row.interval[0] for row in rows), max(row.interval[1] for row in rows)
    room = 0.06 * max(high - low, 0.02)
    return low - room, high + room


def _apart(
    places: Sequence[float], heights: Sequence[float], *, reach: float, gap: float
) -> list[float]:
    """Move labels up or down until those that stand beside each other are `gap` apart."""
    moved = list(heights)
    # Of equal ones that to the left goes below, where its label does not run into the other point.
    order = sorted(range(len(places)), key=lambda i: (heights[i], places[i]))
    for _ in range(100):
        for a, i in enumerate(order):
            for j in order[a + 1 :]:
                if abs(places[i] - places[j]) < reach and moved[j] - moved[i] < gap:
                    middle = (moved[i] + moved[j]) / 2
                    moved[i], moved[j] = middle - gap / 2, middle + gap / 2
    return moved


def _times(axes: Axes, *, every: int) -> None:
    low, high = axes.get_xlim()
    told = TIMES if high / low > 150 else TIMES | BETWEEN
    ticks = [seconds for seconds in sorted(told) if low <= seconds <= high][::every]
    axes.set_xticks(ticks, [told[seconds] for seconds in ticks])
    axes.set_xticks([], minor=True)


def _numbers(values: Sequence[Any]) -> NDArray[np.float64]:
    """Return the finite numbers of a curve, NaN where there is none."""
    return np.array(
        [v if isinstance(v, int | float) and math.isfinite(v) else math.nan for v in values]
    )
