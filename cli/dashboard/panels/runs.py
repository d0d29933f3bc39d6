"""The Runs and System views' panels as lines."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ensemw2s.arms import HEADLINES, is_expert, sorted_arms
from ensemw2s.cli.dashboard.drawing.palette import CYCLE
from ensemw2s.cli.dashboard.drawing.text import Line, bar, cut, fit, line_width, width_of, wrap
from ensemw2s.cli.dashboard.model.fields import NAN, known
from ensemw2s.cli.dashboard.model.model import RunModel
from ensemw2s.cli.dashboard.model.names import TESTS, ago, arm_name, clean, pair, size
from ensemw2s.cli.dashboard.model.status_text import life_text
from ensemw2s.cli.dashboard.panels.context import PanelContext
from ensemw2s.runs.describe import RunInfo
from ensemw2s.runs.listing import SweepInfo, by_name

_STAGE = 26


def matching_runs(context: PanelContext) -> list[RunInfo]:
    """The runs that match the filter: those of a sweep together, where its newest one is."""
    words = context.choices.run_search.casefold().split()
    groups: dict[str, list[RunInfo]] = {}
    for run in context.watcher.runs:
        text = f"{run.name} {run.sweep} {run.state} {run.preset} {run.stage} {run.task}".casefold()
        if all(word in text for word in words):
            groups.setdefault(str(run.path) if run.sweep is None else f"sweep {run.sweep}", []).append(run)
    return [run for group in groups.values() for run in sorted(group, key=by_name)]


@dataclass(frozen=True)
class _Columns:
    """Columns that fit in the list of runs."""

    name: int
    preset: bool
    results: tuple[tuple[str, str], ...]
    last: bool

    @classmethod
    def of(cls, width: int, longest: int) -> _Columns:
        """For a width, and the columns of the longest name: a preset makes way for it, as names tell it mostly."""
        results = HEADLINES if width >= 112 else HEADLINES[1:3] if width >= 74 else ()
        last = width >= 126
        rest = width - (4 + 13 + 6 + 14 * len(results) + (12 + _STAGE) * last)
        preset = width >= 88 and rest - 11 > min(longest, 43)
        return cls(max(12, min(44, rest - 11 * preset)), preset, results, last)

    def head(self, width: int) -> Line:
        """The names of the columns."""
        head = fit("", 4) + fit("run", self.name) + fit("state", 13) + fit("seed", 6)
        head += (fit("preset", 11) if self.preset else "") + "".join(fit(label, 14, ">") for _, label in self.results)
        return [(cut(head + (fit("last sign", 12, ">") + "  stage" if self.last else ""), width), "dim")]


def run_list_lines(context: PanelContext, width: int) -> tuple[list[Line], list[int | None], list[RunInfo]]:
    """A line a run: mark, state, name, preset, seed, stage, key results ID / OOD. Above those of a sweep, the sweep."""
    runs = matching_runs(context)
    if not runs:
        text = "No run matches." if context.choices.run_search else "No run below this folder yet."
        return [[(text, "dim")]], [None], []
    columns = _Columns.of(width, max(width_of(_name(run)) for run in runs))
    lines: list[Line] = [columns.head(width)]
    items: list[int | None] = [None]
    sweeps = {sweep.name: sweep for sweep in context.watcher.sweeps}
    above: str | None = None
    for place, run in enumerate(runs):
        if run.sweep != above and run.sweep in sweeps:
            lines.append(_sweep_line(sweeps[run.sweep], columns, width))
            items.append(None)
        above = run.sweep
        lines.append(_run_line(context, run, columns))
        items.append(place)
    return lines, items, runs


def _sweep_line(sweep: SweepInfo, columns: _Columns, width: int) -> Line:
    """A sweep: name, state, how far it is."""
    state, colour = life_text(sweep.state)
    line: Line = [
        ("  ", "text"),
        (fit(f"sweep {clean(sweep.name)}", columns.name + 2), "bold text"),
        (fit(state, 13), colour),
    ]
    room = width - line_width(line)
    if room >= len(sweep.progress) + 13:
        line += [(bar(sweep.count("finished") / max(1, sweep.total), 10), "blue"), ("  ", "text")]
    line.append((cut(sweep.progress, width - line_width(line)), "bad" if sweep.failed else "text"))
    return line


def _name(run: RunInfo) -> str:
    """Name that tells a run from those around it; runs of a sweep also differ in their seed."""
    return clean(run.name) if run.sweep is None else f"  {clean(run.cell or '')}"


def _run_line(context: PanelContext, run: RunInfo, columns: _Columns) -> Line:
    marked = context.choices.marked
    colour, marker = CYCLE[marked.index(run.path) % len(CYCLE)] if run.path in marked else ("dim", " ")
    shown = run.path == context.watcher.folder
    state, state_colour = life_text(run.state)
    line: Line = [
        ("▸" if shown else " ", "bold text"),
        (f"{marker}  ", "bold " + colour),
        (fit(_name(run), columns.name - 1) + " ", "bold text" if shown else "text"),
        (fit(state, 13), state_colour),
        (fit("–" if run.seed is None else str(run.seed), 6), "dim"),
    ]
    if columns.preset:
        line.append((fit(run.preset or "–", 11), "dim"))
    line += [(fit(pair(run.accuracy, arm), 14, ">"), "text") for arm, _ in columns.results]
    if columns.last:
        age = time.time() - run.updated if run.updated is not None else NAN
        line.append((fit(f"{ago(age)} ago" if known(age) else "–", 12, ">"), "dim"))
        line.append((cut("  " + clean(run.problem or run.stage or "–"), _STAGE), "dim"))
    return line


def run_rows(context: PanelContext) -> list[dict[str, Any]]:
    """The runs as data."""
    return [
        {
            "run": run.name, "sweep": run.sweep, "cell": run.cell, "state": run.state, "preset": run.preset,
            "seed": run.seed, "task": run.task, "stage": run.stage, "started": run.started,
            "updated": run.updated, **run.accuracy,
        }
        for run in matching_runs(context)
    ]  # fmt: skip


def compared(context: PanelContext) -> dict[str, RunModel]:
    """Name → model of the marked runs that are loaded, in the order of the marks; of the one shown where none is."""
    if not context.choices.marked:
        return {context.model.name or "this run": context.model} if context.model.starts else {}
    names = {run.path: run.name for run in context.watcher.runs}
    loaded = context.watcher.others
    found: dict[str, RunModel] = {}
    for path in context.choices.marked:
        if path in loaded:
            found[names.get(path, path.name)] = loaded[path]
    return found


def compare_lines(context: PanelContext, width: int) -> list[Line]:
    """Numbers of the marked runs side by side; the difference to the first where there are two."""
    runs = compared(context)
    hint: list[Line] = []
    if len(context.choices.marked) < 2:
        hint = [[("Mark two or more runs with Space to compare them. ", "dim"), ("The run that is shown:", "dim")], []]
        if context.choices.marked or not runs:
            return [hint[0][:1]]
    if len(runs) < len(context.choices.marked):
        return [[("Reading the marked runs …", "dim")]]
    models = list(runs.values())
    arms = sorted_arms({arm for model in models for arm in model.arms if not is_expert(arm)})
    column = 14
    shown = models[: max(1, (width - 22) // column - (1 if len(models) == 2 else 0))]
    head: Line = [(fit("ID / OOD, %", 22), "dim")]
    for place, name in enumerate(list(runs)[: len(shown)]):
        colour, marker = CYCLE[place % len(CYCLE)]
        head.append((" " + fit(f"{marker} {_tail(name, column - 3)}", column - 1, ">"), "bold " + colour))
    if len(models) == 2 == len(shown):
        head.append((fit("difference", column + 2, ">"), "dim"))
    lines: list[Line] = [*hint, head]
    for arm in arms:
        line: Line = [(fit(arm_name(arm), 22), "text")]
        for model in shown:
            line.append((fit(pair(_accuracy(model), arm), column, ">"), "text"))
        if len(models) == 2 == len(shown):
            line.append((fit(_difference(models[0], models[1], arm), column + 2, ">"), "dim"))
        lines.append(line)
    return lines


def _tail(name: str, width: int) -> str:
    """The end of a name tells runs apart."""
    return name if len(name) <= width else "…" + name[-(width - 1) :]


def _accuracy(model: RunModel) -> dict[str, float]:
    return {f"{a}/{s}": v.accuracy for a, splits in model.arms.items() for s, v in splits.items() if known(v.accuracy)}


def _difference(first: RunModel, second: RunModel, arm: str) -> str:
    a, b = _accuracy(first), _accuracy(second)
    parts = []
    for split in TESTS:
        key = f"{arm}/{split}"
        parts.append(f"{100 * (b[key] - a[key]):+.1f}".replace("-", "−") if key in a and key in b else "–")
    return " / ".join(parts)


def system_lines(context: PanelContext, width: int) -> list[Line]:
    """Processors, memory, GPUs of this machine; the run's process as its log tells."""
    lines: list[Line] = []
    model, samples = context.model, context.watcher.samples
    cpu, rss = model.cpu.last(), model.rss.last()
    where = model.host or "–"
    lines.append([("Process of the run", "bold text"), (f"  on {clean(where)}", "dim")])
    lines.append(_gauge("CPU", cpu[1] if cpu else NAN, 100.0, f"{cpu[1]:.0f} % of a core" if cpu else "–", width))
    lines.append([(fit("memory", 9), "dim"), (size(rss[1]) if rss else "–", "text")])
    speeds = [c for c in model.curves.values() if known(c.tokens_per_second)]
    if speeds:
        newest = max(speeds, key=lambda c: c.time if known(c.time) else 0.0)
        text = f"{newest.tokens_per_second:,.0f} tokens a second".replace(",", " ")
        lines.append([(fit("training", 9), "dim"), (text, "text"), (f"  {newest.tag}", "dim")])
    lines.append([])
    if not samples:
        return lines
    now = samples[-1][1]
    lines.append([("This machine", "bold text"), (f"  load {now.load_average:.2f}", "dim")])
    lines.append(_gauge("CPU", now.cpu, 100.0, f"{now.cpu:.0f} %", width))
    lines.append(
        _gauge("memory", now.memory, now.memory_total, f"{size(now.memory)} of {size(now.memory_total)}", width)
    )
    if now.swap > 0:
        lines.append([(fit("swap", 9), "dim"), (size(now.swap), "text")])
    lines += _core_lines(now.cores, width)
    lines.append([])
    for place, gpu in enumerate(now.gpus):
        heat = f"  {gpu.temperature:.0f} °C" if known(gpu.temperature) else ""
        lines.append([(f"GPU {place}  {clean(gpu.name)}", "bold text"), (heat, "dim")])
        lines.append(_gauge("load", gpu.load, 100.0, f"{gpu.load:.0f} %" if known(gpu.load) else "not told", width))
        lines.append(
            _gauge("memory", gpu.memory, gpu.memory_total, f"{size(gpu.memory)} of {size(gpu.memory_total)}", width)
        )
    if now.gpu_note:
        lines += [[(text, "faint")] for text in wrap(now.gpu_note, width)]
    return lines


def _gauge(name: str, value: float, full: float, text: str, width: int) -> Line:
    room = max(4, min(40, width - 9 - 22))
    part = value / full if known(value) and full > 0 else NAN
    key = "bad" if known(part) and part > 0.95 and name == "memory" else "blue"
    return [(fit(name, 9), "dim"), ("▕", "axis"), (bar(part, room), key), ("▏ ", "axis"), (text, "text")]


def _core_lines(cores: Iterable[float], width: int) -> list[Line]:
    values = list(cores)
    if len(values) < 2:
        return []
    each = 8
    per_line = max(1, (width - 9) // (each + 1))
    lines: list[Line] = []
    for start in range(0, len(values), per_line):
        line: Line = [(fit("cores" if start == 0 else "", 9), "dim")]
        for value in values[start : start + per_line]:
            line += [(bar(value / 100.0, 4), "blue"), (fit(f"{value:.0f}", 4, ">") + " ", "dim")]
        lines.append(line)
    return lines


def system_rows(context: PanelContext) -> list[dict[str, Any]]:
    """Samples of this machine as data."""
    return [
        {"time": at, "cpu": s.cpu, "memory": s.memory, "memory_total": s.memory_total, "load_average": s.load_average}
        for at, s in context.watcher.samples
    ]
