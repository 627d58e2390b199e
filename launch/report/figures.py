"""Charts of a report as self-contained SVG data URIs.

Owns: the drawing. Refuses: any text that is not in the data; the same data gives the same bytes.
An SVG inside ``<img>`` can run no script and load nothing, whatever its labels say.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from launch.report.data import Chart, FamilyBars, Scatter

REAL, SIM, INK, GRID = "#0f766e", "#b45309", "#334155", "#e2e8f0"
_CYCLE = (SIM, REAL, "#4338ca", "#be123c", "#475569")
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "agentworld",  # element ids derive from it: same data, same bytes
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # a dollar sign in a family name is a dollar sign
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
}


def chart_uri(chart: Chart) -> str:
    """Line chart with bands. x in whole units of the chart, y a fraction shown in per cent."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    with rc_context(_STYLE):
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for line, colour in zip(chart.lines, _colours(len(chart.lines)), strict=True):
            x = [p[0] for p in line.points]
            axes.plot(x, [p[1] for p in line.points], color=colour, lw=1.8, marker="o", ms=3, label=_label(line.label))
            if line.band:
                low, high = zip(*line.band, strict=True)
                axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        axes.set(xlabel=chart.x_label, ylabel=chart.y_label, ylim=(0, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc="best")
        return _uri(figure)


def scatter_uri(scatter: Scatter) -> str:
    """Points with their intervals; y a fraction shown in per cent."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

    with rc_context(_STYLE):
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for dot in scatter.dots:
            axes.plot([dot.x, dot.x], [dot.low, dot.high], color=REAL, lw=1.2, alpha=0.4)
            axes.plot([dot.x], [dot.y], "o", color=REAL, mfc="white" if dot.hollow else REAL, ms=6, mew=1.4)
        axes.set(xlabel=scatter.x_label, ylabel=scatter.y_label, ylim=(0, 1.02))
        if scatter.log_x:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # the default writes TeX
            axes.xaxis.set_minor_formatter(NullFormatter())
        if scatter.ticks:
            axes.set_xticks(range(len(scatter.ticks)), scatter.ticks)
            axes.set_xlim(-0.5, len(scatter.ticks) - 0.5)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        return _uri(figure)


def families_uri(families: Sequence[FamilyBars]) -> str:
    """Per family: a line from before to after, real above simulated; an open dot is before, a full one after."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    with rc_context(_STYLE):
        figure = Figure(figsize=(10.5, 0.8 + 0.36 * len(families)), layout="constrained")
        axes = figure.add_subplot()
        for row, item in enumerate(families):
            _dumbbell(axes, row - 0.14, item.real_before, item.real_after, REAL)
            _dumbbell(axes, row + 0.14, item.sim_before, item.sim_after, SIM)
        axes.set_yticks(range(len(families)), [f.family + (" (held out)" if f.held_out else "") for f in families])
        axes.set(xlim=(-0.03, 1.03), ylim=(len(families) - 0.5, -0.5))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="y", visible=False)
        for colour, name in ((REAL, "real"), (SIM, "simulated")):
            axes.plot([], [], color=colour, marker="o", lw=3, label=f"{name}: before \u25cb \u2192 after \u25cf")
        figure.legend(loc="outside upper left", ncols=2)
        return _uri(figure)


def _dumbbell(axes: Any, y: float, before: float | None, after: float | None, colour: str) -> None:
    if before is not None and after is not None:
        axes.plot([before, after], [y, y], color=colour, lw=3, alpha=0.35, solid_capstyle="round")
    if before is not None:
        axes.plot([before], [y], "o", color=colour, mfc="white", ms=6, mew=1.6)
    if after is not None:
        axes.plot([after], [y], "o", color=colour, ms=6, mew=1.6)


def _label(text: str) -> str:
    """matplotlib leaves empty labels and those that begin with an underscore out of the legend."""
    return text if text and not text.startswith("_") else f" {text}"


def _colours(count: int) -> list[str]:
    return [_CYCLE[i % len(_CYCLE)] for i in range(count)]


def _uri(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
