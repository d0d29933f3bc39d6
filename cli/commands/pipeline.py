"""``run``, ``train-experts``, ``label`` and ``train-student``: the pipeline, whole or up to a phase."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ensemw2s.cli import options as o
from ensemw2s.cli.help import help_text
from ensemw2s.cli.terminal import shell_path, terminal
from ensemw2s.errors import InputError

if TYPE_CHECKING:
    from ensemw2s.cli.rundirs import Choice
    from ensemw2s.config.composition import Composed

Until = Literal["data", "experts", "labels", "student"]

_CONTINUE = (
    "Without --out the latest run of the same configuration is continued; finished stages are kept. A changed "
    "configuration with the same --out runs again what it affects."
)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: where the run goes, how far, and what is printed."""

    composed: Composed
    out: Path | None
    force_new: bool
    dry_run: bool
    json: bool
    until: Until | None = None
    seeds: tuple[int, ...] = ()


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0,1,2`` or ``0-4`` as numbers.

    Raises:
        InputError: anything else, or a seed twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and (not last.isdecimal() or int(last) < int(first))):
            raise InputError(f"--seeds {text!r} is not a list of numbers.", hint="For example: --seeds 0,1,2 or 0-4")
        seeds += range(int(first), int(last or first) + 1)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {text!r} names a seed twice.", hint="Repeating a seed gives the same run.")
    return tuple(seeds)


def execute_request(request: Request) -> None:
    """Choose the directory, run, and end with the results and the next command."""
    from ensemw2s.cli import rundirs

    config = request.composed.config
    if request.seeds:
        choice = rundirs.choose_seeds(config, request.seeds, request.out, request.force_new)
    else:
        choice = rundirs.choose_run(config, request.out, request.force_new)
    if request.dry_run:
        print_plan(request, choice)
        return
    if choice.kind == "finished" and choice.path is not None:
        changed = _changed_inputs(request, choice.path)
        if not changed:
            terminal.say(f"This configuration has a finished run: {choice.path} (--force-new makes another).")
            show_results(choice.path, request.json)
            return
        terminal.say(f"Changed since {choice.path} finished: {', '.join(changed)}.")
        choice = rundirs.Choice("continue", choice.path)
    path = rundirs.make_directory(choice, config.name + ("-seeds" if request.seeds else ""))
    terminal.say(f"{'Continuing in' if choice.kind == 'continue' else 'Run directory:'} {path}")
    summary = _execute(request, path)
    if request.until is None:
        show_results(path, request.json)
    else:
        show_summary(path, summary, request)


def _changed_inputs(request: Request, path: Path) -> list[str]:
    from ensemw2s.pipeline.unchanged import changed_inputs
    from ensemw2s.runs.verify import verify
    from ensemw2s.sweeps.seeds import seed_directory

    damaged = verify(path).damaged
    if damaged:
        return [f"{problem.path.relative_to(path).as_posix()} ({problem.why})" for problem in damaged]
    config = request.composed.config
    folders = [seed_directory(path, seed) for seed in request.seeds] or [path]
    return sorted({name for folder in folders for name in changed_inputs(config, folder)})


def _execute(request: Request, path: Path) -> dict[str, Any]:
    from ensemw2s.cli.progress import progress_sink
    from ensemw2s.pipeline import execute
    from ensemw2s.sweeps.seeds import execute_seeds

    made = request.composed
    with progress_sink(terminal) as sink:
        if request.seeds:
            return execute_seeds(
                made.config, path, list(request.seeds), sink=sink, provenance=made.provenance, preset=made.preset
            )
        return execute(
            made.config, path, sink=sink, until=request.until, provenance=made.provenance, preset=made.preset
        )


def print_plan(request: Request, choice: Choice) -> None:
    """``--dry-run``: where, what, at what cost and with which settings."""
    from ensemw2s.cli.estimate import print_estimate
    from ensemw2s.cli.rundirs import runs_root
    from ensemw2s.config.dump import given_lines
    from ensemw2s.estimate.estimate import estimate
    from ensemw2s.pipeline import planned_stages

    made = request.composed
    stages = planned_stages(made.config, request.until)
    cost = estimate(made.config, request.until, seeds=len(request.seeds) or 1)
    where = str(choice.path) if choice.path else f"a new directory in {runs_root()}"
    where_from = {key: origin for key, origin in made.provenance.items() if origin != "default"}
    if request.json:
        terminal.json(
            {
                "directory": None if choice.path is None else str(choice.path),
                "state": choice.kind,
                "seeds": list(request.seeds) or [made.config.seed],
                "stages": stages,
                "estimate": cost.to_json(),
                "config": made.config,
                "provenance": where_from,
            }
        )
        return
    terminal.out(f"Directory: {where} ({choice.kind})")
    terminal.out(f"Seeds:     {', '.join(map(str, request.seeds or (made.config.seed,)))}")
    models = made.config.models
    terminal.out(f"Task:      {made.config.task}; weak {models.weak.path}, strong {models.strong.path}")
    terminal.out(f"Stages:    {len(stages)}")
    for stage in stages:
        terminal.out(f"  {stage}")
    print_estimate(cost)
    given = given_lines(made.config, made.provenance)
    terminal.out("Settings that were given:" if given else "All settings are defaults.")
    for line in given:
        terminal.out(f"  {line}")


