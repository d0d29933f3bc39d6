"""Builds ``results.json`` and ``correct.parquet`` of a run."""

from __future__ import annotations

from typing import Any

import ensemw2s.stage_names as stage
from ensemw2s.arms import WEAK, expert_number, teacher_of
from ensemw2s.checksums import recording
from ensemw2s.config.dump import config_fingerprint
from ensemw2s.data.example import SPLITS
from ensemw2s.evaluation.build import build_comparisons
from ensemw2s.evaluation.correct import write_correct
from ensemw2s.evaluation.cost import ArmCost, StageCost, StageMemory, arm_cost, stage_cost
from ensemw2s.evaluation.results import ModelInfo, Results
from ensemw2s.pipeline.context import Context, Side
from ensemw2s.pipeline.error_analysis import analyse_errors
from ensemw2s.pipeline.plan import TESTS
from ensemw2s.pipeline.posterior import voters
from ensemw2s.pipeline.scored_model import clipped_share, early_stop
from ensemw2s.pipeline.state import RunState
from ensemw2s.registry import ALPHA_RULES
from ensemw2s.runs.stage import StageRecord, versions


def build_results(ctx: Context, state: RunState, preset: str | None) -> dict[str, Any]:
    """Put all numbers of a run together and write ``results.json`` and ``correct.parquet``.

    Returns:
        The content of ``results.json``.
    """
    beyond, stages = analyse_errors(ctx, state), _stage_records(ctx)
    costs = {name: stage_cost(work for r in records for work in r.cost["work"]) for name, records in stages.items()}
    comparisons = build_comparisons(state.board.correct, level=ctx.config.evaluation.level)
    results = Results(
        name=ctx.config.name,
        seed=ctx.seed,
        task=ctx.config.task,
        config_fingerprint=config_fingerprint(ctx.config),
        arms=state.board.results,
        weak=WEAK,
        preset=preset,
        level=ctx.config.evaluation.level,
        versions=versions(),
        models={side: _model_info(ctx, side) for side in ("weak", "strong")},
        split_sizes={name: len(ctx.splits[name]) for name in SPLITS},
        rounds=state.rounds,
        selected_rounds=state.selected,
        stop_reason=None if state.boosting is None else state.boosting.stopped,
        labels=state.labels,
        differences=comparisons.differences,
        pgr=comparisons.pgr,
        times={name: round(sum(record.seconds for record in records), 3) for name, records in stages.items()},
        disagreements=beyond.disagreements,
        shared_errors=beyond.shared_errors,
        reliability=beyond.reliability,
        costs=costs,
        arm_costs=_arm_costs(ctx, state, costs),
        clipped=_clipped(ctx),
        memory={name: _peak([record.cost for record in records]) for name, records in stages.items()},
        notes=[*ctx.notes, *_label_notes(ctx, state), *_early_stops(ctx)],
    )
    ids: dict[str, list[str]] = {split: [example.id for example in ctx.splits[split]] for split in TESTS}
    table = ctx.run.path / "correct.parquet"
    with recording(ctx.run.path, table.name, ctx.run.results_path.name):
        write_correct(table, state.board.correct, ids)
        results.write(ctx.run.results_path)
    return results.to_json()


def _early_stops(ctx: Context) -> list[str]:
    stop, steps = ctx.config.student.early_stop, ctx.training("strong").steps
    if stop is not None and ctx.config.teachers and stop.every > steps:  # the steps were found on the way
        return [
            f"Students take {steps} optimiser steps, and student.early_stop looks at them after {stop.every} first."
        ]
    found = (early_stop(name, ctx.run.path / name) for name in ctx.stages)
    return [text for text in found if text is not None]


def _clipped(ctx: Context) -> dict[str, float]:
    """Fine-tuning → share of clipped steps, for those of this run that counted them."""
    shares = {name: clipped_share(ctx.run.path / name) for name in ctx.stages}
    return {name: share for name, share in shares.items() if share is not None}


def _model_info(ctx: Context, side: Side) -> ModelInfo:
    config = ctx.base(side).config
    return ModelInfo(source=config.path, parameters=ctx.parameters(side), revision=config.revision)


def _stage_records(ctx: Context) -> dict[str, list[StageRecord]]:
    """The records of the run's stages, in order; those of stages that are told as one are together."""
    found: dict[str, list[StageRecord]] = {}
    for name, told in ctx.stages.items():
        record = ctx.run.stages.record(name)
        if record is not None and record.cost:
            found.setdefault(told, []).append(record)
    return found


def _peak(costs: list[dict[str, Any]]) -> StageMemory:
    def largest(what: str) -> int | None:
        return max((cost[what] for cost in costs if cost[what] is not None), default=None)

    return StageMemory(process=largest("peak_memory"), device=largest("peak_device_memory"))


def _label_notes(ctx: Context, state: RunState) -> list[str]:
    """Notes on students that are not matched in the number of labels."""
    kept = {teacher: labels.kept for teacher, labels in state.labels.items()}
    filters = {name: getattr(ctx.config.student, name) for name in ("min_confidence", "min_agreement")}
    chosen = ", ".join(f"student.{name} {value:g}" for name, value in filters.items() if value is not None)
    counts = ", ".join(f"{teacher} {count}" for teacher, count in kept.items())
    if len(set(kept.values())) > 1:
        why = chosen or "empty labels are left out"
        return [f"The students did not train on equally many labels ({counts}; {why}): that is part of what differs."]
    if chosen and len(kept) > 1:
        return [f"Labels were filtered by a threshold ({chosen}), which favours sharper teachers; they kept {counts}."]
    return []


def _arm_costs(ctx: Context, state: RunState, stages: dict[str, StageCost]) -> dict[str, ArmCost]:
    """Cost of every arm, as if it had been built alone."""
    costs, boosting = {}, ctx.config.boosting
    depends = boosting.start == "previous" or ALPHA_RULES.get(boosting.alpha).updates
    for name, arm in state.board.arms.items():
        teacher = state.board.arms.get(teacher_of(name) or "")
        taught_by = [] if teacher is None else [member.name for member in teacher.members]
        members = [member.name for member in arm.members]
        answers = ctx.answered.get(stage.answers(name, "test"))
        generations = range(1, ctx.config.student.generations) if teacher is not None else ()
        earlier = [stage.student(teacher_of(name) or "", g) for g in generations]
        earlier += [voter.members[0].name for voter in voters(ctx)]
        before = [stage.expert(t) for t in range(1, expert_number(name) or 1)] if depends else []
        costs[name] = arm_cost(
            name, members, stages, len(ctx.splits.test), taught_by, earlier, before=before, answers=answers
        )
    return costs


def summary_of_experts(ctx: Context, state: RunState) -> dict[str, Any]:
    """Summary of ``ew2s train-experts``."""
    return {
        "run": str(ctx.run.path),
        "ensemble": str(ctx.run.path / "ensemble.json"),
        "selected_rounds": state.selected,
        "stop_reason": None if state.boosting is None else state.boosting.stopped,
        "rounds": {name: [r.to_json() for r in rounds] for name, rounds in state.rounds.items()},
        "arms": {arm: {s: r.to_json() for s, r in splits.items()} for arm, splits in state.board.results.items()},
    }


def summary_of_labels(ctx: Context, state: RunState) -> dict[str, Any]:
    """Summary of ``ew2s label``."""
    return {
        **summary_of_experts(ctx, state),
        "labels": {
            name: {"folder": str(ctx.run.path / stage.labels(name)), **found.to_json()}
            for name, found in state.labels.items()
        },
    }
