"""Runs a request of the command line: directory, execution, summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from ensemw2s.cli.terminal import shell_path, terminal
from ensemw2s.errors import InputError

if TYPE_CHECKING:
    from ensemw2s.cli.rundirs import Choice
    from ensemw2s.config.composition import Composed

Until = Literal["data", "experts", "labels", "student"]
_FOLLOWING: dict[Until | None, str] = {"data": "train-experts", "experts": "label", "labels": "train-student"}


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a run: its directory, last phase, and output."""

    composed: Composed
    out: Path | None
    force_new: bool
    dry_run: bool
    json: bool
    until: Until | None = None
    seeds: tuple[int, ...] = ()

    def choose(self) -> Choice:
        """The directory to work in."""
        from ensemw2s.cli import rundirs

        config = self.composed.config
        if self.seeds:
            return rundirs.choose_seeds(config, self.seeds, self.out, self.force_new)
        return rundirs.choose_run(config, self.out, self.force_new)

    def execute(self) -> None:
        """Choose the directory, run, and end with the results and the next command."""
        from ensemw2s.cli import rundirs

        choice = self.choose()
        if self.dry_run:
            from ensemw2s.cli.estimate import print_plan

            print_plan(self.composed, choice, self.until, self.seeds, as_json=self.json)
            return
        if choice.kind == "finished" and choice.path is not None:
            changed = self._changed_inputs(choice.path)
            if not changed:
                say_finished(choice.path)
                show_results(choice.path, self.json)
                return
            terminal.say(f"Changed since {choice.path} finished: {', '.join(changed)}.")
            choice = rundirs.Choice("continue", choice.path)
        path = rundirs.make_directory(choice, self.composed.config.name + ("-seeds" if self.seeds else ""))
        terminal.say(f"{'Continuing in' if choice.kind == 'continue' else 'Run directory:'} {path}")
        summary = self._run(path)
        if self.until is None:
            show_results(path, self.json)
        else:
            self._show_summary(path, summary)

    def _changed_inputs(self, path: Path) -> list[str]:
        from ensemw2s.pipeline.data import changed_inputs
        from ensemw2s.runs.verify import verify
        from ensemw2s.sweeps.seeds import seed_directory

        damaged = verify(path).damaged
        if damaged:
            return [f"{problem.path.relative_to(path).as_posix()} ({problem.why})" for problem in damaged]
        folders = [seed_directory(path, seed) for seed in self.seeds] or [path]
        return sorted({name for folder in folders for name in changed_inputs(self.composed.config, folder)})

    def _run(self, path: Path) -> dict[str, Any]:
        from ensemw2s.cli.progress import progress_sink
        from ensemw2s.pipeline.run import execute
        from ensemw2s.sweeps.seeds import execute_seeds

        made = self.composed
        origin: dict[str, Any] = {"provenance": made.provenance, "preset": made.preset}
        with progress_sink(terminal) as sink:
            if self.seeds:
                return execute_seeds(made.config, path, list(self.seeds), sink=sink, **origin)
            return execute(made.config, path, sink=sink, until=self.until, **origin)

    def _show_summary(self, path: Path, summary: dict[str, Any]) -> None:
        """Print the summary of a run that stops after a phase."""
        where = shell_path(path)
        if self.json:
            terminal.json({"run": str(path), **summary})
        else:
            terminal.out(str(path))
        terminal.next(f"ew2s {_FOLLOWING.get(self.until, 'run')} --config {where}/config.yaml --out {where}")
        if self.until == "experts":
            terminal.next(f"ew2s score {where} questions.jsonl")

    def watch(self, words: Sequence[str]) -> None:
        """``--dashboard``: run in the background, and show the dashboard.

        Args:
            words: the command line that makes the run, without its directory.

        Raises:
            InputError: there is no terminal, or what was asked for cannot be watched.
            typer.Exit: with the run's exit code.
        """
        from ensemw2s.cli import rundirs
        from ensemw2s.cli.dashboard.command import interactive, run_and_watch

        if self.seeds or self.dry_run or self.json:
            raise InputError("--dashboard watches one run; it does not go with --seeds, --dry-run or --json.")
        if not interactive():
            hint = "Leave it out; progress is then printed line by line."
            raise InputError("--dashboard needs a terminal.", hint=hint)
        choice = self.choose()
        if choice.kind == "finished" and choice.path is not None:
            say_finished(choice.path)
            terminal.next(f"ew2s dashboard {shell_path(choice.path)}")
            return
        path = rundirs.make_directory(choice, self.composed.config.name)
        code = run_and_watch([*words, "--out", str(path)], path)
        terminal.next(f"ew2s dashboard {shell_path(path)}", f"ew2s report {shell_path(path)}")
        raise typer.Exit(code)


def say_finished(path: Path) -> None:
    """Tell that nothing needs to run."""
    terminal.say(f"This configuration has a finished run: {path} (--force-new makes another).")


def show_results(path: Path, as_json: bool) -> None:
    """The table of a finished run or of several seeds, its report, and what can be done next."""
    from ensemw2s.report.build import load_results

    results = load_results(path)
    if as_json:
        terminal.json(results.to_json())
    else:
        terminal.tables(results)
    page = path / "report" / "report.html"
    if page.exists():
        terminal.say("\n".join(report_files(page)))
    where = shell_path(path)
    asked = [] if (path / "aggregate.json").exists() else [f"ew2s score {where} questions.jsonl"]
    terminal.next(*asked, f"ew2s report {where} --full")


def report_files(page: Path) -> list[str]:
    """Paths of a report and its plots."""
    plots = ", ".join(sorted(plot.name for plot in page.parent.glob("*.png")))
    return [f"Report: {page}", *([f"Plots:  {page.parent}/ ({plots})"] if plots else [])]
