"""``runs list`` and ``runs verify``: runs with their state and accuracy, and checks of their files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemw2s.arms import HEADLINES
from ensemw2s.cli import options as o
from ensemw2s.cli.dashboard.model.names import ago, pair
from ensemw2s.cli.help import help_text
from ensemw2s.cli.terminal import shell_path, terminal
from ensemw2s.text import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from ensemw2s.runs.describe import RunInfo
    from ensemw2s.runs.listing import SweepInfo

_COLORS = {"running": "cyan", "finished": "green", "incomplete": "yellow"}


def list_(
    root: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Folder with runs; runs or $EW2S_RUNS_DIR by default.", show_default=False),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """List runs."""
    from ensemw2s.cli.rundirs import runs_root
    from ensemw2s.runs.listing import SweepInfo, is_sweep, list_runs, list_sweeps

    folder = runs_root() if root is None else root
    runs, sweeps = list_runs(folder), list_sweeps(folder)
    if as_json:
        entries: list[RunInfo | SweepInfo] = [*runs, *sweeps]
        entries.sort(key=lambda entry: entry.updated or 0.0, reverse=True)
        terminal.json(
            [{"kind": "sweep" if isinstance(entry, SweepInfo) else "run", **entry.to_json()} for entry in entries]
        )
        return
    if not runs and not sweeps:
        terminal.say(f"There are no runs in {folder}.")
        terminal.next("ew2s run --preset tiny")
        return
    # one sweep is listed run by run; among other runs it is one row
    terminal.render(_table(runs, sweeps, whole=is_sweep(folder)))
    terminal.next(_hint(runs, sweeps, whole=is_sweep(folder)))


def _hint(runs: list[RunInfo], sweeps: list[SweepInfo], *, whole: bool) -> str:
    """The command that is likely to come next."""
    unfinished = [run for run in runs if run.unfinished]
    if unfinished:
        where = shell_path(unfinished[0].path)
        return f"ew2s run --config {where}/config.yaml --out {where}"
    if sweeps and (whole or not runs or (sweeps[0].updated or 0.0) > (runs[0].updated or 0.0)):
        where = shell_path(sweeps[0].path)
        if not whole:
            return f"ew2s runs list {where}"
        return f"ew2s {'report' if (sweeps[0].path / 'sweep.json').exists() else 'dashboard'} {where}"
    readable = [run for run in runs if run.problem is None]
    return f"ew2s report {shell_path(readable[0].path)}" if readable else "ew2s run --preset tiny"


def _table(runs: list[RunInfo], sweeps: list[SweepInfo], *, whole: bool) -> Table:
    from rich import box
    from rich.table import Table

    from ensemw2s.runs.listing import by_name

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold", min_width=24)
    for title in ("state", "preset", "seed", "active"):
        table.add_column(title, no_wrap=True)
    for _, title in HEADLINES[:3]:
        table.add_column(f"{title}\nID/OOD", justify="right", no_wrap=True)
    rows = [(run.updated or 0.0, [_run_row(run, run.name)]) for run in runs]
    for sweep in sweeps:
        members = sorted(sweep.runs, key=by_name) if whole else []
        own = [_run_row(run, f"  {run.cell}/{run.path.name}") for run in members]
        rows.append((sweep.updated or 0.0, [_sweep_row(sweep), *own]))
    for _, group in sorted(rows, key=lambda row: row[0], reverse=True):
        for cells in group:
            table.add_row(*cells)
    return table


def _run_row(run: RunInfo, name: str) -> list[Text]:
    facts = [run.preset or "", "" if run.seed is None else str(run.seed), _active(run.updated)]
    called = _text(name)
    if run.problem is not None:
        called.append(f"\n  {printable(run.problem)}", style="dim")
    return [
        called,
        _text(run.state, _COLORS.get(run.state, "red")),
        *map(_text, [*facts, *(pair(run.accuracy, arm, "/", "") for arm, _ in HEADLINES[:3])]),
    ]


def _sweep_row(sweep: SweepInfo) -> list[Text]:
    """A sweep as one row; its progress is below its name."""
    presets = {run.preset or "" for run in sweep.runs}
    facts = [presets.pop() if len(presets) == 1 else "", "", _active(sweep.updated)]
    name = _text(f"sweep {sweep.name}").append(f"\n  {sweep.progress}", style="dim")
    return [name, _text(sweep.state, _COLORS.get(sweep.state, "red")), *map(_text, facts)]


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(printable(text), style=style)


def _active(when: float | None) -> str:
    seconds = 0.0 if when is None else max(0.0, time.time() - when)
    return "" if when is None else "now" if seconds < 60 else f"{ago(seconds)} ago"


def verify_(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Run directory; the latest by default.", show_default=False)
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Check a run's files."""
    from ensemw2s.cli.rundirs import latest_results
    from ensemw2s.errors import EXIT_FAILED, InputError
    from ensemw2s.runs.verify import verify

    path = latest_results(run)
    found = verify(path)
    if not (found.stages or found.files or found.damaged or found.not_recorded):
        raise InputError(f"There is no run in {path}.", hint="List the runs with: ew2s runs list")
    if as_json:
        terminal.json(found.to_json())
    else:
        for problem in found.damaged:
            terminal.out(f"damaged: {problem.path}: {problem.why}")
        for name in found.not_recorded:
            terminal.out(f"not recorded: {path / name}")
        size = f"{found.size / 2**20:.1f} MiB"
        state = f"{len(found.damaged)} damaged" if found.damaged else "nothing is damaged"
        terminal.out(f"{found.stages} stages, {found.files} files, {size}: {state}.")
    if found.damaged:
        if (path / "config.yaml").exists() and all(problem.path.name != "config.yaml" for problem in found.damaged):
            where = shell_path(path)
            terminal.next(f"ew2s run --config {where}/config.yaml --out {where}")
        raise typer.Exit(EXIT_FAILED)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help=help_text("List runs, or verify the files of one.", ["ew2s runs list"]),
    )
    group.command(
        "list",
        help=help_text(
            "List runs with their state and accuracy.",
            [
                "ew2s runs list",
                "ew2s runs list /data/runs --json",
                "ew2s runs list sweeps/levels   # the runs of a sweep",
            ],
            "The most recently active run comes first. A sweep is one row with its progress; name its folder to see "
            "its runs (--json always has them).",
            "  running     its process is alive\n"
            "  finished    results.json is there\n"
            "  failed      an error ended it\n"
            "  dead        its process ended and reported nothing\n"
            "  incomplete  interrupted, or stopped after an earlier phase\n"
            "  unreadable  its files are damaged; the reason is below its name",
            "The same command continues failed, dead and incomplete runs and sweeps.",
        ),
    )(list_)
    group.command(
        "verify",
        help=help_text(
            "Check that the files of a run are what the run wrote.",
            ["ew2s runs verify runs/…", "ew2s runs verify sweeps/levels --json"],
            "Every file of every stage, and results, weights, log and report beside them, are compared with the sizes "
            "and hashes that were recorded when they were written. Each damaged file is named, and the exit code is "
            "1. The run's command makes again what is damaged. Runs over several seeds and sweeps are checked whole.",
        ),
    )(verify_)
    app.add_typer(group, name="runs")
