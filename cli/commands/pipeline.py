"""``run``, ``train-experts``, ``label`` and ``train-student``: the pipeline, whole or up to a phase."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensemw2s.cli import options as o
from ensemw2s.cli.help import help_text
from ensemw2s.cli.run_request import Request, Until
from ensemw2s.cli.terminal import shell_path, terminal
from ensemw2s.errors import InputError

if TYPE_CHECKING:
    from ensemw2s.config.composition import Composed

_CONTINUE = (
    "Without --out the latest run of the same configuration is continued; finished stages are kept. A changed "
    "configuration with the same --out runs again what it affects."
)


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
    numbers = () if seeds is None else o.parse_seeds(seeds)
    if len(numbers) == 1:
        seed, numbers = numbers[0], ()
    flags = {"seed": seed, "name": name, "device": device, "threads": threads, "backend": backend}
    made = _composed(preset, config, sets, **flags)
    request = Request(made, out, force_new, dry_run, as_json, seeds=numbers)
    if not dashboard:
        request.execute()
        return
    given: list[tuple[str, object]] = [("preset", preset), *{**flags, "seed": made.config.seed}.items()]
    given += [("config", file) for file in config or []] + [("set", setting) for setting in sets or []]
    request.watch(["run", *(word for flag, value in given if value is not None for word in (f"--{flag}", str(value)))])


def _composed(preset: str | None, config: list[Path] | None, sets: list[str] | None, **flags: Any) -> Composed:
    if preset is None and not config:
        raise InputError(
            "Say what to run: a preset or a configuration file.",
            hint="For example: ew2s run --preset tiny, or ew2s run --config my.yaml (ew2s presets lists presets).",
        )
    return o.compose_options(preset, config, sets, **flags)


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
        flags = {"seed": seed, "name": name, "device": device, "threads": threads, "backend": backend}
        Request(_composed(preset, config, sets, **flags), out, force_new, dry_run, as_json, until).execute()

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
        flags = {"seed": seed, "name": name, "device": device, "threads": threads, "backend": backend}
        Request(_composed(preset, config, sets, **flags), out, force_new, dry_run, as_json, "labels").execute()
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
