"""``report``: the tables and plots of a run, built again from its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemw2s.cli import options as o
from ensemw2s.cli.help import help_text
from ensemw2s.cli.terminal import shell_path, terminal


def report(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Run directory; the latest by default.", show_default=False)
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="All tables, not only the main ones.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Folder; RUN/report by default.")
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Tables and plots."""
    from ensemw2s.cli.progress import waiting
    from ensemw2s.cli.run_request import report_files
    from ensemw2s.cli.rundirs import latest_results
    from ensemw2s.report.build import build_report, load_results

    path = latest_results(run)
    results = load_results(path)
    with waiting(terminal, f"Building the report of {path}"):
        page = build_report(path, output)
    if as_json:
        plots = sorted(map(str, page.parent.glob("*.png")))
        terminal.json({"run": str(path), "report": str(page), "plots": plots})
    else:
        terminal.tables(results, full=full)
        terminal.out("\n".join(report_files(page)))
    if (path / "results.json").exists():  # several seeds or a sweep have no single ensemble to ask
        terminal.next(f"ew2s score {shell_path(path)} questions.jsonl")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "report",
        help=help_text(
            "Print a run's tables and rebuild its report and plots.",
            ["ew2s report                     # the latest run", "ew2s report runs/… --full"],
        ),
    )(report)
