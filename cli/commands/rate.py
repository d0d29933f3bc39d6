"""``data rate``: how hard examples are, by models that did not see them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ensemw2s.cli import options as o
from ensemw2s.cli.help import help_text
from ensemw2s.cli.terminal import shell_path, terminal
from ensemw2s.errors import InputError

if TYPE_CHECKING:
    from ensemw2s.config.schema import RunConfig


def rate(
    files: Annotated[list[str] | None, typer.Argument(metavar="FILE", help="Instead of data.source.path.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="MODEL", help="Base model that rates; repeat to average over several."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="File for the annotations.")] = Path(
        "difficulty.json"
    ),
    folds: Annotated[int, typer.Option("--folds", metavar="N", help="Folds of the cross-fitting.")] = 5,
    preset: o.Preset = None,
    config: o.ConfigFiles = None,
    sets: o.Settings = None,
    seed: o.Seed = None,
    device: o.Device = None,
    threads: o.Threads = None,
    as_json: o.Json = False,
) -> None:
    """Rate difficulty by cross-fitting."""
    if preset is None and not config:
        raise InputError(
            "Say what to rate: a preset or a configuration file, for data, template and training.",
            hint="For example: ew2s data rate --config my.yaml --model gpt2",
        )
    if not model:
        raise InputError("--model is missing: which models rate.", hint="A base model that is not the run's weak base.")
    more = [*(sets or []), *([f"data.source.path={json.dumps(files)}"] if files else [])]
    made = o.compose_options(preset, config, more, seed=seed, device=device, threads=threads)
    _rate(made.config, model, output, folds, as_json)


def _rate(config: RunConfig, models: list[str], output: Path, folds: int, as_json: bool) -> None:
    from ensemw2s.cli.progress import progress_sink
    from ensemw2s.config.training import ModelConfig
    from ensemw2s.tasks.rate_difficulty import rate_file

    if any(model == config.models.weak.path for model in models):
        terminal.warn(
            "a rater is the run's weak base. Examples would be hard because the weak side fails on them, which biases "
            "the comparison; use an unrelated model."
        )
    with progress_sink(terminal) as sink:
        rating = rate_file(config, [ModelConfig(path=m) for m in models], output, folds=folds, sink=sink)
    low, middle, high = (float(q) for q in _quantiles(rating.difficulty.tolist()))
    if as_json:
        terminal.json(
            {
                "output": str(output), "n": len(rating.ids), "folds": folds, "raters": models,
                "correct": rating.correct, "difficulty": {"p25": low, "p50": middle, "p75": high},
            }
        )  # fmt: skip
    else:
        terminal.out(f"{len(rating.ids)} examples rated in {folds} folds: {output}")
        terminal.out(f"  difficulty: a quarter below {low:.3f}, half below {middle:.3f}, a quarter above {high:.3f}")
        for name, share in zip(models, rating.correct or [], strict=False):
            terminal.out(f"  {name} chooses the right option in {share:.1%}")
    where = shell_path(output)
    terminal.next(f"ew2s run … --set data.source.annotations={where} --set data.split.hard_quantile=0.6")


def _quantiles(values: list[float]) -> list[float]:
    import statistics

    return statistics.quantiles(values, n=4) if len(values) > 1 else values * 3


def register(group: typer.Typer) -> None:
    """Add the command to ``ew2s data``."""
    group.command(
        "rate",
        help=help_text(
            "Rate how hard every example is for models trained on the others.",
            [
                "ew2s data rate --config my.yaml --model EleutherAI/pythia-160m",
                "ew2s data rate --preset tiny --model embedded:strong --output hard.json",
            ],
            "Difficulty is 1 − p(correct). The file is what data.source.annotations reads. Training is as in "
            "training.expert. Interrupted, the same command goes on after the last finished fold.",
        ),
    )(rate)
