"""The plots of a report, as PNG. Nothing here needs a screen or touches pyplot's global state."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ensemw2s.evaluation.over_seeds import AggregateResults
from ensemw2s.evaluation.results import Results
from ensemw2s.report.arm_plots import draw_paired, draw_seeds, draw_students
from ensemw2s.report.round_plots import draw_accuracy_by_round, draw_error_and_weight
from ensemw2s.report.theme import THEMES, Mode, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Dots an inch; figures are 9.8 inches wide.
DPI = 160


def run_plots(results: Results, mode: Mode = "light") -> dict[str, bytes]:
    """All plots of a run that have data: file stem → PNG."""
    theme = THEMES[mode]
    with drawing(theme):
        return _render(
            {
                "accuracy-by-round": draw_accuracy_by_round(results, theme),
                "error-and-weight": draw_error_and_weight(results, theme),
                "students": draw_students(results, theme),
            }
        )


def seed_plots(results: AggregateResults, mode: Mode = "light") -> dict[str, bytes]:
    """All plots of an aggregate: file stem → PNG."""
    theme = THEMES[mode]
    with drawing(theme):
        return _render({"seeds": draw_seeds(results, theme), "paired-differences": draw_paired(results, theme)})


def _render(figures: Mapping[str, Figure | None]) -> dict[str, bytes]:
    return {stem: _png(figure) for stem, figure in figures.items() if figure is not None}


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    # no Software entry: the same results give the same bytes
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()
