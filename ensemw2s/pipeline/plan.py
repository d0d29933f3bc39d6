"""The plan of a run: a record for every stage, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import ensemw2s.stage_names as stage
from ensemw2s.arms import (
    ALL_ROUNDS,
    BOOSTING,
    CEILING,
    ENSEMBLE,
    SINGLE,
    WEAK,
    arm_names,
    arm_spec,
    expert_arm,
    expert_number,
    student_of,
)
from ensemw2s.config.schema import RunConfig
from ensemw2s.data.example import SplitName
from ensemw2s.registry import ALPHA_RULES

#: Where arms are compared: held-out easy (ID) and held-out hard (OOD).
TESTS: tuple[SplitName, ...] = ("test", "hard_test")

#: Splits on which every prefix of an ensemble is reported. Only the first has a say in anything.
REPORTED: tuple[SplitName, ...] = ("validation", *TESTS)

StageKind = Literal["data", "train", "score", "joint", "answer", "label"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """A stage of a run.

    Attributes:
        name: in the log and in ``results.json``; its folder in the run directory.
        kind: fine-tuning (``train``), teacher-forced scores of one model (``score``) or of several together
            (``joint``), decoded answers, labels, or the data.
        group: the row of the timeline and of the estimate.
        side: the base at work.
        arm: whose model, answers or labels it holds; empty for a cross-fitting helper and for joint scores.
        round: the boosting round that it belongs to; None: it comes however many rounds there are.
        models: models at work, at most.
        splits: what is read.
        steps: optimiser steps of a fine-tuning.
        expected: False where it comes under circumstances only that are not known before: ``joint/…`` with a rule other
            than ``product`` where the kept candidates leave an arg-max open, cross-fitting helpers where too few
            examples were left out of a draw, and answers of ``ensemble_all`` where validation chose fewer rounds.
    """

    name: str
    kind: StageKind
    group: str
    side: Literal["weak", "strong"] = "weak"
    arm: str = ""
    round: int | None = None
    models: int = 1
    splits: tuple[SplitName, ...] = ()
    steps: int = 0
    expected: bool = True

    def to_json(self) -> dict[str, Any]:
        """Record of the stage in the event ``plan``."""
        return {what: getattr(self, what) for what in ("name", "kind", "group", "side", "arm", "round", "expected")}


def planned_stages(config: RunConfig, until: str | None = None) -> list[str]:
    """Names of the stages that are expected, in the order in which they come; see :func:`plan`."""
    return [planned.name for planned in plan(config, until) if planned.expected]


def plan(config: RunConfig, until: str | None = None) -> list[PlannedStage]:
    """The stages of a run, in the order in which they come.

    Some may be left out: boosting can stop before its last round, validation can choose fewer members, and models do
    not run together where their separate scores decide everything.

    Args:
        config: the resolved configuration.
        until: ``data``, ``experts``, ``labels`` or ``student``: the last phase; None is all.
    """
    phases: dict[str, Callable[[RunConfig], list[PlannedStage]]] = {
        "data": lambda _: [PlannedStage(name=stage.DATA, kind="data", group="data")],
        "experts": _experts,
        "labels": _labels,
        "student": _students,
    }
    found: dict[str, PlannedStage] = {}
    for phase, of in phases.items():
        for planned in of(config):
            found.setdefault(planned.name, planned)  # what several arms share belongs to the first
        if phase == until:
            break
    return list(found.values())


def member_splits(config: RunConfig) -> tuple[SplitName, ...]:
    """Splits on which any weak model is scored; the unlabelled pool only where options are scored."""
    return (*REPORTED, "hard_pool") if config.task == "choice" else REPORTED


def expert_splits(config: RunConfig) -> tuple[SplitName, ...]:
    """Splits on which a boosted expert, and the weak base, is scored."""
    return ("train", *member_splits(config))


def base_splits(config: RunConfig, side: Literal["weak", "strong"]) -> tuple[SplitName, ...]:
    """Splits on which a base is scored before any fine-tuning."""
    if side == "weak":
        return expert_splits(config)
    voting: tuple[SplitName, ...] = ("validation", "hard_pool") if side in config.labelling.voters else ()
    return (*(TESTS if config.arms.zero_shot else ()), *(voting if config.teachers else ()))


def weak_arms(config: RunConfig) -> list[str]:
    """The arms of fine-tuned weak models, in the order in which they are built: what boosting gives first.

    ``ensemble_all`` is not among them: whether it is another arm than ``ensemble`` is seen after boosting.
    """
    experts = map(expert_arm, range(2, config.boosting.rounds + 1))
    asked = arm_names(lambda spec: spec.side == "weak" and spec.kind != "zero-shot" and bool(spec.option))
    votes = arm_names(lambda spec: bool(spec.vote))
    order = dict.fromkeys([WEAK, SINGLE, *experts, ENSEMBLE, *votes, *asked])
    return [arm for arm in order if config.has_arm(arm)]


def _model(
    config: RunConfig, name: str, group: str, arm: str, splits: tuple[SplitName, ...], round_: int | None = None
) -> list[PlannedStage]:
    """A fine-tuning, and the scores of the model."""
    spec = arm_spec(arm)
    strong = spec.side == "strong"
    settings = config.training.student if strong else config.training.expert
    steps = settings.max_steps if settings.steps == "auto" else settings.steps
    pool: tuple[SplitName, ...] = ("hard_pool",) if strong else ("train",)
    steps = config.boosting.total_steps(steps) if spec.all_steps else steps
    trained = PlannedStage(
        name=name, kind="train", group=group, side=spec.side, arm=arm, round=round_, splits=pool, steps=steps
    )
    return [trained, _scores(name, group, arm, splits, round_)]


def _scores(model: str, group: str, arm: str, splits: tuple[SplitName, ...], round_: int | None = None) -> PlannedStage:
    side = arm_spec(arm).side
    return PlannedStage(
        name=stage.scores(model), kind="score", group=group, side=side, arm=arm, round=round_, splits=splits
    )


def _zero_shot(config: RunConfig, side: Literal["weak", "strong"]) -> PlannedStage:
    (arm,) = arm_names(lambda spec: spec.kind == "zero-shot" and spec.side == side)
    return _scores(stage.zero_shot(side), "zero-shot bases", arm, base_splits(config, side))


def _answers(config: RunConfig, arm: str, expected: bool = True) -> list[PlannedStage]:
    """Answers of an arm to the tests, where they are written."""
    spec, tests = arm_spec(arm), TESTS if config.task == "generate" else ()
    models = len(_models(config, arm)) if spec.several else 1
    return [
        PlannedStage(
            name=stage.answers(arm, split), kind="answer", group="answers", side=spec.side, arm=arm,
            round=expert_number(arm), models=models, splits=(split,), expected=expected,
        )
        for split in tests
    ]  # fmt: skip


def _joint(
    config: RunConfig, name: str, models: int, splits: tuple[SplitName, ...], round_: int | None = None
) -> list[PlannedStage]:
    """Joint scores, of all rows under ``rule: product`` with ``task: choice``, otherwise of the few that are open."""
    product = config.ensemble.rule == "product"
    every = splits if product and config.task == "choice" else ()
    return [
        PlannedStage(
            name=name, kind="joint", group="joint scores", round=round_, models=models, splits=every, expected=product
        )
    ]


def _tuning(config: RunConfig, side: Literal["weak", "strong"]) -> list[PlannedStage]:
    """Trials of the steps and the learning rate; how many there are is seen on the way."""
    settings = config.training.expert if side == "weak" else config.training.student
    least = len(settings.rates) if settings.learning_rate == "auto" else int(settings.automatic)
    most = least + (settings.max_steps.bit_length() if settings.steps == "auto" else 0)
    stages: list[PlannedStage] = []
    for trial in range(1, most + 1):
        name = stage.tuning(side, trial)
        record = PlannedStage(
            name=name, kind="train", group="tuning", side=side, splits=("train",), expected=trial <= least,
            steps=settings.max_steps if settings.steps == "auto" else settings.steps,
        )  # fmt: skip
        scored = replace(record, name=stage.scores(name), kind="score", splits=("validation",), steps=0)
        stages += [record, scored]
    return stages


def _experts(config: RunConfig) -> list[PlannedStage]:
    stages = _tuning(config, "weak")
    if config.arms.zero_shot:
        stages += [_zero_shot(config, "strong"), _zero_shot(config, "weak")]
        for arm in arm_names(lambda spec: spec.kind == "zero-shot"):
            stages += _answers(config, arm)
    for t in range(1, config.boosting.rounds + 1):
        stages += _round(config, t)
    for arm in weak_arms(config):
        stages += _weak_arm(config, arm)
    return stages + _answers(config, ALL_ROUNDS, expected=False)


def _round(config: RunConfig, t: int) -> list[PlannedStage]:
    first = WEAK if config.boosting.first_is_plain else SINGLE
    arm = first if t == 1 else expert_arm(t)
    stages = _model(config, stage.expert(t), "experts", arm, expert_splits(config), t)
    if config.boosting.errors_from != "train":
        expected = config.boosting.errors_from == "crossfit"
        for fold in range(1, config.boosting.folds + 1):
            trained, scored = _model(config, stage.helper(t, fold), "experts", "", ("train",), t)
            steps = config.boosting.helper_steps(trained.steps)
            stages += [replace(trained, expected=expected, steps=steps), replace(scored, expected=expected)]
    if t == 1:
        return [*stages, _zero_shot(config, "weak")]  # the prior error needs it, whatever is compared
    return stages + _joint(config, stage.joint(BOOSTING, t), t, REPORTED, t)


def _weak_arm(config: RunConfig, arm: str) -> list[PlannedStage]:
    spec, models = arm_spec(arm), _models(config, arm)
    stages = [
        planned
        for name in models
        for planned in _model(config, name, spec.short, spec.of or arm, member_splits(config))
    ]
    if spec.several and not spec.boosted and not spec.of and len(models) > 1:
        stages += _joint(config, stage.joint(arm), len(models), REPORTED)
    return stages + _answers(config, arm)


def _models(config: RunConfig, arm: str) -> list[str]:
    """Stages of the models that can be part of an arm; models that are equal are trained once."""
    boosting, spec = config.boosting, arm_spec(arm)
    experts = [stage.expert(t) for t in range(1, boosting.rounds + 1)]
    if (number := expert_number(arm)) is not None:
        return [experts[number - 1]]
    own = arm_spec(spec.of or arm)
    # Under weights that never change, the rounds are bootstrap resamples, or trainings on all data, themselves.
    same = own.draw == boosting.draw and own.chained == (boosting.start == "previous")
    same = same and not ALPHA_RULES.get(boosting.alpha).updates
    if own.several and own.boosted:
        return experts
    plain = experts[0] if boosting.first_is_plain else stage.baseline(WEAK)
    first = {"none": plain, "example": experts[0]}.get(own.draw)
    if not own.several:
        return [first or stage.baseline(own.name)]
    members = [stage.baseline(own.name, k) for k in range(1, boosting.members_for_cost + 1)]
    equal = experts if same else [first or members[0]]
    return [*equal, *members[len(equal) :]]


def _labels(config: RunConfig) -> list[PlannedStage]:
    own: list[PlannedStage] = []
    stages = [_zero_shot(config, side) for side in config.labelling.voters if config.teachers]
    choice = config.task == "choice"
    for teacher in config.teachers:
        members = _models(config, teacher)
        several = len(members)
        if choice and several > 1:
            stages += _joint(config, stage.joint_labels(teacher), several, ("hard_pool",))
        elif not choice and (several > 1 or config.labelling.decoding.method != "greedy"):
            own += [_own_answers(config, member) for member in members]
        pool: tuple[SplitName, ...] = () if choice else ("hard_pool",)
        stages.append(
            PlannedStage(
                name=stage.labels(teacher), kind="label", group="labels", arm=teacher, models=several, splits=pool
            )
        )
    return own + stages


def _own_answers(config: RunConfig, model: str) -> PlannedStage:
    """A member's own answers to the hard pool, for the agreement."""
    rounds = {stage.expert(t): t for t in range(2, config.boosting.rounds + 1)}
    return PlannedStage(
        name=stage.answers(model, "hard_pool"), kind="answer", group="answers", round=rounds.get(model),
        splits=("hard_pool",),
    )  # fmt: skip


def _students(config: RunConfig) -> list[PlannedStage]:
    stages = _tuning(config, "strong")
    for teacher in config.teachers:
        arm = student_of(teacher)
        for g in range(1, config.student.generations):
            splits: tuple[SplitName, ...] = ("validation", *TESTS, "hard_pool")
            stages += _model(config, stage.student(teacher, g), "students", arm, splits)
            stages.append(PlannedStage(name=stage.labels(teacher, g + 1), kind="label", group="labels", arm=teacher))
        stages += _model(config, stage.student(teacher), "students", arm, TESTS) + _answers(config, arm)
    if config.arms.ceiling:
        stages += _model(config, stage.ceiling(), "ceiling", CEILING, TESTS) + _answers(config, CEILING)
    return stages
