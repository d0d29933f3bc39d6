"""``sweep``: the same run over configuration keys and seeds."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensemw2s.cli import options as o
from ensemw2s.cli.help import help_text
from ensemw2s.cli.progress import LineWriter, duration, waiting
from ensemw2s.cli.terminal import Terminal, shell_path, terminal
from ensemw2s.errors import EXIT_FAILED, InputError
from ensemw2s.text import printable

if TYPE_CHECKING:
    from rich.progress import TaskID

    from ensemw2s.config.composition import Composed
    from ensemw2s.evaluation.over_cells import SweepResults
    from ensemw2s.sweeps.file import SweepFile
    from ensemw2s.sweeps.plan import Job, SweepPlan
    from ensemw2s.sweeps.run import SweepStatus

#: Seconds between two plain lines about the runs at work.
_PLAIN_EVERY = 30.0


Over = Annotated[
    list[str] | None, typer.Option("--over", metavar="KEY=A,B", help="A key and its values; repeat for a grid.")
]
Seeds = Annotated[str | None, typer.Option("--seeds", metavar="0,1,2", help="Seeds of every cell.  [default: 0]")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="Directory of the sweep; continued if it is there.")
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", "-j", metavar="N", help="Runs at once, as memory allows.  [default: 1]")
]
Baseline = Annotated[
    str | None,
    typer.Option("--baseline", metavar="CELL", help="Cell to compare with, by name or KEY=A,KEY=B; else the first."),
]
Compare = Annotated[
    str | None,
    typer.Option("--compare", metavar="ARM,ARM", help="Arms to compare.  [default: ensemble,student_ensemble]"),
]


def sweep(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="YAML file that describes the sweep.", show_default=False)
    ] = None,
    preset: o.Preset = None,
    config: o.ConfigFiles = None,
    sets: o.Settings = None,
    over: Over = None,
    seeds: Seeds = None,
    out: Out = None,
    jobs: Jobs = None,
    baseline: Baseline = None,
    compare: Compare = None,
    name: o.Name = None,
    device: o.Device = None,
    threads: o.Threads = None,
    backend: o.Backend = None,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
) -> None:
    """Sweep over configurations and seeds."""
    from ensemw2s.sweeps.file import SweepFile, read_sweep_file

    said = SweepFile() if file is None else read_sweep_file(file)
    flags = {"name": name or said.name, "device": device, "threads": threads, "backend": backend}
    plan = _plan(said, preset, config, sets, over, seeds, baseline, compare, flags)
    root = _directory(out, file)
    if dry_run:
        _print_plan(plan, root, as_json)
        return
    results = _execute(plan, root, jobs or said.jobs or 1)
    _show(results, root, as_json)
    if any(job.state == "failed" for cell in results.cells for job in cell.jobs):
        raise typer.Exit(EXIT_FAILED)


def _plan(
    said: SweepFile,
    preset: str | None,
    config: list[Path] | None,
    sets: list[str] | None,
    over: list[str] | None,
    seeds: str | None,
    baseline: str | None,
    compare: str | None,
    flags: Mapping[str, Any],
) -> SweepPlan:
    """The sweep of a command line and a file; the command line wins."""
    from ensemw2s.config.composition import compose
    from ensemw2s.evaluation.over_cells import COMPARED
    from ensemw2s.sweeps.file import parse_over
    from ensemw2s.sweeps.plan import plan_sweep

    preset, files = preset or said.preset, list(config or map(Path, said.config))
    if preset is None and not files:
        raise InputError(
            "Say what to run: a preset or a configuration file.",
            hint="For example: ew2s sweep --preset tiny --over boosting.rounds=3,5",
        )
    grid = dict(said.over)
    grid.update(parse_over(text) for text in over or ())
    given = o.flag_values(**flags)
    fixed = {f"sweep set {key}": (key, value) for key, value in said.set.items()}

    def composed(settings: Mapping[str, Any]) -> Composed:
        # keys of the sweep come last: nothing else may decide what the cells differ in
        own = {f"--over {key}": (key, value) for key, value in settings.items()}
        return compose(preset, files, sets or (), os.environ, flags={**given, **own}, below_sets=fixed)

    return plan_sweep(
        grid,
        said.cells,
        o.parse_seeds(seeds) if seeds is not None else said.seeds or [0],
        composed,
        baseline=baseline if baseline is not None else said.baseline,
        compared=compare.split(",") if compare else said.compare or COMPARED,
    )


def _directory(out: Path | None, file: Path | None) -> Path:
    if out is not None:
        if (out / "config.yaml").exists() or (out / "results.json").exists():
            raise InputError(f"{out} holds a single run, not a sweep.", hint="Name another directory with --out.")
        return out
    if file is not None:
        return Path("sweeps") / file.stem
    raise InputError("Say where the sweep goes, so that the same command can continue it.", hint="--out sweeps/NAME")


def _warn(plan: SweepPlan, jobs: int) -> None:
    for cell in plan.cells:
        if cell.problem is not None:
            terminal.warn(f"{cell.name} is left out: {cell.problem}")
    threads = {cell.composed.config.compute.threads for cell in plan.cells if cell.composed is not None}
    if jobs > 1 and None in threads:
        terminal.warn(
            f"compute.threads is not set, so each of {jobs} runs at once takes all cores; --threads 1 may be faster."
        )


def _print_plan(plan: SweepPlan, root: Path, as_json: bool) -> None:
    from ensemw2s.sweeps.plan import Job, finished_results

    done = {
        cell.name: [s for s in plan.seeds if finished_results(root, Job(cell, s)) is not None]
        for cell in plan.cells
        if cell.composed is not None
    }
    if as_json:
        cells = [
            {"name": c.name, "settings": c.settings, "problem": c.problem, "finished_seeds": done.get(c.name, [])}
            for c in plan.cells
        ]
        head = {"directory": str(root), "seeds": list(plan.seeds), "baseline": plan.baseline}
        terminal.json({**head, "compare": list(plan.compared), "runs": len(plan.jobs), "cells": cells})
        return
    terminal.out(f"Directory: {root}")
    terminal.out(f"Seeds:     {', '.join(map(str, plan.seeds))}")
    terminal.out(f"Compared:  {', '.join(plan.compared)}")
    kept = sum(map(len, done.values()))
    terminal.out(f"Runs:      {len(plan.jobs)}" + (f", {kept} of them finished" if kept else ""))
    terminal.out(f"Cells:     {len(plan.cells)}")
    for cell in plan.cells:
        mark = " (baseline)" if cell.name == plan.baseline else ""
        more = f": invalid: {cell.problem}" if cell.problem is not None else ""
        terminal.out(f"  {cell.name}{mark}{more}")


def _execute(plan: SweepPlan, root: Path, jobs: int) -> SweepResults:
    from ensemw2s.sweeps.run import run_sweep

    if jobs < 1:
        raise InputError(f"--jobs needs a positive number, not {jobs}.")
    _warn(plan, jobs)
    total = len(plan.jobs)
    terminal.say(f"Sweep in {root}: {total} runs, {len(plan.cells)} cells, {jobs} at once.")
    with Watcher(terminal, total) as watcher:
        return run_sweep(plan, root, watcher, jobs=jobs)


class Watcher(LineWriter):
    """Prints how a sweep goes: lines, and on a terminal one bar with the runs at work.

    Args:
        out: where to write.
        total: number of runs.
    """

    def __init__(self, out: Terminal, total: int) -> None:
        super().__init__(out)
        self.total = total
        self._task: TaskID | None = None
        self._told = time.monotonic()
        self._short = False

    def __enter__(self) -> Watcher:
        if self.terminal.animated:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

            self.bars = self.terminal.bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
            )
            self._task = self.bars.add_task("runs", total=self.total, left="")
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def started(self, job: Job, directory: Path) -> None:
        """A run begins."""
        verb = "continued" if (directory / "config.yaml").exists() else "started"
        self.line(f"{job.name}: {verb}")

    def finished(self, job: Job, seconds: float, status: SweepStatus) -> None:
        """A run is done."""
        self.line(f"[{status.done}/{status.total}] {job.name}: done in {duration(seconds)}{_left(status)}")

    def failed(self, job: Job, error: str, status: SweepStatus) -> None:
        """A run failed."""
        self.warn(f"{job.name} failed: {error}")

    def tick(self, status: SweepStatus) -> None:
        """Move the bar, or say now and then who is at work."""
        if status.waiting_for_memory and not self._short:
            self.line("Memory for one more run at once is not there; going on with those at work.")
        self._short = self._short or status.waiting_for_memory
        at_work = ", ".join(job.name for job, _ in status.running)
        if self.bars is not None and self._task is not None:
            shown = printable(at_work) if len(at_work) <= 40 else at_work[:39] + "…"
            self.bars.update(
                self._task, completed=status.done + status.failed, description=shown or "runs", left=_left(status)[2:]
            )
        elif time.monotonic() - self._told >= _PLAIN_EVERY and status.running:
            self._told = time.monotonic()
            self.line(f"[{status.done}/{status.total}] at work: {at_work}{_left(status)}")


def _left(status: SweepStatus) -> str:
    return "" if not status.left else f", about {duration(status.left)} left"


def _show(results: SweepResults, root: Path, as_json: bool) -> None:
    from ensemw2s.report.build import build_report

    any_done = any(job.state == "finished" for cell in results.cells for job in cell.jobs)
    page: Path | None = None
    if any_done:
        with waiting(terminal, "Building the report"):
            page = build_report(root)
    if as_json:
        terminal.json(results.to_json())
    else:
        terminal.tables(results)
    terminal.say(f"Numbers: {root / 'sweep.json'}, {root / 'sweep.csv'}")
    if page is not None:
        terminal.say(f"Report: {page}")
    best = next((c for c in results.cells if c.name == results.baseline), results.cells[0])
    terminal.next(f"ew2s report {shell_path(root)}", f"ew2s report {shell_path(root / best.jobs[0].directory)} --full")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "sweep",
        help=help_text(
            "Run many configurations and seeds, and compare them.",
            [
                "ew2s sweep --preset tiny --over boosting.rounds=3,5 --out sweeps/t",
                "ew2s sweep my-sweep.yaml --seeds 0,1,2 --jobs 2",
                "ew2s sweep my-sweep.yaml --dry-run     # the cells",
            ],
            "Every combination of values is a cell, and every cell runs with every seed. The same command continues: "
            "finished runs are kept, failed ones tried again. A run that fails does not stop the others.",
            "Cells are compared with the baseline by paired t-tests over seeds, with Holm's adjustment. sweep.json, "
            "sweep.csv and comparisons.csv in the directory hold the numbers.",
        ),
    )(sweep)
