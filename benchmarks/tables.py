"""Results as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from case import CACHED


def publish(folder: Path, name: str, record: Mapping[str, Any], text: str) -> None:
    """Write ``name.json`` and ``name.md`` into the folder and print the text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def markdown(report: Mapping[str, Any], *, head: bool = True) -> str:
    """The tables of a report of ``run.py``."""
    lines: list[str] = []
    if head:
        machine = report["device"]
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        lines += [
            "# The kernels on the CPU",
            "",
            f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {machine['simd']}, "
            f"{machine['system']}; {machine['compiler']}; {versions}. "
            f"Measured {report['measured']}.",
            "",
            "The ways of a case run in turn, round after round. Times are medians (20th to 80th percentile); a ratio is",
            "the median over rounds. GB/s counts the bytes that must move at least once, in the best time; the share is",
            "of what a sum over the same bytes reaches in its best time in the same run. Memory is the peak beyond the",
            "inputs. `Others` is the share of the cores that other work on the machine had meanwhile.",
            "",
            *_goals(report["cases"]),
            "## Cases",
            "",
        ]
    for case in report["cases"]:
        lines += _case(case)
    return "\n".join(lines).rstrip() + "\n"


def _goals(cases: list[dict[str, Any]]) -> list[str]:
    rows = [(goal, case["case"]) for case in cases for goal in case["goals"]]
    if not rows:
        return []
    out = ["## Goals", "", "| goal | case | safe | stretch | reached | |", "| --- | --- | --: | --: | --: | --- |"]
    for goal, case in rows:
        shown = [_share(goal[k]) if goal["share"] else f"×{goal[k]:.3g}" for k in ("safe", "stretch", "reached")]
        verdict = {"stretch": "stretch met", "safe": "safe met", "missed": "not met"}[goal["verdict"]]
        out.append(f"| {goal['goal']} | {case} | {' | '.join(shown)} | {verdict} |")
    return [*out, ""]


def _case(case: Mapping[str, Any]) -> list[str]:
    size = case["bytes"]
    out = [
        f"### {case['case']}",
        "",
        f"{size / 1e6:.0f} MB must move; {case['ours']}: {size / case['ways'][case['ours']]['best'] / 1e9:.1f} GB/s, "
        f"{_share(case['share_of_read'])} of a plain read.{_others(case['others'])}{_arithmetic(case)}",
        "",
        "| way | ms | 20 % – 80 % | ours is faster | memory, MB |",
        "| --- | --: | --: | --: | --: |",
    ]
    for name, way in case["ways"].items():
        ratio = f"×{case['ratios'][name]:.3g}" if name in case["ratios"] and name not in ("read", CACHED) else ""
        memory = "" if way["memory"] is None else f"{way['memory'] / 1e6:.1f}"
        spread = f"{way['p20'] * 1e3:.1f} – {way['p80'] * 1e3:.1f}"
        out.append(f"| {name} | {way['p50'] * 1e3:.2f} | {spread} | {ratio} | {memory} |")
    out += [f"| {name} | | | {why} | |" for name, why in case["skipped"].items()]
    return [*out, ""]


def _arithmetic(case: Mapping[str, Any]) -> str:
    if CACHED not in case["ways"]:
        return ""
    share = case["ways"][CACHED]["best"] / case["ways"][case["ours"]]["best"]
    return f" With its rows in the cache it takes {_share(share)} of the time."


def _others(share: float | None) -> str:
    return "" if share is None else f" Others: {_share(share)}."


def goal_line(reached: float, safe: float, stretch: float) -> str:
    """One ratio against its goals."""
    verdict = "stretch met" if reached >= stretch else "safe met" if reached >= safe else "not met"
    return f"Goal: ×{safe:.3g}, stretch ×{stretch:.3g}; reached ×{reached:.3g}: {verdict}."


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"
