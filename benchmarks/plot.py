"""Draw stored results: every ratio that has a goal, on a logarithmic axis, against what it should reach.

python benchmarks/plot.py                     results/cpu.json -> results/cpu.png
python benchmarks/plot.py results/other.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"

# Okabe and Ito's colours, and a shape for each, so that nothing hangs on colour.
_LOOKS = {"stretch": ("#0072B2", "o"), "safe": ("#E69F00", "s"), "missed": ("#D55E00", "X")}
_WORDS = {"stretch": "stretch goal met", "safe": "safe goal met", "missed": "not met"}
_BAND, _TEXT, _FAINT = "#dfe3e8", "#1c1e21", "#6b7178"
_ROW = 0.165  # inches


@dataclass(frozen=True)
class Line:
    """One ratio or share."""

    label: str
    safe: float
    stretch: float
    reached: float
    verdict: str


def grouped(report: Mapping[str, Any], *, share: bool) -> dict[str, list[Line]]:
    """By goal, in the order of the cases.

    Args:
        report: what ``run.py`` wrote.
        share: shares of the read bandwidth, in percent, rather than ratios.
    """
    groups: dict[str, list[Line]] = {}
    for case in report["cases"]:
        for goal in case["goals"]:
            if goal["share"] == share:
                safe, stretch, reached = (100 * goal[k] if share else goal[k] for k in ("safe", "stretch", "reached"))
                line = Line(_short(case["case"]), safe, stretch, reached, goal["verdict"])
                groups.setdefault(goal["goal"], []).append(line)
    return groups


def _short(case: str) -> str:
    """A case's name without what its goal says already."""
    for long, short in (
        ("combine, whole rows, ", ""),
        ("combine ", ""),
        (" N=64", ""),
        (" without replacement", ""),
        ("update of ", ""),
        (", 50000 segments", ""),
    ):
        case = case.replace(long, short)
    return case


def draw(report: Mapping[str, Any], path: Path) -> Path | None:
    """Write a PNG of a report; None where it has no goals to draw."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = [(groups, share) for share in (False, True) if (groups := grouped(report, share=share))]
    if not panels:
        return None
    heights = [sum(1.6 + len(lines) for lines in groups.values()) + 0.6 for groups, _ in panels]
    style: Any = {"font.size": 8, "axes.labelsize": 8, "font.family": "DejaVu Sans", "text.color": _TEXT}
    with mpl.rc_context(style):
        figure = Figure(figsize=(6.8, _ROW * sum(heights) + 1.5), dpi=150, layout="constrained")
        axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
        for ax, (groups, share) in zip(axes, panels, strict=True):
            _panel(ax, groups, share)
        _legend(figure)
        figure.savefig(path)
    return path


def _panel(ax: Axes, groups: Mapping[str, list[Line]], share: bool) -> None:
    place, ticks, labels = 0.0, [], []
    for goal, lines in groups.items():
        title = ax.text(0, place + 0.5, goal, transform=ax.get_yaxis_transform(), weight="bold", va="center")
        title.set_in_layout(False)
        place += 1.4
        for line in lines:
            _line(ax, place, line, share)
            ticks.append(place)
            labels.append(line.label)
            place += 1
        place += 0.2
    ax.set_ylim(place + 0.1, -0.4)
    ax.set_yticks(ticks, labels)
    ax.tick_params(axis="y", length=0, colors=_TEXT)
    ax.tick_params(axis="x", colors=_FAINT)
    ax.grid(axis="x", color="#eceef1", linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "left", "right"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color("#c5cad0")
    if share:
        ax.set_xlim(0, 100)
        ax.set_xlabel("share of the bandwidth of a plain read, %")
        return
    every = [line for lines in groups.values() for line in lines]
    highest = max(max(line.stretch, line.reached) for line in every)
    lowest = min(min(line.safe, line.reached) for line in every)
    ax.set_xscale("log")
    ax.set_xlim(min(1.0, lowest * 0.8), highest * 1.3)
    shown = [tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if lowest * 0.5 < tick < highest * 1.3]
    ax.set_xticks(shown, [f"×{tick:g}" for tick in shown])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("times faster (logarithmic)")


def _line(ax: Axes, place: float, line: Line, share: bool) -> None:
    colour, marker = _LOOKS[line.verdict]
    ax.barh(place, line.stretch - line.safe, left=line.safe, height=0.62, color=_BAND, linewidth=0)
    ax.plot([line.stretch] * 2, [place - 0.31, place + 0.31], color=_FAINT, linewidth=1.2)
    ax.plot([line.safe] * 2, [place - 0.31, place + 0.31], color=_FAINT, linewidth=1.2, linestyle=(0, (1.2, 0.9)))
    ax.plot(line.reached, place, marker, color=colour, markersize=5.5, markeredgecolor="white", markeredgewidth=0.5)
    text = f"{line.reached:.0f} %" if share else f"×{line.reached:.3g}"
    ax.annotate(text, (1.09, place), xycoords=("axes fraction", "data"), ha="right", va="center", color=_TEXT)


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5.5, label=_WORDS[verdict])
        for verdict, (colour, marker) in _LOOKS.items()
    ]
    handles.append(Patch(color=_BAND, label="from the safe (dotted) to the stretch goal"))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=4, frameon=False, handletextpad=0.4, columnspacing=1.2
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS / "cpu.json")
    parser.add_argument("--out", type=Path, help="PNG file; beside the results by default")
    options = parser.parse_args()
    report = json.loads(options.results.read_text(encoding="utf-8"))
    path = draw(report, options.out or options.results.with_suffix(".png"))
    if path is None:
        print(f"{options.results} has no goals to draw", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
