"""Costs of stages and arms as stored in ``results.json``; they are counted in :mod:`ensemw2s.runs.cost`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import ensemw2s.stage_names as stage
from ensemw2s.arms import arm_spec, teacher_of
from ensemw2s.evaluation.record import Record

#: ``what`` of the passes over held-out labels that early stopping takes.
LOOKS = "held_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkCost(Record):
    """A piece of a stage's work: ``kind`` is ``train``, ``score`` or ``decode``, ``what`` for example a split."""

    kind: str
    what: str
    tokens: int
    flops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost(Record):
    """Tokens read and floating-point operations of a stage, in all and piece by piece."""

    tokens: int
    flops: int
    work: tuple[WorkCost, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory(Record):
    """Peak memory during a stage in bytes, or None where it is not known.

    Attributes:
        process: largest resident memory of the process, its libraries included.
        device: largest memory that PyTorch had allocated on one CUDA device.
    """

    process: int | None
    device: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCost(Record):
    """Floating-point operations behind one arm, as if it had been built alone.

    Attributes:
        training: fine-tuning of its members, and of the helpers that boosted ones took their errors from; for a
            student, of its teacher's members, of the generations before it, and its own, with the looks of early
            stopping.
        scoring: the passes over the training set that boosting takes its errors from.
        labelling: of the hard pool by the teacher, earlier generations and voters; 0 for what is no student.
        total: the sum. Passes over validation and test splits are not in it.
        answer: for one test question.
    """

    training: int
    scoring: int
    labelling: int
    total: int
    answer: float


def stage_cost(work: Iterable[Mapping[str, object]]) -> StageCost:
    """The cost of a stage from the ``work`` of its ``stage.json``; pieces of the same kind are put together."""
    sums: dict[tuple[str, str], list[int]] = {}
    for piece in work:
        total = sums.setdefault((str(piece["kind"]), str(piece["what"])), [0, 0])
        total[0] += int(str(piece["tokens"]))
        total[1] += int(str(piece["flops"]))
    pieces = tuple(WorkCost(kind=k, what=w, tokens=t, flops=f) for (k, w), (t, f) in sums.items())
    return StageCost(tokens=sum(p.tokens for p in pieces), flops=sum(p.flops for p in pieces), work=pieces)


def flops_of(stages: Mapping[str, StageCost], names: Iterable[str], kind: str, what: str | None = None) -> int:
    """Operations of one kind (and of one piece, where named) over some stages.

    A stage that is not there, or is of a version that did not count, counts 0.
    """
    return sum(
        piece.flops
        for name in names
        if name in stages
        for piece in stages[name].work
        if piece.kind == kind and what in (None, piece.what)
    )


def arm_cost(
    name: str,
    members: Sequence[str],
    stages: Mapping[str, StageCost],
    questions: int,
    teacher: Sequence[str] = (),
    earlier: Sequence[str] = (),
    *,
    before: Sequence[str] = (),
    answers: str | None = None,
) -> ArmCost:
    """The cost of one arm.

    Args:
        name: the arm.
        members: the stages of its models; a model's scores are in the stage ``MODEL/scores``.
        stages: stage → cost.
        questions: number of questions of the ID test.
        teacher: for a student, the stages of its teacher's members.
        earlier: for a student, the stages of the generations before it and of voters.
        before: for an expert by number, the stages of the rounds before it, which its token weights are of.
        answers: the stage that wrote its answers to the ID test; None where options were scored.
    """
    judged, boosters = before, teacher or members
    if arm_spec(name).boosted and len(boosters) > 1:
        judged = boosters

    def scores(models: Sequence[str], split: str) -> int:
        return flops_of(stages, map(stage.scores, models), "score", split)

    helpers = [name for name in stages if 0 < (stage.helper_round(name) or 0) <= len(judged)]
    scoring = scores([*judged, *helpers], "train")
    models = [*members, *teacher, *earlier, *before, *helpers]
    training = flops_of(stages, models, "train") + flops_of(stages, models, "score", LOOKS)
    labelling = 0
    who = teacher_of(name)
    if who is not None and teacher:
        own = [stage.answers(member, "hard_pool") for member in teacher]
        asked = (stage.labels(who), stage.joint_labels(who), *own)
        labelling = scores([*teacher, *earlier], "hard_pool") + sum(
            stages[name].flops for name in asked if name in stages
        )
    test = scores(members, "test") if answers is None else flops_of(stages, [answers], "decode")
    return ArmCost(
        training=training,
        scoring=scoring,
        labelling=labelling,
        total=training + scoring + labelling,
        answer=test / questions,
    )
