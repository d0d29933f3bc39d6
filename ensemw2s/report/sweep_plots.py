"""Plot of a sweep: every cell on ID and OOD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ensemw2s.arms import TEST_SPLITS
from ensemw2s.evaluation.over_cells import CellResult, SweepResults
from ensemw2s.report import wording as w
from ensemw2s.report.theme import PANEL_TITLES, Theme, legend_below, panels, series_style, text_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST = 34


def draw_cells(results: SweepResults, theme: Theme) -> Figure | None:
    """Mean ± standard deviation of the compared arms in every cell, with the seeds as dots."""
    cells = [cell for cell in results.cells if any(arm in cell.arms for arm in results.compared)]
    splits = [s for s in TEST_SPLITS if any(s in c.arms.get(arm, {}) for c in cells for arm in results.compared)]
    if not splits:
        return None
    figure, places = panels(theme, len(splits), 1.7 + 0.5 * len(cells), share_y=True)
    for place, (split, axes) in enumerate(zip(splits, places, strict=True)):
        axes.set_title(PANEL_TITLES[split].removesuffix(" questions"), loc="center" if theme.narrow else "left")
        for offset, arm in enumerate(results.compared):
            _rows(axes, results, cells, split, arm, 0.26 * (offset - (len(results.compared) - 1) / 2), theme)
        names = [_short(cell.name, 20 if theme.narrow else _LONGEST) for cell in cells]
        text_rows(axes, names, labelled=theme.narrow or place == 0)
        axes.set_xlabel("accuracy in %")
    legend_below(figure, 1 if theme.narrow else 3)
    return figure


def _rows(
    axes: Axes,
    results: SweepResults,
    cells: Sequence[CellResult],
    split: str,
    arm: str,
    shift: float,
    theme: Theme,
) -> None:
    style = series_style(arm, theme)
    label: str | None = w.arm_label(arm)
    for row, cell in enumerate(cells):
        summary = cell.arms.get(arm, {}).get(split)
        if summary is None:
            continue
        axes.errorbar(
            [100 * summary.mean],
            [row + shift],
            xerr=[100 * (summary.sd or 0.0)],
            fmt=style.marker,
            color=style.colour,
            ms=7.0,
            elinewidth=1.6,
            capsize=2.5,
            label=label,
        )
        label = None
        values = [100 * value for value in summary.values]
        axes.plot(values, [row + shift + 0.12] * len(values), ".", color=theme.text, alpha=0.7, ms=4)
        if cell.name == results.baseline:
            axes.axvline(100 * summary.mean, color=style.colour, ls=":", lw=1.1, zorder=0)


def _short(name: str, longest: int) -> str:
    """A cell's name over as many lines as it needs, broken between its settings."""
    lines = [""]
    for part in name.split(","):
        if lines[-1] and len(lines[-1]) + len(part) + 1 > longest:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] += ("," if lines[-1] else "") + part
    return "\n".join(lines)