def show_results(path: Path, as_json: bool) -> None:
    """The table of a finished run or of several seeds, its report, and what can be done next."""
    from ensemw2s.report.build import console_report, load_results

    results = load_results(path)
    if as_json:
        terminal.json(results.to_json())
    else:
        import sys

        console = terminal.console(sys.stdout)
        console.print(console_report(results, console.width))
    folder = path / "report"
    plots = sorted(plot.name for plot in folder.glob("*.png"))
    if (folder / "report.html").exists():
        terminal.say(f"Report: {folder / 'report.html'}")
        terminal.say(f"Plots:  {folder}/ ({', '.join(plots)})") if plots else None
    where = shell_path(path)
    if (path / "aggregate.json").exists():
        terminal.next(f"ew2s report {where} --full")
    else:
        terminal.next(f"ew2s score {where} questions.jsonl", f"ew2s report {where} --full")


def show_summary(path: Path, summary: dict[str, Any], request: Request) -> None:
    """What a run that stops after a phase ends with."""
    where = shell_path(path)
    if request.json:
        terminal.json({"run": str(path), **summary})
    else:
        terminal.out(str(path))
    again = {"data": "train-experts", "experts": "label", "labels": "train-student", "student": "run"}
    following = again.get(request.until or "", "run")
    terminal.next(f"ew2s {following} --config {where}/config.yaml --out {where}")
    if request.until == "experts":
        terminal.next(f"ew2s score {where} questions.jsonl")


def run(
    preset: o.Preset = None,
    config: o.ConfigFiles = None,
    sets: o.Settings = None,
    seed: o.Seed = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="0,1,2", help="Repeat with several seeds and aggregate.")
    ] = None,
    name: o.Name = None,
    device: o.Device = None,
    threads: o.Threads = None,
    backend: o.Backend = None,
    out: o.Out = None,
    force_new: o.ForceNew = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Run in the background and watch; leaving asks what to do.")
    ] = False,
) -> None:
    """The whole pipeline."""
    if seeds is not None and seed is not None:
        raise InputError("--seed and --seeds exclude each other.")
    numbers = () if seeds is None else parse_seeds(seeds)
    made = _composed(preset, config, sets, seed, name, device, threads, backend)
    if len(numbers) == 1:
        made = _composed(preset, config, sets, numbers[0], name, device, threads, backend)
        numbers = ()
    request = Request(made, out, force_new, dry_run, as_json, seeds=numbers)
    if dashboard:
        given: list[tuple[str, object]] = [("--preset", preset), ("--seed", made.config.seed), ("--name", name)]
        given += [("--device", device), ("--threads", threads), ("--backend", backend)]
        given += [("--config", file) for file in config or []] + [("--set", setting) for setting in sets or []]
        words = [word for flag, value in given if value is not None for word in (flag, str(value))]
        watch_request(request, ["run", *words])
        return
    execute_request(request)


def watch_request(request: Request, words: list[str]) -> None:
    """``ew2s run --dashboard``: the run goes to the background, the terminal shows the dashboard.

    Args:
        request: what is run.
        words: the command line that runs it, without its directory.

    Raises:
        InputError: there is no terminal, or what was asked for cannot be watched.
        typer.Exit: with the run's exit code.
    """
    from ensemw2s.cli import rundirs
    from ensemw2s.cli.dashboard.app.background_run import run_and_watch
    from ensemw2s.cli.dashboard.command import interactive

    if request.seeds or request.dry_run or request.json:
        raise InputError("--dashboard watches one run; it does not go with --seeds, --dry-run or --json.")
    if not interactive():
        raise InputError("--dashboard needs a terminal.", hint="Leave it out; progress is then printed line by line.")
    choice = rundirs.choose_run(request.composed.config, request.out, request.force_new)
    if choice.kind == "finished" and choice.path is not None:
        terminal.say(f"This configuration has a finished run: {choice.path} (--force-new makes another).")
        terminal.next(f"ew2s dashboard {shell_path(choice.path)}")
        return
    path = rundirs.make_directory(choice, request.composed.config.name)
    code = run_and_watch([*words, "--out", str(path)], path)
    terminal.next(f"ew2s dashboard {shell_path(path)}", f"ew2s report {shell_path(path)}")
    raise typer.Exit(code)


def _composed(
    preset: str | None,
    config: list[Path] | None,
    sets: list[str] | None,
    seed: int | None,
    name: str | None,
    device: str | None,
    threads: int | None,
    backend: str | None,
) -> Composed:
    flags = {"--seed": seed, "--name": name, "--device": device, "--threads": threads, "--backend": backend}
    if preset is None and not config:
        raise InputError(
            "Say what to run: a preset or a configuration file.",
            hint="For example: ew2s run --preset tiny, or ew2s run --config my.yaml (ew2s presets lists presets).",
        )
    return o.compose_options(preset, config, sets, flags)


