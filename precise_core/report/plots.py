"""Matplotlib figures as inline SVG that follows the page: its font, its width, its light or dark colours.

Every colour is one of the tokens below and is replaced by a CSS variable of style.css; every id is prefixed with the
plot's name, because a page holds many SVGs. Nothing depends on the clock: the same figures give the same text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from precise_core.report import formats

INK, MUTED, GRID, ACCENT, SOFT, REFERENCE = "#1f2934", "#66727f", "#dbe0e6", "#0b63c5", "#79aee6", "#8b96a3"
_TOKENS = {INK: "ink", MUTED: "muted", GRID: "grid", ACCENT: "accent", SOFT: "accent-soft", REFERENCE: "reference"}

WIDTH_INCHES = 4.7  # 338 points: the width of a phone, so that text there keeps its size
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # for measuring only; the page's font is narrower and always fits
    "font.size": 10,
    "text.parse_math": False,  # a label is data: two dollar signs in it are no formula
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 10,
}

Tint = Literal["accent", "soft", "reference"]
_TINTS = {"accent": ACCENT, "soft": SOFT, "reference": REFERENCE}


@dataclass(frozen=True)
class Dot:
    """One system in a dot-and-whisker plot."""

    label: str
    value: float
    low: float | None
    high: float | None
    tint: Tint


def dots(name: str, rows: Sequence[Dot], description: str, *, from_zero: bool = True) -> Markup:
    """Values with 95 % intervals, one line per system, first row on top; ``from_zero`` False zooms in (AUC)."""

    def draw(axes: Axes) -> None:
        for position, row in enumerate(rows):
            colour = _TINTS[row.tint]
            if row.low is not None and row.high is not None:
                whisker = [row.low, row.high], [position, position]
                axes.plot(*whisker, color=colour, linewidth=2.2, solid_capstyle="round")
            axes.plot(row.value, position, "o", color=colour, markersize=7)
            _beside(axes, formats.figure(row.value), max(row.value, row.high or row.value), position)
        low, high = _range([value for row in rows for value in (row.value, row.low, row.high) if value is not None])
        start = 0.0 if from_zero and low >= 0 else low - 0.15 * (high - low)
        axes.set_xlim(start, high + 0.22 * (high - start))
        _category_axis(axes, [row.label for row in rows])
        _figure_axis(axes.xaxis)

    return _svg(name, description, draw, height=0.55 + 0.32 * len(rows))


def bars(
    name: str,
    labels: Sequence[str],
    values: Sequence[float],
    description: str,
    *,
    text: Callable[[float], str] = formats.count,
    even: float | None = None,
) -> Markup:
    """Horizontal bars with their value beside them; ``even`` draws a dashed line at an even share."""

    def draw(axes: Axes) -> None:
        axes.barh(range(len(values)), values, color=ACCENT, height=0.62)
        for position, value in enumerate(values):
            _beside(axes, text(value), value, position)
        if even is not None:
            axes.axvline(even, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_xlim(0, max([*values, even or 0, 1e-12]) * 1.25)
        _category_axis(axes, labels)
        axes.set_xticks([])
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)

    return _svg(name, description, draw, height=0.2 + 0.29 * len(values))


def histogram(name: str, lengths: Sequence[int], weights: Sequence[int], description: str, *, unit: str) -> Markup:
    """Users by the length of their sequence, in at most 40 bins of whole numbers."""
    longest = max(lengths)
    step = max(1, -(-longest // 40))
    edges = [edge - 0.5 for edge in range(1, longest + 1 + step, step)]

    def draw(axes: Axes) -> None:
        axes.hist(lengths, bins=edges, weights=weights, color=ACCENT, rwidth=0.92)
        axes.set_xlabel(unit)
        axes.grid(visible=False, axis="x")
        _count_axis(axes.yaxis)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    return _svg(name, description, draw, height=1.9)


def rank_frequency(name: str, counts: Sequence[int], description: str, *, hot: int) -> Markup:
    """Events of the item on each rank, both axes logarithmic; ``hot`` marks where the hot items end."""
    ordered = np.asarray(counts)
    # A curve needs a few hundred points, not one per item of the catalog.
    ranks = np.unique(np.geomspace(1, len(ordered), 250).astype(int))

    def draw(axes: Axes) -> None:
        axes.loglog(ranks, ordered[ranks - 1], color=ACCENT, linewidth=2)
        axes.axvline(hot, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        for label, side, offset in (("hot", "right", -6), ("cold", "left", 6)):
            place: dict[str, Any] = {"xytext": (offset, 0), "textcoords": "offset points", "ha": side, "va": "top"}
            axes.annotate(label, (hot, ordered[0]), color=MUTED, fontsize=9, **place)
        axes.set_xlabel("rank of the item")
        axes.minorticks_off()
        for axis in (axes.xaxis, axes.yaxis):
            _count_axis(axis, locate=False)

    return _svg(name, description, draw, height=2.2)


def curves(name: str, series: Sequence[tuple[str, Sequence[float], Sequence[float], Tint]], description: str) -> Markup:
    """Lines over training steps, (label, steps, values, tint) each; a legend only where there are several."""

    def draw(axes: Axes) -> None:
        for label, steps, values, tint in series:
            marker = "o" if len(steps) <= 20 else ""
            axes.plot(steps, values, color=_TINTS[tint], linewidth=2, marker=marker, markersize=4.5, label=label)
        axes.set_xlabel("optimizer steps")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: formats.count(value)))
        _figure_axis(axes.yaxis)
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=9, labelcolor=INK)

    return _svg(name, description, draw, height=2.1)


def calibration(name: str, points: Sequence[tuple[float, float]], description: str) -> Markup:
    """Predicted probability against the share that happened, beside the line of a perfect forecast."""
    end = max([*(value for point in points for value in point), 1e-3]) * 1.08

    def draw(axes: Axes) -> None:
        axes.plot([0, end], [0, end], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.plot(*zip(*points, strict=True), color=ACCENT, linewidth=2, marker="o", markersize=4.5)
        axes.set(xlim=(0, end), ylim=(0, end), xlabel="predicted probability", ylabel="share taken")
        for axis in (axes.xaxis, axes.yaxis):
            _figure_axis(axis)

    return _svg(name, description, draw, height=2.6)


def _beside(axes: Axes, text: str, x: float, y: float) -> None:
    axes.annotate(text, (x, y), xytext=(7, 0), textcoords="offset points", va="center", color=INK, fontsize=9)


def _figure_axis(axis: matplotlib.axis.Axis) -> None:
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(_tick))
    axis.set_tick_params(labelcolor=MUTED, labelsize=9)


def _tick(value: float, _: int) -> str:
    text = f"{round(value, 10):g}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low, low + max(abs(low) * 0.1, 1e-3))


def _category_axis(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), [_short(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")


def _count_axis(axis: matplotlib.axis.Axis, locate: bool = True) -> None:
    if locate:
        axis.set_major_locator(MaxNLocator(4, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: formats.count(value) if value >= 1 or value == 0 else ""))
    axis.set_tick_params(labelcolor=MUTED, labelsize=9)


def _short(label: str, limit: int = 26) -> str:
    return label if len(label) <= limit else f"{label[: limit - 1]}…"


def _svg(name: str, description: str, draw: Callable[[Axes], None], *, height: float) -> Markup:
    with matplotlib.rc_context({**_RC, "svg.hashsalt": name}), warnings.catch_warnings():
        # Only measured with this font, drawn with the reader's: a glyph it lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        draw(figure.add_subplot())
        target = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(target, metadata=no_metadata)
    return _inline(name, description, target.getvalue())


def _inline(name: str, description: str, text: str) -> Markup:
    """The drawing without XML prologue, metadata and fixed size, with a title for readers who do not see it."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    for colour, token in _TOKENS.items():
        text = text.replace(colour, f"var(--{token})")
    text = re.sub(r"<path d=[^>]*style=\"fill: #ffffff\"\s*/>", "", text)
    view_box = re.search(r'viewBox="[^"]+"', text)
    assert view_box is not None
    head = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" class="plot" role="img" {view_box.group()} '
    head += f'aria-label="{escape(description)}"><title>{escape(description)}</title>'
    return Markup(head + text[text.index(">") + 1 :])
