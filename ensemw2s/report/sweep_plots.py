"""Plots of a sweep: every cell on ID and OOD, and the boosted ensemble against its controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ensemw2s.arms import TEST_SPLITS
from ensemw2s.evaluation.over_cells import CellResult, ControlComparison, SweepResults
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


def draw_controls(results: SweepResults, theme: Theme) -> Figure | None:
    """The boosted ensemble minus each control of its cost, with intervals: means over cells, then every cell."""
    splits = [split for split in TEST_SPLITS if any(found.split == split for found in results.controls)]
    if not splits:
        return None
    rows = list(dict.fromkeys(found.cells for found in results.controls))
    labels = {found.cells: _row_name(found) for found in results.controls}
    controls = list(dict.fromkeys(found.control for found in results.controls))
    figure, places = panels(theme, len(splits), 1.7 + 0.5 * len(rows), share_y=True)
    for place, (split, axes) in enumerate(zip(splits, places, strict=True)):
        axes.set_title(PANEL_TITLES[split].removesuffix(" questions"), loc="center" if theme.narrow else "left")
        axes.axvline(0.0, color=theme.text, lw=1.1, zorder=0)
        for offset, control in enumerate(controls):
            own = [found for found in results.controls if (found.split, found.control) == (split, control)]
            heights = [rows.index(found.cells) + 0.18 * (offset - (len(controls) - 1) / 2) for found in own]
            style, values = series_style(control, theme), [100 * found.mean for found in own]
            half = [0.0 if found.high is None else 100 * (found.high - found.mean) for found in own]
            axes.errorbar(
                values,
                heights,
                xerr=half,
                fmt=style.marker,
                color=style.colour,
                ms=5.5,
                elinewidth=1.4,
                capsize=2.0,
                label=f"{w.MINUS} {w.arm_label(control)}",
            )
        names = [_short(labels[row], 20 if theme.narrow else _LONGEST) for row in rows]
        text_rows(axes, names, labelled=theme.narrow or place == 0)
        averaged = sum(len(row) > 1 for row in rows)
        if averaged:
            axes.axhline(averaged - 0.5, color=theme.grid, linewidth=1.0)
        axes.set_xlabel("boosted ensemble minus control, in points")
    legend_below(figure, 1 if theme.narrow else len(controls))
    return figure


def _row_name(found: ControlComparison) -> str:
    """The name of a cell, or what the cells have in common whose mean it is."""
    if len(found.cells) == 1:
        return found.cells[0]
    return "all with " + ", ".join(f"{k}={v}" for k, v in found.levels.items()) if found.levels else "all cells"


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
