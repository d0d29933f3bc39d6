"""``combine``: an ensemble from models and ensembles that exist, also of different families."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensemw2s.cli import options as o
from ensemw2s.cli.help import help_text
from ensemw2s.cli.terminal import shell_path, terminal

if TYPE_CHECKING:
    from ensemw2s.ensemble import Ensemble


def combine(
    members: Annotated[
        list[str],
        typer.Argument(metavar="MODEL", help="Model folder, hub id, .gguf file, run directory or saved ensemble."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the ensemble.json.")],
    alpha: Annotated[
        list[float] | None,
        typer.Option("--alpha", "-a", metavar="X", help="Weight of a member; repeat in their order. Equal by default."),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="choice (score options) or generate (write text).")
    ] = None,
    preset: o.Preset = None,
    config: o.ConfigFiles = None,
    sets: o.Settings = None,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
) -> None:
    """Models and ensembles as one ensemble."""
    from ensemw2s.config.composition import compose
    from ensemw2s.ensemble.assemble import assemble

    replaced = _check_target(out, members)
    settings = compose(preset, config or (), sets or (), flags={} if task is None else {"--task": ("task", task)})
    ensemble = assemble(members, alpha or (), settings)
    if not dry_run:
        ensemble.save(out)
    if as_json:
        terminal.json(_facts(ensemble, out))
    else:
        done, planned = ("replaced", "would replace") if replaced else ("wrote", "would write")
        _print(ensemble, out, planned if dry_run else done)
    use = "score {} questions.jsonl" if ensemble.task == "choice" else "generate {} PROMPT"
    terminal.next(f"ew2s {use.format(shell_path(out))}")


def _check_target(out: Path, members: list[str]) -> bool:
    """Only a new folder, or one that this command wrote, is written into; tells whether something is replaced."""
    from ensemw2s.outputs import check_output_folder

    return check_output_folder(
        out,
        inputs=[place for place in map(Path, members) if place.exists()],
        ours=lambda folder: [entry.name for entry in folder.iterdir()] == ["ensemble.json"],
        what="a combined ensemble alone",
    )


def _facts(ensemble: Ensemble, out: Path) -> dict[str, Any]:
    found = ensemble.compatibility()
    total = sum(ensemble.alphas)
    return {
        "folder": str(out),
        "task": ensemble.task,
        "rule": ensemble.config.rule,
        "length_norm": ensemble.effective_config.length_norm,
        "experts": [
            {"model": str(expert), "weight": weight / total}
            for expert, weight in zip(ensemble.experts, ensemble.alphas, strict=True)
        ],
        "choice": found.how("choice"),
        "generate": found.how("generate"),
        "shared": found.shared,
        "differences": list(found.differences),
    }


def _print(ensemble: Ensemble, out: Path, does: str) -> None:
    facts, found = _facts(ensemble, out), ensemble.compatibility()
    terminal.out(f"{does} {out / 'ensemble.json'}: task {facts['task']}, rule {facts['rule']}")
    for expert in facts["experts"]:
        terminal.out(f"  {100 * expert['weight']:5.1f} %  {expert['model']}")
    for line in found.differences:
        terminal.out(line)
    same = "The experts share a tokenizer: combined token by token."
    terminal.out(found.describe(ensemble.task, facts["length_norm"]) or same)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "combine",
        help=help_text(
            "Make an ensemble of existing models, of any family.",
            [
                "ew2s combine model-a model-b --out both",
                "ew2s combine runs/a runs/b --alpha 2 --alpha 1 --out both",
                "ew2s combine me/a me/b@v2 --task generate --out both --dry-run",
            ],
            "Writes an ensemble.json that names the models where they are; ew2s score, generate, label and evaluate "
            "read it. A run directory or saved ensemble brings its experts, its prompt template and its task along.",
            "Experts that share a tokenizer are combined token by token. Others each score the options in their own "
            "tokens and combine option probabilities (length norm byte, unless --set ensemble.length_norm says "
            "otherwise), or write text from the union of their vocabularies. The command says which it is and why. "
            "Other settings: --set ensemble.rule=…, data.template.…, labelling.decoding.…, models.weak.dtype=…",
        ),
    )(combine)
