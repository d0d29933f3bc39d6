"""``runs list``: which runs there are and how they stand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemw2s.cli import options as o
from ensemw2s.cli.help import help_text
from ensemw2s.cli.terminal import shell_path, terminal

if TYPE_CHECKING:
    from rich.table import Table

    from ensemw2s.runs import RunInfo

_COLORS = {"running": "cyan", "finished": "green", "failed": "red", "dead": "red", "incomplete": "yellow"}
#: Arms whose accuracy a listing shows, as far as there is room.
_SHOWN = (("single", "single"), ("ensemble", "ensemble"), ("student_ensemble", "student"))


def list_(
    root: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Folder with runs; runs or $EW2S_RUNS_DIR by default.", show_default=False),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """List runs."""
    from ensemw2s.cli.rundirs import runs_root
    from ensemw2s.runs import list_runs

    folder = runs_root() if root is None else root
    runs = list_runs(folder)
    if as_json:
        terminal.json([run.to_json() for run in runs])
        return
    if not runs:
        terminal.say(f"There are no runs in {folder}.")
        terminal.next("ew2s run --preset tiny")
        return
    terminal.render(_table(runs))
    unfinished = [run for run in runs if run.unfinished]
    if unfinished:
        where = shell_path(unfinished[0].path)
        terminal.next(f"ew2s run --config {where}/config.yaml --out {where}")
    else:
        terminal.next(f"ew2s report {shell_path(runs[0].path)}")


def _table(runs: list[RunInfo]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold", min_width=24)
    for title in ("state", "preset", "seed", "active"):
        table.add_column(title, no_wrap=True)
    for _, title in _SHOWN:
        table.add_column(f"{title}\nID/OOD", justify="right", no_wrap=True)
    for run in runs:
        state = Text(run.state, style=_COLORS[run.state])
        facts = [run.preset or "", "" if run.seed is None else str(run.seed), _ago(run.updated)]
        table.add_row(run.name, state, *facts, *(_pair(run, arm) for arm, _ in _SHOWN))
    return table


def _pair(run: RunInfo, arm: str) -> str:
    values = [run.accuracy.get(f"{arm}/{split}") for split in ("test", "hard_test")]
    return "" if values == [None, None] else "/".join("–" if v is None else f"{100 * v:.1f}" for v in values)


def _ago(when: float | None) -> str:
    if when is None:
        return ""
    seconds = max(0.0, time.time() - when)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return "now"


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help=help_text("See which runs there are.", ["ew2s runs list"]),
    )
    group.command(
        "list",
        help=help_text(
            "List runs with their state and accuracy.",
            ["ew2s runs list", "ew2s runs list /data/runs --json"],
            "The most recently active run comes first.",
            "  running     its process is alive\n"
            "  finished    results.json is there\n"
            "  failed      an error ended it\n"
            "  dead        its process is gone without a word\n"
            "  incomplete  interrupted, or stopped after an earlier phase",
            "The same command continues failed, dead and incomplete runs.",
        ),
    )(list_)
    app.add_typer(group, name="runs")
