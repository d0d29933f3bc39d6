"""``--dry-run``: the plan of a run and the estimate of its cost, as text or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ensemw2s.cli.terminal import terminal

if TYPE_CHECKING:
    from ensemw2s.cli.rundirs import Choice
    from ensemw2s.config.composition import Composed
    from ensemw2s.estimate.estimate import Estimate, StageEstimate
    from ensemw2s.estimate.sizes import ModelSize


def print_plan(made: Composed, choice: Choice, until: str | None, seeds: tuple[int, ...], *, as_json: bool) -> None:
    """Print the directory, stages, estimated cost and given settings of a run."""
    from ensemw2s.cli.rundirs import runs_root
    from ensemw2s.config.dump import given_lines
    from ensemw2s.estimate.estimate import estimate
    from ensemw2s.pipeline.plan import planned_stages

    stages = planned_stages(made.config, until)
    cost = estimate(made.config, until, seeds=len(seeds) or 1)
    where = str(choice.path) if choice.path else f"a new directory in {runs_root()}"
    where_from = {key: origin for key, origin in made.provenance.items() if origin != "default"}
    if as_json:
        terminal.json(
            {
                "directory": None if choice.path is None else str(choice.path),
                "state": choice.kind,
                "seeds": list(seeds) or [made.config.seed],
                "stages": stages,
                "estimate": cost.to_json(),
                "config": made.config,
                "provenance": where_from,
            }
        )
        return
    terminal.out(f"Directory: {where} ({choice.kind})")
    terminal.out(f"Seeds:     {', '.join(map(str, seeds or (made.config.seed,)))}")
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


def print_estimate(estimate: Estimate) -> None:
    """A line a phase, the total, and what it rests on."""
    from ensemw2s.report import wording as w

    out = terminal.out
    out("Estimate (within a factor of two at best; nothing was downloaded):")
    rows = [*estimate.groups().items(), ("total", estimate.total())]
    wide = max(len(name) for name, _ in rows)
    out(f"  {'':<{wide}}  {'tokens':>8}  {'operations':>11}  {'memory':>8}  {'time':>8}")
    for name, cost in rows:
        numbers = f"{_operations(cost):>11}  {_memory(cost):>8}  {_time(cost):>8}"
        out(f"  {name:<{wide}}  {w.large(cost.tokens):>8}  {numbers}")
    if estimate.seeds > 1:
        out(f"  The total is of {estimate.seeds} seeds, one after the other.")
    for side, size in (("weak", estimate.weak), ("strong", estimate.strong)):
        out(f"  {side}: {_model(size)}")
    data = estimate.data
    out(f"  data, from {data.known_from}: " + ", ".join(f"{name} {count}" for name, count in data.counts.items()))
    for name, lengths in (("easy", data.easy), ("hard", data.hard)):
        options = f", {lengths.options:.3g} options" if lengths.options > 1 else ""
        out(f"    {name}: about {lengths.prompt:.0f} tokens a prompt, {lengths.answer:.1f} an answer{options}")
    speed = estimate.speed
    out(f"  machine: {speed.device}, {w.large(speed.flops, 'FLOP')} a second in a matrix product, measured just now")


def _operations(cost: StageEstimate) -> str:
    from ensemw2s.report import wording as w

    return "unknown" if cost.flops is None else w.large(cost.flops, "FLOP")


def _memory(cost: StageEstimate) -> str:
    from ensemw2s.report import wording as w

    return "unknown" if cost.memory is None else w.memory(cost.memory)


def _time(cost: StageEstimate) -> str:
    if cost.seconds is None:
        return "unknown"
    minutes = cost.seconds / 60
    if minutes < 1:
        return f"{cost.seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _model(size: ModelSize) -> str:
    from ensemw2s.report import wording as w

    if size.parameters is None:
        return f"size {size.known_from}"
    return f"{w.large(size.parameters)} parameters, from {size.known_from}"
