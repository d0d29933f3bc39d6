"""The plots of a report, as PNG. Nothing here needs a screen or touches pyplot's global state."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ensemw2s.evaluation.arms import TEST_SPLITS
from ensemw2s.evaluation.intervals import wilson
from ensemw2s.evaluation.over_seeds import AggregateResults
from ensemw2s.evaluation.results import Results, RoundResult
from ensemw2s.report import wording as w
from ensemw2s.report.theme import THEMES, Mode, Style, Theme, drawing, series_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160
_TITLES = {"test": "ID: held-out easy questions", "hard_test": "OOD: held-out hard questions"}
_MEMBERS = {"boosting": "ensemble", "bagging": "bagging", "seeds": "seeds"}


def run_plots(results: Results, mode: Mode = "light") -> dict[str, bytes]:
    """All plots of a run that have data: file stem → PNG."""
    plots: dict[str, Callable[[Results, Theme], Figure | None]] = {
        "accuracy-by-round": draw_accuracy_by_round,
        "error-and-weight": draw_error_and_weight,
        "students": draw_students,
    }
    return _render({stem: lambda theme, f=draw: f(results, theme) for stem, draw in plots.items()}, mode)


def seed_plots(results: AggregateResults, mode: Mode = "light") -> dict[str, bytes]:
    """All plots of an aggregate: file stem → PNG."""
    plots: dict[str, Callable[[AggregateResults, Theme], Figure | None]] = {
        "seeds": draw_seeds,
        "paired-differences": draw_paired,
    }
    return _render({stem: lambda theme, f=draw: f(results, theme) for stem, draw in plots.items()}, mode)


def _render(plots: Mapping[str, Callable[[Theme], Figure | None]], mode: Mode) -> dict[str, bytes]:
    out = {}
    with drawing(THEMES[mode]):
        for stem, draw in plots.items():
            figure = draw(THEMES[mode])
            if figure is not None:
                out[stem] = _png(figure)
    return out


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    # no Software entry: the same results give the same bytes
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


# --- by round ---------------------------------------------------------------------------------------------------------


def draw_accuracy_by_round(results: Results, theme: Theme) -> Figure | None:
    """Accuracy of each expert, of the ensemble so far and of the unboosted ensembles so far, on ID and OOD."""
    boosting = [entry for entry in results.rounds.get("boosting", []) if entry.splits]
    splits = [split for split in TEST_SPLITS if any(split in entry.splits for entry in boosting)]
    if not splits:
        return None
    figure = _figure(4.9 * len(splits), 3.7)
    for place, split in enumerate(splits):
        axes = figure.add_subplot(1, len(splits), place + 1)
        axes.set_title(_TITLES[split])
        axes.set_xlabel("round")
        if place == 0:
            axes.set_ylabel("accuracy in %" if results.task == "choice" else "token accuracy in %")
        _accuracy_panel(axes, results, split, boosting, theme)
        _whole_numbers(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), handlelength=2.6)
    return figure


def _accuracy_panel(axes: Axes, results: Results, split: str, boosting: list[RoundResult], theme: Theme) -> None:
    _line(axes, boosting, split, "expert_accuracy", series_style("expert", theme), "expert")
    for group, arm in _MEMBERS.items():
        if group == "boosting":
            continue
        members = results.rounds.get(group, [])
        label = f"{w.arm_label(arm)} so far"
        _line(axes, members, split, "ensemble_accuracy", series_style(arm, theme), label)
    style = series_style("ensemble", theme)
    rounds, values = _line(axes, boosting, split, "ensemble_accuracy", style, "boosted ensemble so far")
    low, high = axes.get_ylim()
    chosen = results.selected_rounds.get("boosting")
    if chosen in rounds:
        value = values[rounds.index(chosen)]
        ring = {"mfc": "none", "mec": theme.text, "mew": 1.3, "ms": 13}
        axes.plot([chosen], [value], "o", **ring, zorder=6, label="chosen on validation")
    cell = results.arms.get("ensemble", {}).get(split)
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
        )
    # the curves decide the range, with room for a good part of the band
    room = max(2.0, 0.45 * (high - low))
    axes.set_ylim(max(-1.0, low - room), min(101.0, high + room))


def _line(
    axes: Axes, entries: list[RoundResult], split: str, field: str, style: Style, label: str
) -> tuple[list[int], list[float]]:
    """Draw one series over rounds; does nothing where no round has the split."""
    found = [entry for entry in entries if split in entry.splits]
    rounds = [entry.round for entry in found]
    values = [100.0 * float(getattr(entry.splits[split], field)) for entry in found]
    if rounds:
        axes.plot(rounds, values, color=style.colour, marker=style.marker, linestyle=style.line, label=label)
    return rounds, values


def draw_error_and_weight(results: Results, theme: Theme) -> Figure | None:
    """Token error ``ε_t`` against the prior ``ε_0``, and expert weight ``α_t``, by boosting round."""
    entries = [e for e in results.rounds.get("boosting", []) if e.epsilon is not None and e.alpha is not None]
    if not entries:
        return None
    figure = _figure(9.8, 3.3)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    rounds = [e.round for e in entries]
    error, weight = series_style("expert", theme), series_style("ensemble", theme)
    left.set_title("Token error under the round's weights")
    left.set_ylabel("ε")
    left.plot(rounds, [e.epsilon for e in entries], color=error.colour, marker="x", label="ε of the expert")
    prior = [(e.round, e.epsilon_prior) for e in entries if e.epsilon_prior is not None]
    if prior:
        x, y = zip(*prior, strict=True)
        left.plot(x, y, color=theme.faint, marker="v", ls="--", label="ε₀ of the pre-trained base")
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


# --- arms -------------------------------------------------------------------------------------------------------------

#: The arms of the plot of students, from top to bottom.
_LADDER = (
    "weak_zero_shot",
    "strong_zero_shot",
    "single",
    "bagging",
    "seeds",
    "ensemble",
    "student_single",
    "student_plain",
    "student_bagging",
    "student_seeds",
    "student_ensemble",
    "ceiling",
)


def draw_students(results: Results, theme: Theme) -> Figure | None:
    """Weak arms, students and ceiling with their intervals, on ID and OOD."""
    cells = {arm: results.arms[arm] for arm in _LADDER if arm in results.arms}
    splits = [split for split in TEST_SPLITS if any(split in by_split for by_split in cells.values())]
    if not splits:
        return None
    figure = _figure(9.8, 1.45 + 0.33 * len(cells))
    first: Axes | None = None
    for place, split in enumerate(splits):
        axes = figure.add_subplot(1, len(splits), place + 1, sharey=first)
        _ladder_panel(axes, list(cells), split, theme, labelled=first is None)
        first = first or axes
        for row, (arm, by_split) in enumerate(cells.items()):
            cell = by_split.get(split)
            if cell is None:
                continue
            style = series_style(arm, theme)
            value = 100 * cell.accuracy
            spread = [[value - 100 * cell.low], [100 * cell.high - value]]
            size = 12.0 if style.marker == "*" else 7.5
            axes.errorbar(
                [value], [row], xerr=spread, fmt=style.marker, color=style.colour, ms=size, mew=1.8, elinewidth=1.8, capsize=3
            )
            _value(axes, 100 * cell.high, row, w.percent(cell.accuracy), theme)
        for arm, line in (("single", ":"), ("ceiling", ":")):
            if arm in cells and split in cells[arm]:
                style = series_style(arm, theme)
                axes.axvline(100 * cells[arm][split].accuracy, color=style.colour, ls=line, lw=1.2, zorder=0)
    figure.supxlabel(f"accuracy in %, with {w.level_text(results.level)} intervals", fontsize=10)
    return figure


def _ladder_panel(axes: Axes, arms: list[str], split: str, theme: Theme, *, labelled: bool) -> None:
    """A panel with one row an arm, the first at the top."""
    axes.set_title(_TITLES[split])
    axes.set_yticks(range(len(arms)), [w.arm_label(arm) for arm in arms])
    axes.tick_params(axis="y", length=0, labelleft=labelled)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    for row, (above, below) in enumerate(zip(arms, arms[1:], strict=False)):
        if _group(above) != _group(below):
            axes.axhline(row + 0.5, color=theme.grid, linewidth=1.0)


def _group(arm: str) -> str:
    if arm.endswith("zero_shot"):
        return "zero-shot"
    if arm.startswith("student_"):
        return "student"
    return "ceiling" if arm == "ceiling" else "weak"


def _value(axes: Axes, x: float, row: float, text: str, theme: Theme) -> None:
    """A number to the right of an interval."""
    axes.annotate(text, (x, row), (6, 0), textcoords="offset points", va="center", fontsize=8.5, color=theme.text)


def draw_seeds(results: AggregateResults, theme: Theme) -> Figure | None:
    """Mean ± standard deviation of every arm over seeds, with the seeds as dots."""
    cells = {arm: results.arms[arm] for arm in _LADDER if arm in results.arms}
    splits = [split for split in TEST_SPLITS if any(split in by_split for by_split in cells.values())]
    if not splits:
        return None
    figure = _figure(9.8, 1.45 + 0.36 * len(cells))
    first: Axes | None = None
    for place, split in enumerate(splits):
        axes = figure.add_subplot(1, len(splits), place + 1, sharey=first)
        _ladder_panel(axes, list(cells), split, theme, labelled=first is None)
        first = first or axes
        for row, (arm, by_split) in enumerate(cells.items()):
            summary = by_split.get(split)
            if summary is None:
                continue
            style = series_style(arm, theme)
            mean, sd = 100 * summary.mean, 100 * (summary.sd or 0.0)
            axes.errorbar([mean], [row], xerr=[sd], fmt="|", color=style.colour, ms=15, mew=2.4, elinewidth=2.0, capsize=4)
            values = [100 * value for value in summary.values]
            axes.plot(values, [row + 0.24] * len(values), ".", color=theme.text, alpha=0.75, ms=5)
            _value(axes, max(mean + sd, *values), row, w.percent(summary.mean), theme)
    seeds = len(results.seeds)
    figure.supxlabel(f"accuracy in %: mean ± standard deviation over {seeds} seeds; a dot is a seed", fontsize=10)
    return figure


def draw_paired(results: AggregateResults, theme: Theme) -> Figure | None:
    """The planned claims: difference seed by seed, mean and interval of the paired t-test."""
    claims = [c for c in results.comparisons if c.claim]
    if not claims:
        return None
    figure = _figure(9.8, 1.3 + 0.42 * len(claims))
    axes = figure.add_subplot(1, 1, 1)
    axes.axvline(0.0, color=theme.faint, linewidth=1.2)
    for row, claim in enumerate(claims):
        style = series_style(claim.a, theme)
        mean = 100 * claim.mean
        if claim.low is not None and claim.high is not None:
            axes.hlines(row, 100 * claim.low, 100 * claim.high, color=style.colour, linewidth=2.0)
        axes.plot([mean], [row], style.marker, color=style.colour, ms=8.5)
        axes.plot([100 * d for d in claim.differences], [row + 0.26] * len(claim.differences), ".", color=theme.text, ms=5)
    axes.set_yticks(range(len(claims)), [f"{w.pair_label(c.a, c.b)}, {w.split_label(c.split)}" for c in claims])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(claims) - 0.4, -0.6)
    level = w.level_text(results.level)
    axes.set_xlabel(f"difference in points: mean with {level} interval (paired t, before Holm); a dot is a seed")
    return figure
