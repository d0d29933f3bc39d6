"""Colours, markers and layout of plots: Okabe–Ito colours, and a marker for every series."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ensemw2s.arms import arm_spec
from ensemw2s.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: ``light`` is for files; ``page`` and ``phone`` serve both colour schemes, for their colours are CSS variables.
Mode = Literal["light", "page", "phone"]

PANEL_TITLES = {"test": "ID: held-out easy questions", "hard_test": "OOD: held-out hard questions"}

ORANGE, GREEN = "#E69F00", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"


@dataclass(frozen=True, slots=True)
class Theme:
    """Background, text and line colours. Okabe–Ito's blue is too dim on a dark ground: pages put sky blue there.

    A ``narrow`` figure has its panels below each other and is as wide as a phone.
    """

    background: str
    text: str
    faint: str
    grid: str
    blue: str
    green: str
    narrow: bool = False


_SIGNS = ("#fe0001", "#fe0002", "#fe0003", "#fe0004", "#fe0005", "#fe0006")

THEMES: dict[Mode, Theme] = {
    "light": Theme("#ffffff", "#1c1e21", "#6b7178", "#e3e5e8", BLUE, GREEN),
    "page": Theme(*_SIGNS),
    "phone": Theme(*_SIGNS, narrow=True),
}

#: What the colours of ``page`` and ``phone`` stand for.
CSS_VARIABLES = dict(zip(_SIGNS, ("ground", "text", "plot-faint", "plot-grid", "blue", "green"), strict=True))

#: Inches.
WIDE, NARROW = 9.8, 4.4


@dataclass(frozen=True, slots=True)
class Style:
    """Style of a series."""

    colour: str
    marker: str
    line: str = "-"

    def size(self, usual: float = 7.5, star: float = 12.0) -> float:
        """Size of the marker in points; a star looks smaller than it is."""
        return star if self.marker == "*" else usual

    def point(self) -> dict[str, Any]:
        """Keywords of matplotlib's ``errorbar`` for a single point."""
        return {"fmt": self.marker, "color": self.colour, "ms": self.size()}


def series_style(name: str, theme: Theme) -> Style:
    """Style of a series or an arm; the same arm looks the same in every plot."""
    colour, marker, line = arm_spec(name).plot
    named = {"orange": ORANGE, "vermillion": VERMILLION, "purple": PURPLE}
    return Style(named.get(colour) or getattr(theme, colour), marker, line)


@contextmanager
def drawing(theme: Theme) -> Iterator[None]:
    """Matplotlib's settings for our plots, whatever the user's own are."""
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context():
        # a name in a script that the font has not: an empty box in the figure, and the tables have the name
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.family": "DejaVu Sans",
                "font.size": 10.0,
                "text.parse_math": False,  # a dollar sign in a name is no formula
                "axes.titlesize": 11.0,
                "axes.titleweight": "bold",
                "axes.titlelocation": "left",
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "grid.linewidth": 0.8,
                "legend.frameon": False,
                "lines.linewidth": 1.8,
                "lines.markersize": 6.5,
                "figure.facecolor": theme.background,
                "savefig.facecolor": theme.background,
                "axes.facecolor": theme.background,
                "text.color": theme.text,
                "axes.labelcolor": theme.text,
                "axes.titlecolor": theme.text,
                "axes.edgecolor": theme.faint,
                "xtick.color": theme.faint,
                "ytick.color": theme.faint,
                "xtick.labelcolor": theme.text,
                "ytick.labelcolor": theme.text,
                "grid.color": theme.grid,
            }
        )
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that belongs to no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def panels(theme: Theme, count: int, height: float, *, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels, each ``height`` inches high: side by side, or below each other if narrow.

    ``share_y``: panels side by side share their vertical axis.
    """
    if theme.narrow:
        figure = new_figure(NARROW, height * count)
        return figure, [figure.add_subplot(count, 1, place + 1) for place in range(count)]
    figure = new_figure(WIDE if count > 1 else 0.62 * WIDE, height)
    axes: list[Axes] = []
    for place in range(count):
        axes.append(figure.add_subplot(1, count, place + 1, sharey=axes[0] if share_y and axes else None))
    return figure, axes


def text_rows(axes: Axes, names: Sequence[str], *, labelled: bool = True) -> None:
    """Make the vertical axis a list of names, the first at the top; ``labelled``: whether they are written."""
    axes.set_yticks(range(len(names)), [printable(name, keep="\n") for name in names])
    axes.tick_params(axis="y", length=0, labelleft=labelled)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(names) - 0.4, -0.6)


def legend_below(figure: Figure, columns: int, size: float = 9, **layout: float) -> None:
    """A legend of the first panel's series below all panels."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=size, **layout)
