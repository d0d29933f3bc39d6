"""Runs the stages of a configuration in order; a repeated call resumes."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ensemw2s.arms import (
    ALL_ROUNDS,
    BOOSTING,
    CEILING,
    ENSEMBLE,
    arm_names,
    arm_spec,
    expert_arm,
    student_of,
)
from ensemw2s.boosting.loop import BoostingResult
from ensemw2s.checksums import recording
from ensemw2s.config.dump import config_fingerprint
from ensemw2s.config.schema import RunConfig
from ensemw2s.ensemble import Ensemble
from ensemw2s.ensemble.folder import FILE_NAME
from ensemw2s.errors import DamagedError
from ensemw2s.evaluation.results import RoundResult
from ensemw2s.labelling.labels import Labels
from ensemw2s.pipeline.checks import check_inputs
from ensemw2s.pipeline.context import Context
from ensemw2s.pipeline.data import prepare_data
from ensemw2s.pipeline.date import dated
from ensemw2s.pipeline.evaluate import Arm, evaluate_arms
from ensemw2s.pipeline.experts import (
    TRAINERS,
    BoostingLearner,
    WeakTrainer,
    boost,
    tune_weak,
    weak_base,
)
from ensemw2s.pipeline.labels import label_pool, label_result, own_answers, report_labels
from ensemw2s.pipeline.plan import base_splits, plan, weak_arms
from ensemw2s.pipeline.posterior import vote_weights
from ensemw2s.pipeline.prefixes import PrefixScores
from ensemw2s.pipeline.results import build_results, summary_of_experts, summary_of_labels
from ensemw2s.pipeline.scored_model import ScoredModel, scored_base
from ensemw2s.pipeline.selection import pool_groups, warn_of_lost_groups
from ensemw2s.pipeline.state import RunState
from ensemw2s.pipeline.students import train_ceiling, train_student, tune_strong
from ensemw2s.runs.directory import RunDirectory, remove_trunk
from ensemw2s.runs.stage import versions
from ensemw2s.sink import EventSink, TeeSink
from ensemw2s.student.filters import select_labels

Until = Literal["data", "experts", "labels", "student"]


def execute(
    config: RunConfig,
    run_dir: Path,
    *,
    sink: EventSink,
    until: Until | None = None,
    provenance: Mapping[str, str] | None = None,
    preset: str | None = None,
    report: bool = True,
    date: str | None = None,
    shared: Path | None = None,
) -> dict[str, Any]:
    """Run the stages in order, keeping those that are done with the same inputs.

    Args:
        config: the resolved configuration.
        run_dir: the run directory; made where it is missing.
        sink: gets every event besides the run's own log.
        until: stop after this phase.
        provenance: where each configuration value came from, for ``config.yaml``.
        preset: name of the preset, for the record.
        report: also draw the report at the end; :func:`ensemw2s.report.build.build_report` does it at any later time.
        date: what chat templates are told, unless the configuration or an earlier start says another; now by default.
        shared: folder where several runs keep hidden states together, which its owner removes; the run directory by
            default, where they are removed once everything is done.

    Returns:
        The content of ``results.json``, or with ``until`` a summary of what is there.

    Raises:
        RunBusyError: another process writes into the directory.
        Ew2sError: bad input, or a stage failed; finished stages are kept.
    """
    from ensemw2s.models.loading.device import resolve_device

    run = RunDirectory.create(run_dir)
    with run.writing() as log:
        resolve_device(config.compute)  # sets the number of threads before anything is computed
        resumed = run.config_path.exists()
        template = dated(config.data.template, run.path, date)
        damaged = run.forget_damaged()
        run.save_config(config, provenance, preset)
        ctx = Context(config, run, TeeSink(log, sink), template, shared)
        _announce(ctx, preset, resumed, damaged)
        stages = plan(config, until)
        names = [planned.name for planned in stages if planned.expected]
        ctx.sink.event("plan", stages=names, records=[planned.to_json() for planned in stages])
        summary = _phases(ctx, until, preset, report)
        remove_trunk(run.path)
        return summary


def _announce(ctx: Context, preset: str | None, resumed: bool, damaged: list[DamagedError]) -> None:
    config = ctx.config
    ctx.sink.event(
        "run_started",
        name=config.name,
        seed=config.seed,
        task=config.task,
        preset=preset,
        config_fingerprint=config_fingerprint(config),
        resumed=resumed,
        versions=versions(),
        host=platform.node(),
    )
    for problem in damaged:
        text = f"{problem.path.relative_to(ctx.run.path).as_posix()} is damaged or was edited: {problem.why}"
        ctx.sink.event("message", level="warning", text=f"{text}; the run makes it again.")


def _phases(ctx: Context, until: Until | None, preset: str | None, report: bool) -> dict[str, Any]:
    started = time.monotonic()
    state = RunState()
    prepare_data(ctx)
    check_inputs(ctx)  # before hours of training, not after
    summary: dict[str, Any] | None = None
    if until == "data":
        summary = {name: len(ctx.splits[name]) for name in ("train", "validation", "test", "hard_pool", "hard_test")}
    else:
        experts_phase(ctx, state)
        summary = summary_of_experts(ctx, state) if until == "experts" else None
    if summary is None:
        labels = labels_phase(ctx, state)
        summary = summary_of_labels(ctx, state) if until == "labels" else None
    if summary is None:
        student_phase(ctx, state, labels)
        summary = build_results(ctx, state, preset)
        if report:
            from ensemw2s.report.build import build_report

            build_report(ctx.run.path)
    old = ctx.run.stages.unrecorded
    if old:
        text = f"{len(old)} stages carry no checksums, for an older version made them; damage in them would not be seen"
        ctx.sink.event("message", level="info", text=f"{text}: {', '.join(old[:3])}{', …' if len(old) > 3 else ''}.")
    ctx.sink.event("run_finished", seconds=round(time.monotonic() - started, 3))
    return summary


def experts_phase(ctx: Context, state: RunState) -> None:
    """Boosted experts and the unboosted weak arms."""
    trainer = WeakTrainer(ctx)
    ctx.tuned["weak"] = tune_weak(trainer)
    if ctx.config.arms.zero_shot:
        strong = scored_base(ctx, "strong", base_splits(ctx.config, "strong"))
        bases = {"weak": weak_base(trainer), "strong": strong}
        names = arm_names(lambda spec: spec.kind == "zero-shot")
        evaluate_arms(ctx, [Arm(name, [bases[arm_spec(name).side]]) for name in names], state.board)
    result, learner = boost(trainer)
    state.boosting = result
    for arm in weak_arms(ctx.config):
        if arm == ENSEMBLE:
            _add_boosted(ctx, state, result, learner)
        elif arm in TRAINERS:
            members = TRAINERS[arm](trainer, learner)
            if arm_spec(arm).several:
                _add_unboosted(ctx, state, arm, members)
            else:
                evaluate_arms(ctx, [Arm(arm, members)], state.board)


def _add_boosted(ctx: Context, state: RunState, result: BoostingResult, learner: BoostingLearner) -> None:
    kept, t = learner.kept, result.selected
    alphas = vote_weights(ctx, kept[:t], result.alphas[:t])
    scored = iter(learner.scores.by_round)
    rounds = []
    for record in result.rounds:
        fields = record.to_json()
        for extra in ("errors_from", "validation"):
            fields.pop(extra)
        rounds.append(RoundResult(splits=next(scored) if record.kept else {}, **fields))
    state.rounds[BOOSTING] = rounds
    state.selected[BOOSTING] = t
    state.members[BOOSTING] = kept
    arms = [Arm(expert_arm(k), [member]) for k, member in enumerate(kept[1:], start=2)]
    arms.append(Arm(ENSEMBLE, kept[:t], alphas))
    for name in arm_names(lambda spec: bool(spec.vote) and ctx.config.has_arm(spec.name)):
        arms.append(Arm(name, kept[:t], vote_weights(ctx, kept[:t], result.alphas[:t], arm_spec(name).vote)))
    if t < len(kept):
        arms.append(Arm(ALL_ROUNDS, kept, vote_weights(ctx, kept, result.alphas)))
    evaluate_arms(ctx, arms, state.board)
    config = ctx.config
    ensemble = Ensemble(
        experts=[member.folder / "model" for member in kept[:t]],
        alphas=alphas,
        task=config.task,
        config=config.ensemble,
        template=ctx.template,
        decoding=config.labelling.decoding,
        evaluation=config.evaluation,
        loading=config.models.weak.model_dump(exclude={"path", "revision"}),
    )
    with recording(ctx.run.path, FILE_NAME):
        ensemble.save(ctx.run.path)


def _add_unboosted(ctx: Context, state: RunState, name: str, members: list[ScoredModel]) -> None:
    """An ensemble with equal weights: at its own best number of members, and at the boosted ensemble's."""
    prefixes = PrefixScores(ctx, name)
    scores = prefixes.add_all(members)
    best = int(np.argmax(scores)) + 1 if ctx.config.ensemble.select_rounds else len(members)
    state.rounds[name] = [
        RoundResult(round=k, splits=found, alpha=1.0) for k, found in enumerate(prefixes.by_round, start=1)
    ]
    state.selected[name] = best
    state.members[name] = members
    equal = min(state.selected[BOOSTING], len(members))
    arms = [Arm(name, members[:best])]
    arms += [Arm(variant, members[:equal]) for variant in arm_names(lambda spec: spec.of == name)]
    evaluate_arms(ctx, arms, state.board)


