"""Pictures and fitted exponents of `scaling.py`."""

import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

#: Opaque, so that dark text stays readable on a dark page.
PAPER = "#f7f7f5"
COLORS = ("#1f6fb4", "#c8501e", "#2c8a4b", "#7a4fa3")
MARKERS = "osD^"


class Fit(NamedTuple):
    """A power law, fitted by least squares to the logarithms.

    Attributes:
      exponent: of the power law.
      factor: value at one.
      low: the least x that was used.
      high: the greatest.
    """

    exponent: float
    factor: float
    low: float
    high: float

    def __str__(self) -> str:
        # Adding zero turns -0.00 into 0.00.
        return f"{round(self.exponent, 2) + 0.0:.2f} ({self.low:,.0f} to {self.high:,.0f})"


class Line(NamedTuple):
    """Measured points, and from where on a power law is fitted.

    Attributes:
      label: for the legend.
      x: of the points.
      y: of the points.
      low: the least x of the fit; ``None`` means no fit.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: float | None = None

    @property
    def fit(self) -> Fit | None:
        """The power law, or ``None``."""
        if self.low is None:
            return None
        used = [pair for pair in zip(self.x, self.y, strict=True) if pair[0] >= self.low]
        if len(used) < 3:
            raise ValueError(f"{self.label}: a fit needs three points, got {len(used)}.")
        x, y = np.log(np.array(used)).T
        exponent, offset = np.polyfit(x, y, 1)
        return Fit(float(exponent), math.exp(offset), used[0][0], used[-1][0])


class Panel(NamedTuple):
    """One pair of axes, both logarithmic.

    Attributes:
      x_label: with unit.
      y_label: with unit.
      lines: what is drawn.
    """

    x_label: str
    y_label: str
    lines: Sequence[Line]


def draw(panels: Sequence[Panel], path: pathlib.Path) -> None:
    """Draws panels side by side.

    Args:
      panels: from left to right.
      path: an SVG; without a date and random names, equal figures make equal files.
    """
    figure = Figure(figsize=(5.2 * len(panels), 3.9), layout="constrained", facecolor=PAPER)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_panel(axes, panel)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_facecolor(PAPER)
    for line, color, marker in zip(panel.lines, COLORS, MARKERS, strict=False):
        fit = line.fit
        label = line.label if fit is None else f"{line.label}: slope {fit}"
        filled = "none" if fit is None else "full"
        axes.plot(line.x, line.y, marker, color=color, label=label, ms=5, fillstyle=filled)
        if fit is None:
            axes.plot(line.x, line.y, color=color, lw=0.8, alpha=0.5)
            continue
        ends = np.array([fit.low, fit.high])
        axes.plot(ends, fit.factor * ends**fit.exponent, color=color, lw=1.2)
    axes.set(xscale="log", yscale="log", xlabel=panel.x_label, ylabel=panel.y_label)
    _widen(axes)
    _plain_ticks(axes)
    axes.grid(which="major", color="#cccccc", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left")


def _widen(axes: Axes) -> None:
    """Leaves room for the legend, and shows a flat line as flat: at least a decade."""
    low, high = axes.dataLim.intervaly
    if high < 10 * low:
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(10), middle * math.sqrt(10)
    axes.set_ylim(low / 1.5, high * (high / low) ** 0.35)


def _plain_ticks(axes: Axes) -> None:
    """Where an axis is short, ticks like 20 and 50 instead of powers of ten."""
    low, high = axes.dataLim.intervalx
    if high < 100 * low:
        values = sorted({x for line in axes.lines for x in line.get_xdata()})
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    low, high = axes.get_ylim()
    if high < 100 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
