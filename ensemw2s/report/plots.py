"""The plots of a report: PNG beside it, SVG inside it. Nothing here needs a screen or touches pyplot's global state."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from ensemw2s.evaluation.over_cells import SweepResults
from ensemw2s.evaluation.over_seeds import AggregateResults
from ensemw2s.evaluation.results import Results
from ensemw2s.report.analysis_plots import draw_cost, draw_reliability
from ensemw2s.report.arm_plots import draw_paired, draw_seeds, draw_students
from ensemw2s.report.round_plots import draw_accuracy_by_round, draw_error_and_weight
from ensemw2s.report.sweep_plots import draw_cells, draw_controls
from ensemw2s.report.theme import CSS_VARIABLES, THEMES, Mode, Theme, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

#: Dots an inch; figures are 9.8 inches wide.
DPI = 160

_RUN: Mapping[str, Callable[[Results, Theme], Figure | None]] = {
    "accuracy-by-round": draw_accuracy_by_round,
    "error-and-weight": draw_error_and_weight,
    "students": draw_students,
    "reliability": draw_reliability,
    "accuracy-against-cost": draw_cost,
}
_SEEDS: Mapping[str, Callable[[AggregateResults, Theme], Figure | None]] = {
    "seeds": draw_seeds,
    "paired-differences": draw_paired,
}


def run_plots(results: Results, mode: Mode = "light") -> dict[str, bytes]:
    """All plots of a run that have data: file stem → PNG, or for ``page`` and ``phone`` SVG to put into a page."""
    return _plots(_RUN, results, mode)


def seed_plots(results: AggregateResults, mode: Mode = "light") -> dict[str, bytes]:
    """All plots of an aggregate: file stem → PNG or SVG, as for :func:`run_plots`."""
    return _plots(_SEEDS, results, mode)


def sweep_plots(results: SweepResults, mode: Mode = "light") -> dict[str, bytes]:
    """All plots of a sweep: file stem → PNG or SVG, as for :func:`run_plots`."""
    return _plots({"cells": draw_cells, "controls": draw_controls}, results, mode)


def _plots(makers: Mapping[str, Callable[[T, Theme], Figure | None]], results: T, mode: Mode) -> dict[str, bytes]:
    theme = THEMES[mode]
    plots = {}
    with drawing(theme):
        for stem, draw in makers.items():
            figure = draw(results, theme)
            if figure is not None:
                plots[stem] = _svg(figure, f"{stem}-{mode}") if mode in ("page", "phone") else _png(figure)
    return plots


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    # no Software entry: the same results give the same bytes
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def _svg(figure: Figure, name: str) -> bytes:
    """The figure as an ``svg`` element for HTML: colours are the page's, its font too, ids are of this figure alone."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.S)
    # a style element inside a page would hold for the whole page
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"| xmlns(:xlink)?="[^"]*"| version="[^"]*"', "", text)
    text = re.sub(r'<svg width="[^"]*" height="[^"]*"|<svg height="[^"]*" width="[^"]*"', "<svg", text, count=1)
    text = text.replace("'DejaVu Sans'", "var(--font)")
    for sign, variable in CSS_VARIABLES.items():
        text = text.replace(sign, f"var(--{variable})")
    return re.sub(r"\n\s*", "\n", text).strip().encode()
