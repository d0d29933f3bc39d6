"""``presets`` and ``config``: presets, the resolved configuration, and its validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ensemw2s.cli import options as o
from ensemw2s.cli.help import help_text
from ensemw2s.cli.terminal import shell_path, terminal


def presets(context: typer.Context, as_json: o.Json = False) -> None:
    """List presets."""
    if context.invoked_subcommand is None:
        list_presets(as_json)


def list_presets(as_json: o.Json = False) -> None:
    """List presets."""
    from ensemw2s.config.presets import list_presets as found

    names = found()
    if as_json:
        terminal.json(names)
    else:
        width = max((len(preset.name) for preset in names), default=0)
        for preset in names:
            terminal.out(f"{preset.name:<{width}}  {preset.summary}".rstrip())
    if names:
        terminal.next("ew2s run --preset tiny", f"ew2s presets show {names[0].name}")


def show_preset(name: Annotated[str, typer.Argument(metavar="NAME", help="The preset's name.")]) -> None:
    """Print a preset."""
    from ensemw2s.config.presets import preset_text

    terminal.data(preset_text(name).rstrip("\n"))
    terminal.next(f"ew2s config show --preset {name}", f"ew2s run --preset {name}")


def show(
    preset: o.Preset = None,
    config: o.ConfigFiles = None,
    sets: o.Settings = None,
    seed: o.Seed = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only values that were given, with dotted keys.")] = False,
    as_json: o.Json = False,
) -> None:
    """Print the resolved configuration."""
    from ensemw2s.config.dump import config_fingerprint, dump_yaml, given_lines

    made = o.compose_options(preset, config, sets, seed=seed)
    if as_json:
        fingerprint = config_fingerprint(made.config)
        terminal.json({"config": made.config, "provenance": made.provenance, "fingerprint": fingerprint})
    elif changed:
        for line in given_lines(made.config, made.provenance):
            terminal.data(line)
    else:
        terminal.data(dump_yaml(made.config, made.provenance, preset=preset).rstrip("\n"))
    terminal.next("ew2s run with the same options")


def validate(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="YAML files, each checked alone on top of --preset.")
    ],
    preset: o.Preset = None,
    together: Annotated[bool, typer.Option("--together", help="Compose the files instead.")] = False,
    as_json: o.Json = False,
) -> None:
    """Check configuration files."""
    from ensemw2s.config.composition import compose
    from ensemw2s.config.dump import config_fingerprint
    from ensemw2s.errors import EXIT_USAGE, ConfigError

    groups = [files] if together else [[file] for file in files]
    results: list[dict[str, Any]] = []
    for group in groups:
        name = " + ".join(map(str, group))
        try:
            made = compose(preset, group)
        except ConfigError as error:
            results.append({"file": name, "ok": False, "error": error.message, "hint": error.hint})
            if not as_json:
                terminal.error(error)
        else:
            results.append({"file": name, "ok": True, "fingerprint": config_fingerprint(made.config)})
            if not as_json:
                terminal.out(f"{name}: valid")
    if as_json:
        terminal.json(results)
    if not all(result["ok"] for result in results):
        raise typer.Exit(EXIT_USAGE)
    terminal.next(f"ew2s run --config {shell_path(files[0])}")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        invoke_without_command=True,
        callback=presets,
        rich_markup_mode=None,
        help=help_text("List the presets, or show one.", ["ew2s presets", "ew2s presets show tiny"]),
    )
    group.command("list", help=help_text("List the presets.", ["ew2s presets list --json"]))(list_presets)
    group.command("show", help=help_text("Print a preset's YAML.", ["ew2s presets show tiny > my.yaml"]))(show_preset)
    app.add_typer(group, name="presets")
    settings = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help=help_text(
            "Show or validate a configuration.", ["ew2s config show --preset tiny", "ew2s config validate my.yaml"]
        ),
    )
    settings.command(
        "show",
        help=help_text(
            "Print the resolved configuration and where it came from.",
            [
                "ew2s config show --preset tiny",
                "ew2s config show --preset tiny --set boosting.rounds=8 --changed",
                "ew2s config show --config my.yaml > resolved.yaml",
            ],
            "What comes later wins: preset, files, environment (EW2S_SEED, EW2S_SET__data__seed=1), --set, flags.",
        ),
    )(show)
    settings.command(
        "validate",
        help=help_text(
            "Check configuration files without running anything.",
            ["ew2s config validate my.yaml", "ew2s config validate a.yaml b.yaml --preset tiny"],
        ),
    )(validate)
    app.add_typer(settings, name="config")
