"""Error analysis: disagreement of students and teachers, shared errors of experts, calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import ensemw2s.stage_names as stage
from ensemw2s.arms import arm_spec, labels_of, teacher_of
from ensemw2s.config.answer_pattern import compile_pattern
from ensemw2s.data.example import SplitName
from ensemw2s.evaluation.disagreement import Disagreement, SharedErrors, disagreement, shared_errors
from ensemw2s.evaluation.matching import extract_answer, normalise_text
from ensemw2s.evaluation.numbers import parse_number
from ensemw2s.evaluation.reliability import Reliability, reliability
from ensemw2s.labelling.labels import Labels
from ensemw2s.pipeline.answers import read_answers
from ensemw2s.pipeline.context import Context
from ensemw2s.pipeline.evaluate import Arm, Scoreboard
from ensemw2s.pipeline.labels import label_correct
from ensemw2s.pipeline.plan import TESTS
from ensemw2s.pipeline.prefixes import choices_of
from ensemw2s.pipeline.state import RunState
from ensemw2s.seeds import sub_seed

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """Answers of an arm on a split.

    Attributes:
        keys: option numbers, or text ready to be compared; ``n``.
        confidence: measure → in [0, 1], ``[n]``; see :class:`~ensemw2s.evaluation.reliability.Reliability`.
    """

    keys: Sequence[object]
    right: Bools
    confidence: dict[str, Floats]


@dataclass(frozen=True)
class ErrorAnalysis:
    """The findings, as they go into ``results.json``."""

    disagreements: list[Disagreement]
    shared_errors: list[SharedErrors]
    reliability: list[Reliability]


def analyse_errors(ctx: Context, state: RunState) -> ErrorAnalysis:
    """All findings of a finished run, from kept scores, answers and labels; no model runs for them."""
    board = state.board
    return ErrorAnalysis(
        disagreements=list(_disagreements(ctx, board)),
        shared_errors=list(_shared_errors(ctx, state)),
        reliability=[*_arm_reliability(ctx, board), *_label_reliability(ctx, board)],
    )


def _disagreements(ctx: Context, board: Scoreboard) -> Iterator[Disagreement]:
    for name, arm in board.arms.items():
        teacher = board.arms.get(teacher_of(name) or "")
        if teacher is None:
            continue
        for split in TESTS:
            mine, theirs = _answers(ctx, arm, split), _answers(ctx, teacher, split)
            yield disagreement(
                name,
                teacher.name,
                split,
                (mine.keys, theirs.keys),
                (mine.right, theirs.right),
                options=_options(ctx, split),
                level=ctx.config.evaluation.level,
            )


def _shared_errors(ctx: Context, state: RunState) -> Iterator[SharedErrors]:
    for group, arms in _groups(ctx, state).items():
        for split in TESTS:
            found = [_answers(ctx, arm, split) for arm in arms]
            yield shared_errors(
                group,
                split,
                [answers.keys for answers in found],
                [answers.right for answers in found],
                options=_options(ctx, split),
                level=ctx.config.evaluation.level,
                resamples=ctx.config.evaluation.bootstrap,
                seed=sub_seed(ctx.seed, "shared-errors", split),
            )


def _groups(ctx: Context, state: RunState) -> dict[str, list[Arm]]:
    """The members of every ensemble as arms of their own, where there are two or more whose answers are known."""
    groups = {}
    for name, members in state.members.items():
        arms = [Arm(member.name, [member]) for member in members]
        if ctx.config.task == "generate":
            by_member = {arm.members[0].name: arm for arm in state.board.arms.values() if len(arm.members) == 1}
            arms = [by_member[member.name] for member in members if member.name in by_member]
        if len(members) > 1 and len(arms) == len(members):
            groups[name] = arms
    return groups


def _options(ctx: Context, split: SplitName) -> NDArray[np.int64] | None:
    if ctx.config.task == "generate":
        return None
    return np.array([len(example.choices or ()) for example in ctx.splits[split]], dtype=np.int64)


def _answers(ctx: Context, arm: Arm, split: SplitName) -> Answers:
    if ctx.config.task == "generate":
        return _written(ctx, arm, split)
    found = choices_of(ctx, arm.members, arm.alphas, split, arm.side)
    enc = ctx.encoded(arm.side, split, ctx.scoring_view(split))
    option = found.choices.option
    return Answers(
        keys=option.tolist(),
        right=np.asarray(option == enc.answer_index),
        confidence={
            "token": np.clip(found.confidence, 0.0, 1.0),
            "option": _option_share(found.choices.scores, found.choices.sequence, enc.example_offsets),
        },
    )


def _option_share(scores: Floats, chosen: NDArray[np.int64], offsets: NDArray[np.int64]) -> Floats:
    """The chosen option's share of its example's exponentiated scores, [n]."""
    top = np.maximum.reduceat(scores, offsets[:-1])
    weights = np.exp(scores - np.repeat(top, np.diff(offsets)))
    return np.asarray(weights[chosen] / np.add.reduceat(weights, offsets[:-1]))


def _written(ctx: Context, arm: Arm, split: SplitName) -> Answers:
    rows = read_answers(ctx.run.path / stage.answers(arm.name, split))
    texts = [row["text"] for row in rows]
    match, pattern = ctx.config.evaluation.match, ctx.config.data.template.answer_pattern
    sure = [row.get("confidence") for row in rows]
    known = None not in sure
    return Answers(
        keys=[_key(text, match, pattern) for text in texts],
        right=ctx.right(texts, split),
        confidence={"token": np.clip(np.array(sure, dtype=np.float64), 0.0, 1.0)} if known else {},
    )


def _key(text: str, match: str, pattern: str | None) -> object:
    """Comparison key of a written answer; the same as what decides whether it is right."""
    final = extract_answer(text, None if pattern is None else compile_pattern(pattern))
    final = text if final is None else final
    number = parse_number(final) if match == "number" else None
    return normalise_text(final) if number is None else number


def _arm_reliability(ctx: Context, board: Scoreboard) -> Iterator[Reliability]:
    for name, arm in board.arms.items():
        if not arm_spec(name).main:
            continue
        for split in TESTS:
            answers = _answers(ctx, arm, split)
            for measure, confidence in answers.confidence.items():
                yield _reliability(ctx, name, split, measure, confidence, answers.right)


def _label_reliability(ctx: Context, board: Scoreboard) -> Iterator[Reliability]:
    for name in ctx.config.teachers:
        labels = Labels.load(ctx.run.path / stage.labels(name))
        right = label_correct(ctx, labels)
        sure = {"token": np.clip(labels.confidence, 0.0, 1.0)}
        teacher = board.arms[name]
        if ctx.config.task == "choice":
            choices = choices_of(ctx, teacher.members, teacher.alphas, "hard_pool").choices
            offsets = ctx.encoded("weak", "hard_pool", "hidden").example_offsets
            sure["option"] = _option_share(choices.scores, choices.sequence, offsets)
        for measure, confidence in sure.items():
            yield _reliability(ctx, labels_of(name), "hard_pool", measure, confidence, right)


def _reliability(ctx: Context, name: str, split: str, measure: str, confidence: Floats, right: Bools) -> Reliability:
    return reliability(
        name,
        split,
        measure,
        confidence,
        right,
        level=ctx.config.evaluation.level,
        resamples=ctx.config.evaluation.bootstrap,
        seed=sub_seed(ctx.seed, "reliability", split),
    )
