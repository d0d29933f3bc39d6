"""Plots that compare arms: students between the weak experts and the ceiling, and arms over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from ensemw2s.arms import CEILING, TEST_SPLITS, arm_names, arm_spec
from ensemw2s.evaluation.metrics import ArmResult
from ensemw2s.evaluation.over_seeds import AggregateResults, SeedSummary
from ensemw2s.evaluation.results import Results
from ensemw2s.report import wording as w
from ensemw2s.report.theme import NARROW, PANEL_TITLES, WIDE, Theme, new_figure, panels, series_style, text_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")


def draw_students(results: Results, theme: Theme) -> Figure | None:
    """Weak arms, students and ceiling with their intervals, on ID and OOD."""

    def draw(axes: Axes, row: int, arm: str, cell: ArmResult) -> None:
        style, value, high = series_style(arm, theme), 100 * cell.accuracy, 100 * cell.high
        spread = [[value - 100 * cell.low], [high - value]]
        axes.errorbar([value], [row], xerr=spread, mew=1.8, elinewidth=1.8, capsize=3, **style.point())
        _value(axes, high, row, w.percent(cell.accuracy), theme)
        if arm in (results.weak, CEILING):
            axes.axvline(value, color=style.colour, ls=":", lw=1.3, zorder=0)

    level, turn = w.level_text(results.level), "\n" if theme.narrow else " "
    note = f"accuracy in %, {level} intervals;{turn}dotted: {w.arm_label(results.weak)} and ceiling"
    return _ladder(results.arms, theme, 0.33, note, draw)


def _ladder(
    arms: Mapping[str, Mapping[str, T]],
    theme: Theme,
    height: float,
    note: str,
    draw: Callable[[Axes, int, str, T], None],
) -> Figure | None:
    """A panel a split, with a row of ``height`` inches an arm."""
    # zero-shot bases would only stretch the axis
    cells = {arm: arms[arm] for arm in arm_names(lambda spec: spec.main) if arm in arms}
    splits = [split for split in TEST_SPLITS if any(split in by_split for by_split in cells.values())]
    if not splits:
        return None
    figure, places = panels(theme, len(splits), 1.45 + height * len(cells), share_y=True)
    for place, (split, axes) in enumerate(zip(splits, places, strict=True)):
        _ladder_panel(axes, list(cells), split, theme, labelled=theme.narrow or place == 0)
        for row, (arm, by_split) in enumerate(cells.items()):
            if split in by_split:
                draw(axes, row, arm, by_split[split])
        _room_for_values(axes)
    figure.supxlabel(note, fontsize=10)
    return figure


def _ladder_panel(axes: Axes, arms: list[str], split: str, theme: Theme, *, labelled: bool) -> None:
    """A panel with one row an arm, the first at the top."""
    from matplotlib.ticker import MaxNLocator

    narrow = theme.narrow
    axes.xaxis.set_major_locator(MaxNLocator(5 if narrow else 7))
    axes.set_title(PANEL_TITLES[split].removesuffix(" questions"), loc="center" if narrow else "left")
    text_rows(axes, [w.arm_label(arm) for arm in arms], labelled=labelled)
    for row, (above, below) in enumerate(pairwise(arms)):
        if _block(above) != _block(below):
            axes.axhline(row + 0.5, color=theme.grid, linewidth=1.0)


def _block(arm: str) -> str:
    spec = arm_spec(arm)
    return spec.side if spec.side == "weak" else spec.kind


def _value(axes: Axes, x: float, row: float, text: str, theme: Theme) -> None:
    """A number to the right of an interval."""
    axes.annotate(text, (x, row), (6, 0), textcoords="offset points", va="center", fontsize=8.5, color=theme.text)


def _room_for_values(axes: Axes) -> None:
    """Widen the axis to the right, so that the last number stays inside."""
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.11 * (high - low))
    axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= min(high, 100.0)])


def draw_seeds(results: AggregateResults, theme: Theme) -> Figure | None:
    """Mean ± standard deviation of every arm over seeds, with the seeds as dots."""

    def draw(axes: Axes, row: int, arm: str, summary: SeedSummary) -> None:
        style, mean, sd = series_style(arm, theme), 100 * summary.mean, 100 * (summary.sd or 0.0)
        axes.errorbar([mean], [row], xerr=[sd], elinewidth=1.8, capsize=3, **style.point())
        values = [100 * value for value in summary.values]
        axes.plot(values, [row + 0.32] * len(values), ".", color=theme.text, alpha=0.75, ms=5)
        _value(axes, max(mean + sd, *values), row, w.percent(summary.mean), theme)

    turn = "\n" if theme.narrow else " "
    note = f"accuracy in %: mean ± standard deviation{turn}over {len(results.seeds)} seeds; a dot is a seed"
    return _ladder(results.arms, theme, 0.36, note, draw)


def draw_paired(results: AggregateResults, theme: Theme) -> Figure | None:
    """The planned claims: difference seed by seed, mean and interval of the paired t-test."""
    claims = [c for c in results.comparisons if c.claim]
    if not claims:
        return None
    figure = new_figure(NARROW if theme.narrow else WIDE, 1.3 + 0.42 * len(claims))
    axes = figure.add_subplot(1, 1, 1)
    axes.axvline(0.0, color=theme.faint, linewidth=1.2)
    for row, claim in enumerate(claims):
        style = series_style(claim.a, theme)
        mean = 100 * claim.mean
        if claim.low is not None and claim.high is not None:
            axes.hlines(row, 100 * claim.low, 100 * claim.high, color=style.colour, linewidth=2.0)
        axes.plot([mean], [row], style.marker, color=style.colour, ms=8.5)
        axes.plot(
            [100 * d for d in claim.differences], [row + 0.26] * len(claim.differences), ".", color=theme.text, ms=5
        )
    between = "\n" if theme.narrow else " "
    names = [f"{w.pair_label(c.a, c.b)},{between}{w.split_label(c.split)}" for c in claims]
    text_rows(axes, names)
    level = w.level_text(results.level)
    axes.set_xlabel(f"difference in points: mean with {level} interval (paired t, before Holm); a dot is a seed")
    return figure
