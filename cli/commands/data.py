"""``data check``: counts, lengths, duplicates and problems of data files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ensemw2s.cli import options as o
from ensemw2s.cli.commands import rate
from ensemw2s.cli.help import help_text
from ensemw2s.cli.terminal import terminal
from ensemw2s.errors import EXIT_USAGE, Ew2sError, InputError

if TYPE_CHECKING:
    from ensemw2s.config.data import SourceConfig
    from ensemw2s.config.schema import RunConfig
    from ensemw2s.data.check import CheckReport
    from ensemw2s.data.problems import Problem

#: Problems printed for each file; all of them with --all or --json.
_FEW = 20


def check(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Files, or folders for a known --kind.")
    ] = None,
    kind: o.Kind = "file",
    column: o.Columns = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="choice or generate; guessed by default.")
    ] = None,
    preset: o.Preset = None,
    config: o.ConfigFiles = None,
    sets: o.Settings = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", metavar="MODEL", help="Model folder or hub id: lengths in tokens, too.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print every problem.")] = False,
    as_json: o.Json = False,
) -> None:
    """Check data files."""
    if task not in (None, "choice", "generate"):
        raise InputError(f"--task is {task!r}; expected choice or generate.")
    made = None if files else _composed(preset, config, sets)
    sources = _sources(files, kind, column, made)
    reports: list[CheckReport] = []
    words = None if tokenizer is None else _tokenizer(tokenizer)
    asked = any((task or guessed) == "choice" for _, guessed in sources)
    models = _tokenizers(made) if made is not None and asked else []
    for source, guessed in sources:
        from ensemw2s.data.check import check_source

        chosen: Literal["choice", "generate"] = "generate" if (task or guessed) == "generate" else "choice"
        template = None if made is None else made.data.template
        reports.append(check_source(source, task=chosen, tokenizer=words, template=template, models=models))
    if as_json:
        found = [report.to_json() for report in reports]
        terminal.json(found[0] if len(found) == 1 else found)
    else:
        for report in reports:
            _print(report, everything)
    if not all(report.ok for report in reports):
        terminal.next("correct the lines above, then run the same command again")
        raise typer.Exit(EXIT_USAGE)
    terminal.next("ew2s run --config my.yaml --dry-run (with data.source.path set to these files)")


def _composed(preset: str | None, config: list[Path] | None, sets: list[str] | None) -> RunConfig:
    if preset is None and not config:
        raise InputError("Say what to check: files, or a configuration.", hint="For example: ew2s data check my.jsonl")
    return o.compose_options(preset, config, sets).config


def _sources(
    files: list[str] | None, kind: str, column: list[str] | None, made: RunConfig | None
) -> list[tuple[SourceConfig, str]]:
    """The sources to check, each with the task that fits it."""
    if made is None:
        source = o.source_options(files or [], kind, column)
        has_options = source.columns.choices is not None or bool(source.columns.distractors)
        return [(source, "generate" if kind == "gsm8k" or (kind == "file" and not has_options) else "choice")]
    both = [made.data.source, *([] if made.data.hard_source is None else [made.data.hard_source])]
    return [(source, made.task) for source in both]


def _tokenizer(path: str) -> Any:
    from ensemw2s.config.training import ModelConfig
    from ensemw2s.models.loading.load import load_tokenizer

    return load_tokenizer(ModelConfig(path=path))


def _tokenizers(made: RunConfig) -> list[Any]:
    """Those of a configuration's bases; one that cannot be had is no reason not to look at the data."""
    from ensemw2s.models.loading.load import load_tokenizer

    found = []
    for side, model in (("weak", made.models.weak), ("strong", made.models.strong)):
        try:
            found.append(load_tokenizer(model))
        except Ew2sError as error:
            terminal.warn(f"The options are not compared in the tokens of the {side} base: {error.message}")
    return found


def _print(report: CheckReport, everything: bool) -> None:
    out = terminal.out
    out(f"{', '.join(report.files) or 'no files'}")
    out(f"  rows            {report.rows} ({report.examples} good examples, task: {report.task})")
    for title, chars, tokens in (
        ("prompt length", report.prompt_chars, report.prompt_tokens),
        ("answer length", report.answer_chars, report.answer_tokens),
    ):
        if chars:
            out(f"  {title:<15} {_spread(chars)} characters" + (f"; {_spread(tokens)} tokens" if tokens else ""))
    for title, counts in (
        ("options", report.choice_counts),
        ("answer place", {place + 1: count for place, count in report.answer_positions.items() if place >= 0}),
        ("levels", report.levels),
        ("groups", report.groups),
    ):
        if counts:
            out(f"  {title:<15} {_counts(counts)}")
    if report.difficulty:
        out(f"  difficulty      {_spread(report.difficulty)}; {report.without_difficulty} without")
    out(
        f"  duplicates      {report.exact_duplicates} exact, {report.near_duplicates} near, "
        f"{report.contradictions} with contradicting answers"
    )
    problems = [*report.errors, *report.warnings]
    out(f"  problems        {len(report.errors)} errors, {len(report.warnings)} warnings")
    shown = problems if everything else problems[:_FEW]
    for problem in shown:
        out("  " + _problem(problem))
    if len(problems) > len(shown):
        out(f"  … and {len(problems) - len(shown)} more (--all prints them)")


def _spread(quantiles: Mapping[str, float]) -> str:
    """``min 3, median 12, max 40``."""
    middle = f"median {quantiles['p50']:g}"
    return f"min {quantiles['min']:g}, {middle}, 95 % up to {quantiles['p95']:g}, max {quantiles['max']:g}"


def _counts(counts: Mapping[Any, int], most: int = 12) -> str:
    shown = [f"{name}: {count}" for name, count in list(counts.items())[:most]]
    return ", ".join(shown) + (f", … {len(counts) - most} more" if len(counts) > most else "")


def _problem(problem: Problem) -> str:
    times = f" ({problem.rows} rows)" if problem.rows > 1 else ""
    hint = f" {problem.hint}" if problem.hint else ""
    return f"{problem.severity}: {problem.place}: {problem.message}{times}.{hint}"


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help=help_text(
            "Check data, and rate its difficulty, before a run.",
            ["ew2s data check my.jsonl", "ew2s data rate --config my.yaml --model embedded:strong"],
        ),
    )
    group.command(
        "check",
        help=help_text(
            "Print counts, lengths, duplicates, and problems by line.",
            [
                "ew2s data check my.jsonl",
                "ew2s data check my.csv --column prompt=question --column answer=label",
                "ew2s data check data/arc --kind arc",
                "ew2s data check --preset tiny",
            ],
            "Exit code 2 if a run would refuse the data.",
        ),
    )(check)
    rate.register(group)
    app.add_typer(group, name="data")
