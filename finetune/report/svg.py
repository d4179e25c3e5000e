"""SVG charts that take their colours from the page they stand in."""

import html
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from extract.system.console import one_line

# Matplotlib needs colours while it draws; these stand in for those that only the page knows.
INK, HEAD, NETWORK = "#010203", "#010204", "#010205"
PAGE_COLOURS = {INK: "currentColor", HEAD: "var(--head)", NETWORK: "var(--network)"}

MARKS = {"head": (HEAD, "o"), "network": (NETWORK, "s")}
"""Colour and marker for each stage of a result."""
OTHER_MARK = (INK, "o")

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

WIDE, NARROW = 820, 350
"""Widths in pixels for a desktop and for a phone."""
POINTS_PER_INCH = 72

STANDALONE_STYLE = """<style>
svg { color: #1b1e22; background: #fff; --head: #1f66a8; --network: #b8501f }
@media (prefers-color-scheme: dark) {
  svg { color: #e4e7eb; background: #14171a; --head: #6cb2f4; --network: #f2955e }
}
</style>"""
STANDALONE_MARGIN = 24


@dataclass(frozen=True)
class Chart:
    """One chart: a description in words, and its SVG for a wide and for a narrow page."""

    title: str
    wide: str
    narrow: str


def draw_chart(name: str, title: str, draw: Callable[[int], Figure]) -> Chart:
    """Draw a chart for a wide and for a narrow page.

    Parameters
    ----------
    name : str
        Unique on the page; all ids within the SVG start with it.
    title : str
        What the chart shows, for readers who cannot see it.
    draw : callable
        Returns the figure for a width in pixels.
    """
    with matplotlib.rc_context(STYLE):
        wide, narrow = (
            _to_svg(draw(width), prefix=f"{name}-{width}", title=title) for width in (WIDE, NARROW)
        )
    return Chart(title, wide, narrow)


def standalone(chart: Chart) -> str:
    """Return the wide SVG as a file of its own, with its own colours for light and dark."""
    head, body = chart.wide.split(">", 1)
    head = re.sub(r'width="(\d+)" height="(\d+)" viewBox="[^"]*"', _with_margin, head)
    return f"{head}>{STANDALONE_STYLE}{body}"


def figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size in pixels."""
    size = (width / POINTS_PER_INCH, height / POINTS_PER_INCH)
    return Figure(figsize=size, layout="constrained")


def panels(figure: Figure, n: int, *, narrow: bool) -> list[Axes]:
    """Divide a figure into panels: below each other if it is narrow, otherwise side by side."""
    rows, columns = (n, 1) if narrow else (1, n)
    return list(figure.subplots(rows, columns, squeeze=False).flat)


def percent_tick(value: float, _: float) -> str:
    """Format a share on an axis, with the digits it needs: ``85%``, ``97.5%``."""
    return f"{100 * value:.4g}%"


def spread_labels(x: list[float], heights: list[float], *, reach: float, gap: float) -> list[float]:
    """Move labels up or down until those that are close side by side are `gap` apart.

    Parameters
    ----------
    x, heights : list of float
        Position of each label.
    reach : float
        Labels whose x differ by less than this must not have similar heights.
    gap : float
        The least difference of their heights.

    Returns
    -------
    list of float
        The new heights.
    """
    moved = list(heights)
    # If two labels have the same height, the left one moves down, away from the right one's point.
    order = sorted(range(len(x)), key=lambda i: (heights[i], x[i]))
    for _ in range(100):
        for a, i in enumerate(order):
            for j in order[a + 1 :]:
                if abs(x[i] - x[j]) < reach and moved[j] - moved[i] < gap:
                    middle = (moved[i] + moved[j]) / 2
                    moved[i], moved[j] = middle - gap / 2, middle + gap / 2
    return moved


def _with_margin(size: re.Match[str]) -> str:
    margin = STANDALONE_MARGIN
    width, height = (int(length) + 2 * margin for length in size.groups())
    return f'width="{width}" height="{height}" viewBox="-{margin} -{margin} {width} {height}"'


def _to_svg(figure: Figure, *, prefix: str, title: str) -> str:
    text = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        # The texts are not drawn: the browser has the letters that Matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph ")
        figure.savefig(text, format="svg", metadata=no_metadata, transparent=True)
    svg = re.sub(r"(?s)^.*?<svg[^>]*>|<defs>\s*<style.*?</defs>", "", text.getvalue())
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}-', svg).replace("(#", f"(#{prefix}-")
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", svg)
    for stand_in, colour in PAGE_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    width, height = (round(inches * POINTS_PER_INCH) for inches in figure.get_size_inches())
    label = html.escape(one_line(title))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" stroke-linejoin="round" role="img" '
        f'aria-label="{label}"><title>{label}</title>{svg}'
    )
