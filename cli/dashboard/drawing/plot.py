"""A plot as data, and how it is looked at; ``draw_plot`` makes lines of text of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ensemw2s.cli.dashboard.drawing.text import Line
from ensemw2s.cli.dashboard.model.series import Floats


@dataclass
class Curve:
    """One series: ``colour`` is a style key; ``marker`` tells it apart without colour.

    ``draw``: ``line``, ``points`` (markers with whiskers from ``low`` to ``high``), or ``bars``. ``faint`` curves are
    context. ``first`` in the legend.
    """

    name: str
    x: Floats
    y: Floats
    colour: str = "text"
    marker: str = "●"
    draw: Literal["line", "points", "bars"] = "line"
    low: Floats | None = None
    high: Floats | None = None
    faint: bool = False
    smoothed: bool = True
    legend: bool = True
    first: bool = False


@dataclass
class Rule:
    """A horizontal line with a name at its right end."""

    name: str
    y: float
    colour: str = "dim"

    @property
    def named_by_marker(self) -> bool:
        """Whether the name begins with a marker."""
        return not self.name[:1].isalpha()


@dataclass
class Plot:
    """A plot as data.

    Attributes:
        percent: y are shares, written in per cent and never outside 0 to 1.
        categories: names of x = 0, 1, 2 …; x is numeric where there are none.
        empty: what to say while there is nothing to draw.
        y_range: fixed ends of the y axis.
        x_range: ends of the x axis that are always seen.
        note: shown at the lower edge.
        short_title: for narrow panels.
    """

    title: str
    curves: list[Curve] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    x_name: str = "x"
    percent: bool = False
    whole_x: bool = False
    can_log: bool = True
    categories: list[str] = field(default_factory=list)
    empty: str = "Nothing yet."
    y_range: tuple[float, float] | None = None
    x_range: tuple[float, float] | None = None
    note: str = ""
    short_title: str = ""


@dataclass(frozen=True)
class Look:
    """View settings of a plot: part of the x range (0 to 1), smoothing (0 is off), log axis."""

    start: float = 0.0
    end: float = 1.0
    smoothing: float = 0.0
    log: bool = False

    def zoom(self, factor: float, centre: float = 0.5) -> Look:
        """A part of the range that is ``factor`` times as wide, around a place in it (0 to 1)."""
        width = self.end - self.start
        middle = self.start + centre * width
        new = min(1.0, max(0.002, width * factor))
        start = min(max(0.0, middle - new * centre), 1.0 - new)
        return replace(self, start=start, end=start + new)

    def pan(self, share: float) -> Look:
        """Moved by a share of what is seen."""
        width = self.end - self.start
        start = min(max(0.0, self.start + share * width), 1.0 - width)
        return replace(self, start=start, end=start + width)


@dataclass
class Frame:
    """Geometry of a drawn plot: plot area in characters and the range of values; for reading values back."""

    left: int
    top: int
    width: int
    height: int
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log: bool


@dataclass
class Picture:
    """A drawn plot: its lines, and the frame (None where there was nothing to draw).

    ``named``: the x axis has its name below it.
    """

    lines: list[Line]
    frame: Frame | None
    named: bool = True


def full_range(plot: Plot) -> tuple[float, float] | None:
    """The range of x over all curves; None without points."""
    if plot.categories:
        return -0.5, len(plot.categories) - 0.5
    found = [c.x[np.isfinite(c.x)] for c in plot.curves if c.x.size]
    found = [x for x in found if x.size]
    if not found:
        return None
    low, high = min(float(x.min()) for x in found), max(float(x.max()) for x in found)
    if plot.x_range is not None:
        return min(low, plot.x_range[0]), max(high, plot.x_range[1])
    for curve in plot.curves:
        if curve.draw == "bars" and curve.x.size > 1:  # a bar is as wide as the distance to the next
            half = float(curve.x[1] - curve.x[0]) / 2
            return low - half, high + half
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def value_at(plot: Plot, frame: Frame, column: int) -> tuple[float, list[tuple[Curve, float]]]:
    """The x under a column of the plot area, and the curves with their values at their nearest points."""
    x = frame.x_low + (column + 0.5) / frame.width * (frame.x_high - frame.x_low)
    found = []
    for curve in plot.curves:
        if curve.x.size and not curve.faint:
            place = int(np.argmin(np.abs(curve.x - x)))
            found.append((curve, float(curve.y[place])))
    return x, found
