"""Plots by boosting round: accuracy, token error and expert weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ensemw2s.arms import BOOSTING, ENSEMBLE, TEST_SPLITS, arm_names
from ensemw2s.evaluation.intervals import wilson
from ensemw2s.evaluation.results import Results, RoundResult
from ensemw2s.report import wording as w
from ensemw2s.report.theme import PANEL_TITLES, Style, Theme, legend_below, panels, series_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))


def draw_accuracy_by_round(results: Results, theme: Theme) -> Figure | None:
    """Accuracy of each expert, of the ensemble so far and of the unboosted ensembles so far, on ID and OOD."""
    boosting = [entry for entry in results.rounds.get(BOOSTING, []) if entry.splits]
    splits = [split for split in TEST_SPLITS if any(split in entry.splits for entry in boosting)]
    if not splits:
        return None
    figure, places = panels(theme, len(splits), 3.7)
    for place, (split, axes) in enumerate(zip(splits, places, strict=True)):
        axes.set_title(PANEL_TITLES[split])
        axes.set_xlabel("round")
        if place == 0 or theme.narrow:
            axes.set_ylabel("accuracy in %" if results.task == "choice" else "token accuracy in %")
        _accuracy_panel(axes, results, split, boosting, theme)
        _whole_numbers(axes)
    count = len(figure.axes[0].get_legend_handles_labels()[1])
    columns = 2 if theme.narrow else count if count <= 5 else 3
    legend_below(figure, columns, handlelength=2.6, columnspacing=1.5)
    return figure


def _accuracy_panel(axes: Axes, results: Results, split: str, boosting: list[RoundResult], theme: Theme) -> None:
    style, label = series_style(ENSEMBLE, theme), f"{w.arm_label(ENSEMBLE)} so far"
    rounds, values = _line(axes, boosting, split, "ensemble_accuracy", style, label, front=1)
    for arm in arm_names(lambda spec: spec.kind == "teacher" and spec.several and spec.name != ENSEMBLE):
        members = results.rounds.get(arm, [])
        label = f"{w.arm_label(arm)} so far"
        _line(axes, members, split, "ensemble_accuracy", series_style(arm, theme), label)
    _line(axes, boosting, split, "expert_accuracy", series_style("expert", theme), "expert")
    low, high = axes.get_ylim()
    chosen = results.selected_rounds.get(BOOSTING)
    if chosen in rounds:
        value = values[rounds.index(chosen)]
        (ring,) = axes.plot([chosen], [value], "o", mfc="none", mec=theme.text, mew=1.3, ms=13, zorder=6)
        ring.set_label("chosen on validation")
    cell = results.arms.get(ENSEMBLE, {}).get(split)
    if cell is not None and results.task == "choice":
        bands = [wilson(round(v / 100 * cell.n), cell.n, results.level) for v in values]
        axes.fill_between(
            rounds,
            [100 * b.low for b in bands],
            [100 * b.high for b in bands],
            color=style.colour,
            alpha=0.13,
            linewidth=0,
            label=f"its {w.level_text(results.level)} interval",
            zorder=1,
        )
    # the curves decide the range, with room for a good part of the band
    room = max(2.0, 0.45 * (high - low))
    axes.set_ylim(max(-1.0, low - room), min(101.0, high + room))


def _line(
    axes: Axes, entries: list[RoundResult], split: str, field: str, style: Style, label: str, front: int = 0
) -> tuple[list[int], list[float]]:
    """Draw one series over rounds; does nothing where no round has the split."""
    found = [entry for entry in entries if split in entry.splits]
    rounds = [entry.round for entry in found]
    values = [100.0 * float(getattr(entry.splits[split], field)) for entry in found]
    if rounds:
        (line,) = axes.plot(rounds, values, color=style.colour, marker=style.marker, linestyle=style.line)
        line.set(label=label, zorder=3 + front)
    return rounds, values


def draw_error_and_weight(results: Results, theme: Theme) -> Figure | None:
    """Token error ``ε_t`` against its reference ``ε_0``, and expert weight ``α_t``, by boosting round."""
    entries = [e for e in results.rounds.get(BOOSTING, []) if e.epsilon is not None and e.alpha is not None]
    if not entries:
        return None
    figure, (left, right) = panels(theme, 2, 3.3)
    rounds = [e.round for e in entries]
    error, weight = series_style("expert", theme), series_style(ENSEMBLE, theme)
    left.set_title("Token error under the round's weights")
    left.set_ylabel("ε")
    left.plot(
        rounds, [float(e.epsilon or 0.0) for e in entries], color=error.colour, marker="x", label="ε of the expert"
    )
    prior = [(e.round, e.epsilon_prior) for e in entries if e.epsilon_prior is not None]
    if prior:
        left.plot(
            [r for r, _ in prior],
            [p for _, p in prior],
            color=theme.faint,
            marker="v",
            ls="--",
            label="ε₀, the reference of α",
        )
    left.set_ylim(0.0, 1.0)
    left.legend(loc="best")
    right.set_title("Expert weight")
    right.set_ylabel("α")
    right.axhline(0.0, color=theme.faint, linewidth=1.0)
    for kept, face, label in ((True, weight.colour, "kept"), (False, theme.background, "dropped")):
        chosen = [e for e in entries if e.kept == kept]
        if not chosen:
            continue
        x, y = [e.round for e in chosen], [float(e.alpha or 0.0) for e in chosen]
        right.vlines(x, 0.0, y, color=weight.colour, linewidth=2.2)
        right.plot(x, y, "o", mfc=face, mec=weight.colour, ms=8, mew=1.6, label=label)
    if any(not e.kept for e in entries):
        right.legend(loc="best")
    for axes in (left, right):
        axes.set_xlabel("round")
        axes.set_xlim(min(rounds) - 0.4, max(rounds) + 0.4)
        _whole_numbers(axes)
    return figure