def labels_phase(ctx: Context, state: RunState) -> dict[str, tuple[Labels, NDArray[np.int64]]]:
    """Every teacher that gets a student labels the hard pool, and some of the labels are selected."""
    out: dict[str, tuple[Labels, NDArray[np.int64]]] = {}
    for side in ctx.config.labelling.voters if ctx.config.teachers else ():
        scored_base(ctx, side, base_splits(ctx.config, side))
    own = {name: own_answers(ctx, state.board.arms[name]) for name in ctx.config.teachers}
    for name in ctx.config.teachers:
        labels = label_pool(ctx, state.board.arms[name], own[name])
        kept = select_labels(labels, ctx.config.student, pool_groups(ctx))
        state.labels[name] = label_result(ctx, labels, kept)
        report_labels(ctx, labels, state.labels[name])
        warn_of_lost_groups(ctx, labels, kept)
        out[name] = labels, kept
    return out


def student_phase(ctx: Context, state: RunState, labels: dict[str, tuple[Labels, NDArray[np.int64]]]) -> None:
    """Students of all teachers, and the ceiling."""
    ctx.tuned["strong"] = tune_strong(ctx)
    for name, (found, kept) in labels.items():
        student = train_student(ctx, state.board.arms[name], found, kept)
        evaluate_arms(ctx, [Arm(student_of(name), [student])], state.board)
    if ctx.config.arms.ceiling:
        evaluate_arms(ctx, [Arm(CEILING, [train_ceiling(ctx)])], state.board)
