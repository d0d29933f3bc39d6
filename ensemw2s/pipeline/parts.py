"""Stages in several parts that are kept one by one and told as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ensemw2s.pipeline.context import Context


def ensure_parts(
    ctx: Context, name: str, parts: Mapping[str, Mapping[str, Any]], work: Callable[[str, Path], object]
) -> Path:
    """Make those parts whose inputs changed; each is a stage of its own in the folder ``name``.

    The log hears of one stage ``name``, which is cached if all its parts are.

    Args:
        ctx: the run.
        name: the folder.
        parts: part → its inputs.
        work: called with a part and the folder to make it in.

    Returns:
        The folder.
    """
    missing = [part for part, inputs in parts.items() if not ctx.run.is_done(f"{name}/{part}", inputs)]
    reasons: dict[str, list[str]] = {}
    for part in missing:
        reason = ctx.run.stages.rerun_reason(f"{name}/{part}", parts[part])
        if reason is not None:
            reasons.setdefault(reason, []).append(part)
    if reasons:
        found = (f"{', '.join(of)}: {reason}" for reason, of in reasons.items())
        ctx.sink.event("stage_rerun", stage=name, reason="; ".join(found))
    if missing:
        ctx.sink.event("stage_started", stage=name)
    for part, inputs in parts.items():
        ctx.ensure(f"{name}/{part}", inputs, partial(work, part), part_of=name)
    records = [ctx.run.stage_record(f"{name}/{part}") for part in missing or parts]
    seconds = sum(record.seconds for record in records if record is not None)
    ctx.sink.event("stage_finished", stage=name, seconds=round(seconds, 3), cached=not missing)
    return ctx.run.path / name
