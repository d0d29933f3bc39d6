"""The estimate of ``--dry-run`` as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ensemw2s.cli.terminal import terminal

if TYPE_CHECKING:
    from ensemw2s.estimate.estimate import Estimate, StageEstimate
    from ensemw2s.estimate.sizes import ModelSize


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