def up_to(until: Until) -> Callable[..., None]:
    """A command that runs the pipeline up to a phase."""

    def command(
        preset: o.Preset = None,
        config: o.ConfigFiles = None,
        sets: o.Settings = None,
        seed: o.Seed = None,
        name: o.Name = None,
        device: o.Device = None,
        threads: o.Threads = None,
        backend: o.Backend = None,
        out: o.Out = None,
        force_new: o.ForceNew = False,
        dry_run: o.DryRun = False,
        as_json: o.Json = False,
    ) -> None:
        made = _composed(preset, config, sets, seed, name, device, threads, backend)
        execute_request(Request(made, out, force_new, dry_run, as_json, until))

    return command


def label(
    preset: o.Preset = None,
    config: o.ConfigFiles = None,
    sets: o.Settings = None,
    ensemble: Annotated[
        Path | None,
        typer.Option("--ensemble", "-e", metavar="DIR", help="Run directory or saved ensemble that labels --input."),
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option("--input", "-i", metavar="FILE", help="File with questions; can repeat.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="JSON Lines file for the labels.")
    ] = None,
    kind: o.Kind = "file",
    column: o.Columns = None,
    seed: o.Seed = None,
    name: o.Name = None,
    device: o.Device = None,
    threads: o.Threads = None,
    backend: o.Backend = None,
    out: o.Out = None,
    force_new: o.ForceNew = False,
    dry_run: o.DryRun = False,
    trust: o.Trust = False,
    as_json: o.Json = False,
) -> None:
    """Pseudo-labels: in a run, or for a file."""
    if ensemble is None and source is None and output is None:
        made = _composed(preset, config, sets, seed, name, device, threads, backend)
        execute_request(Request(made, out, force_new, dry_run, as_json, "labels"))
        return
    if ensemble is None or not source or output is None:
        raise InputError(
            "Labelling a file needs --ensemble, --input and --output.",
            hint="For example: ew2s label --ensemble runs/… --input questions.jsonl --output labels.jsonl",
        )
    if "-" in source:
        raise InputError(
            "--input: ew2s label reads files, not standard input, which it could not read again to continue.",
            hint="Write the questions into a file first, or use ew2s score with - as FILE.",
        )
    how = {"compute": o.compute_options(device, threads, backend), "seed": seed or 0, "trust_remote_code": trust}
    _label_file(ensemble, o.source_options(source, kind, column), output, how, as_json)


def _label_file(ensemble: Path, source: Any, output: Path, how: dict[str, Any], as_json: bool) -> None:
    from ensemw2s.cli.progress import progress_sink
    from ensemw2s.tasks.use_ensemble import label_file

    with progress_sink(terminal) as sink:
        done = label_file(ensemble, source, output, sink=sink, **how)
    if as_json:
        terminal.json(done)
    else:
        terminal.out(
            f"{done['n']} labels in {done['output']}, mean confidence {done['mean_confidence']:.3f}, "
            f"mean agreement {done['mean_agreement']:.3f}"
        )
    terminal.next(f"ew2s evaluate {shell_path(ensemble)} FILE_WITH_ANSWERS")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(
        "run",
        help=help_text(
            "Run the whole pipeline and report what came out.",
            [
                "ew2s run --preset tiny",
                "ew2s run --preset tiny --seeds 0,1,2",
                "ew2s run --preset tiny --set boosting.rounds=8 --out runs/eight",
                "ew2s run --config my.yaml --device cuda",
                "ew2s run --preset tiny --dry-run          # what would be done",
            ],
            _CONTINUE,
        ),
    )(run)
    app.command(
        "train-experts",
        help=help_text(
            "Run up to the experts: boosting and the weak arms.",
            ["ew2s train-experts --preset tiny", "ew2s train-experts --config my.yaml --out runs/mine"],
            "The same as `ew2s run`, stopped after the experts; `ew2s run` with the same options goes on from there.",
        ),
    )(up_to("experts"))
    app.command(
        "label",
        help=help_text(
            "Label a run's hard pool, or your own file.",
            [
                "ew2s label --preset tiny                   # a run, stopped after the labels",
                "ew2s label -e runs/… -i questions.jsonl --output labels.jsonl",
                "ew2s label -e runs/… -i q.csv --column prompt=question --output labels.jsonl",
            ],
            "Labels of a file are kept in OUTPUT.parts/ as they come, and become the output when all are there. "
            "Interrupted in whatever way, the same command continues and gives the same file.",
        ),
    )(label)
    app.command(
        "train-student",
        help=help_text(
            "Run up to the students, without the report.",
            ["ew2s train-student --preset tiny", "ew2s train-student --config my.yaml --set student.loss=soft"],
            "The same as `ew2s run`, stopped after the students.",
        ),
    )(up_to("student"))
