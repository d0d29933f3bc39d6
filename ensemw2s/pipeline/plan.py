"""The stages that a configuration leads to, in order."""

from __future__ import annotations

from collections.abc import Callable

from ensemw2s.config.schema import RunConfig
from ensemw2s.data.example import SplitName
from ensemw2s.registry import ALPHA_RULES

#: Where arms are compared: held-out easy (ID) and held-out hard (OOD).
TESTS: tuple[SplitName, ...] = ("test", "hard_test")


def answers_stage(who: str, split: SplitName) -> str:
    """Name of the stage that holds the answers of an arm or a model."""
    return f"answers/{who}/{split}"


def planned_stages(config: RunConfig, until: str | None = None) -> list[str]:
    """Names of the stages of a run, in the order in which they come.

    Some may be left out: boosting can stop before its last round, validation can choose fewer members, and models do
    not run together where their separate scores decide everything. Some can come in between: ``joint/…`` with a rule
    other than ``product`` where the kept candidates leave an arg-max open, cross-fitting helpers where too few examples
    were left out of a draw, and answers of ``ensemble_all`` where validation chose fewer rounds.

    Args:
        config: the resolved configuration.
        until: ``data``, ``experts``, ``labels`` or ``student``: the last phase; None is all.
    """
    phases: list[tuple[str, Callable[[RunConfig], list[str]]]] = [
        ("experts", _experts),
        ("labels", _labels),
        ("student", _students),
    ]
    stages = ["data"]
    for phase, of in phases if until != "data" else []:
        stages += of(config)
        if phase == until:
            break
    return list(dict.fromkeys(stages))


def _member(name: str) -> list[str]:
    return [name, f"{name}/scores"]


def _answers(config: RunConfig, *arms: str) -> list[str]:
    if config.task == "choice":
        return []
    return [answers_stage(arm, split) for arm in arms for split in TESTS]


def _joint(config: RunConfig, name: str) -> list[str]:
    return [f"joint/{name}"] if config.ensemble.rule == "product" and config.boosting.rounds > 1 else []


def _experts(config: RunConfig) -> list[str]:
    arms, rounds = config.arms, config.boosting.rounds
    stages: list[str] = []
    if arms.zero_shot:
        stages += ["baselines/zero-shot-strong/scores", "baselines/zero-shot-weak/scores"]
        stages += _answers(config, "weak_zero_shot", "strong_zero_shot")
    for t in range(1, rounds + 1):
        stages += _round(config, t)
    if config.has_plain:
        stages += [stage for model in _members(config, "plain") for stage in _member(model)] + _answers(config, "plain")
    stages += [] if config.boosting.first_is_plain else _answers(config, "single")
    stages += _answers(config, *(f"expert_{t}" for t in range(2, rounds + 1)), "ensemble", "ensemble_equal")
    if arms.plain_long:
        stages += _member("baselines/plain-long") + _answers(config, "plain_long")
    for name in ("bagging", "seeds"):
        if getattr(arms, name):
            stages += [stage for member in _members(config, name) for stage in _member(member)]
            stages += _joint(config, name) + _answers(config, name, f"{name}_equal_rounds")
    return stages


def _round(config: RunConfig, t: int) -> list[str]:
    stages = _member(f"experts/round-{t:02d}")
    if config.boosting.errors == "crossfit":
        folds = range(1, config.boosting.folds + 1)
        stages += [stage for f in folds for stage in _member(f"experts/helpers/round-{t:02d}-fold-{f}")]
    if t == 1:
        return [*stages, "baselines/zero-shot-weak/scores"]  # the prior error needs it, whatever is compared
    return stages + _joint(config, f"boosting/round-{t:02d}")


def _members(config: RunConfig, teacher: str) -> list[str]:
    """Stages of the models that can be part of a teacher; models that are equal are trained once."""
    boosting = config.boosting
    counts = range(1, boosting.rounds + 1)
    experts = [f"experts/round-{t:02d}" for t in counts]
    plain = experts[0] if boosting.first_is_plain else "baselines/plain"
    # Under weights that never change, the rounds are bootstrap resamples, or trainings on all data, themselves.
    constant = not ALPHA_RULES.get(boosting.alpha).updates
    same = {"example": "bagging", "none": "seeds"}.get(boosting.draw) if constant else None
    if teacher in ("ensemble", same):
        return experts
    if teacher == "bagging":
        return [experts[0], *(f"baselines/bagging/member-{k:02d}" for k in counts[1:])]
    if teacher == "seeds":
        return [plain, *(f"baselines/seeds/member-{k:02d}" for k in counts[1:])]
    return [plain if teacher == "plain" else experts[0]]


def _labels(config: RunConfig) -> list[str]:
    own: list[str] = []
    stages: list[str] = []
    for teacher in config.teachers:
        members = _members(config, teacher)
        if config.task == "choice":
            stages += _joint(config, f"labels/{teacher}") if len(members) > 1 else []
        elif len(members) > 1 or config.labelling.decoding.method != "greedy":
            own += [answers_stage(member, "hard_pool") for member in members]
        stages.append(f"labels/{teacher}")
    return own + stages


def _students(config: RunConfig) -> list[str]:
    stages: list[str] = []
    for teacher in config.teachers:
        stages += _member(f"student/{teacher}") + _answers(config, f"student_{teacher}")
    return stages + (_member("ceiling") + _answers(config, "ceiling") if config.arms.ceiling else [])
