"""Plots beyond accuracy by arm: reliability, and accuracy against cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ensemw2s.arms import (
    HEADLINES,
    SINGLE,
    TEST_SPLITS,
    arm_names,
    is_strong,
    labelling_teacher,
    sorted_arms,
    without_experts,
)
from ensemw2s.evaluation.reliability import Reliability
from ensemw2s.evaluation.results import Results
from ensemw2s.report import wording as w
from ensemw2s.report.theme import PANEL_TITLES, Theme, legend_below, panels, series_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Arms of the reliability plot.
_CURVES = sorted_arms([SINGLE, *dict(HEADLINES)])

#: Bins with fewer examples say nothing.
_SMALLEST_BIN = 5


def draw_reliability(results: Results, theme: Theme) -> Figure | None:
    """Accuracy against confidence: of arms on OOD, and of the labels on the hard pool."""
    measure = "option" if any(found.measure == "option" for found in results.reliability) else "token"
    here = [found for found in results.reliability if found.measure == measure]
    arms = [found for found in here if found.split == "hard_test" and found.name in _CURVES]
    labels = [found for found in here if found.split == "hard_pool"]
    groups = [(title, group) for title, group in (("Arms on OOD", arms), ("Labels of the hard pool", labels)) if group]
    if not groups:
        return None
    figure, places = panels(theme, len(groups), 4.2)
    for (title, group), axes in zip(groups, places, strict=True):
        axes.set_title(title)
        axes.plot([0, 100], [0, 100], color=theme.faint, linewidth=1.2, linestyle="--", label="calibrated")
        for found in sorted(group, key=lambda one: _CURVES.index(one.name) if one.name in _CURVES else 0):
            _curve(axes, found, theme)
        axes.set_xlim(0, 100)
        axes.set_ylim(-2, 102)
        axes.set_xlabel("share of the chosen option in %" if measure == "option" else "confidence in %")
        if axes is places[0] or theme.narrow:
            axes.set_ylabel("right in %")
        axes.legend(loc="lower right", fontsize=8.5)
    return figure


def _curve(axes: Axes, found: Reliability, theme: Theme) -> None:
    teacher = labelling_teacher(found.name)
    style = series_style(teacher or found.name, theme)
    bins = [b for b in found.bins if b.n >= _SMALLEST_BIN]
    name = w.arm_label(found.name) if teacher is None else w.teacher_label(teacher)
    x, y = [100 * b.confidence for b in bins], [100 * b.accuracy for b in bins]
    spread = [
        [value - 100 * b.accuracy_low for value, b in zip(y, bins, strict=True)],
        [100 * b.accuracy_high - value for value, b in zip(y, bins, strict=True)],
    ]
    axes.errorbar(
        x,
        y,
        yerr=spread,
        color=style.colour,
        marker=style.marker,
        ms=style.size(6.0, 11.0),
        linewidth=1.3,
        elinewidth=0.9,
        label=f"{name}, ECE {100 * found.ece:.1f}",
    )


def _few_powers(axes: Axes) -> None:
    """Ticks of a logarithmic axis as ``50 G``, ``100 G``, as many as there is room for."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axes.get_xlim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) <= 6:
            break
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: w.round_number(value)))


def _front(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """The points (cost, accuracy) that no point of the same or a lower cost surpasses, by cost."""
    front: list[tuple[int, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


def draw_cost(results: Results, theme: Theme) -> Figure | None:
    """Accuracy of every arm against the operations that it takes to build it, on ID and OOD.

    A line along the front of each side: what no cheaper arm of the same base reaches.
    """
    costs = results.arm_costs
    arms = [arm for arm in without_experts(costs) if costs[arm].total and arm in results.arms]
    splits = [split for split in TEST_SPLITS if any(split in results.arms[arm] for arm in arms)]
    if not splits:
        return None
    figure, places = panels(theme, len(splits), 4.6)
    for split, axes in zip(splits, places, strict=True):
        axes.set_title(PANEL_TITLES[split])
        axes.set_xscale("log")
        for arm in arms:
            cell, style = results.arms[arm].get(split), series_style(arm, theme)
            if cell is None:
                continue
            value = 100 * cell.accuracy
            axes.errorbar(
                [costs[arm].total],
                [value],
                yerr=[[value - 100 * cell.low], [100 * cell.high - value]],
                **style.point(),
                mew=1.6,
                elinewidth=1.0,
                label=w.arm_label(arm),
            )
        for strong in (False, True):
            same = [arm for arm in arms if is_strong(arm) is strong and split in results.arms[arm]]
            front = _front([(costs[arm].total, 100 * results.arms[arm][split].accuracy) for arm in same])
            axes.step(*zip(*front, strict=True), where="post", color=theme.faint, lw=1.4, zorder=1) if front else None
        for arm in arm_names(lambda spec: spec.kind == "zero-shot"):
            cell = results.arms.get(arm, {}).get(split)
            if cell is not None:
                line = "--" if is_strong(arm) else ":"
                axes.axhline(100 * cell.accuracy, color=theme.faint, ls=line, lw=1.2, label=w.arm_label(arm), zorder=0)
        axes.set_xlabel("operations to build it (FLOP)")
        _few_powers(axes)
        if axes is places[0] or theme.narrow:
            axes.set_ylabel("accuracy in %")
    legend_below(figure, 2 if theme.narrow else 4, 8.5)
    return figure
