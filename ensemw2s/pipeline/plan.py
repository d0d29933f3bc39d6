"""The stages that a configuration leads to, in order."""

from __future__ import annotations

from collections.abc import Callable

from ensemw2s.arms import ENSEMBLE, WEAK, arm_names, arm_spec, expert_arm, expert_number, student_of
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
    stages: list[str] = []
    if config.arms.zero_shot:
        stages += ["baselines/zero-shot-strong/scores", "baselines/zero-shot-weak/scores"]
        stages += _answers(config, "weak_zero_shot", "strong_zero_shot")
    for t in range(1, config.boosting.rounds + 1):
        stages += _round(config, t)
    for arm in weak_arms(config):
        stages += [stage for model in _members(config, arm) for stage in _member(model)]
        spec = arm_spec(arm)
        stages += _joint(config, arm) if spec.several and not spec.boosted and not spec.of else []
        stages += _answers(config, arm)
    return stages


def weak_arms(config: RunConfig) -> list[str]:
    """The arms of fine-tuned weak models, in the order in which they are built: what boosting gives first.

    ``ensemble_all`` is not among them: whether it is another arm than ``ensemble`` is seen after boosting.
    """
    experts = map(expert_arm, range(2, config.boosting.rounds + 1))
    asked = arm_names(lambda spec: spec.side == "weak" and spec.kind != "zero-shot" and bool(spec.option))
    order = dict.fromkeys([WEAK, "single", *experts, ENSEMBLE, "ensemble_equal", *asked])
    return [arm for arm in order if config.has_arm(arm)]


def _round(config: RunConfig, t: int) -> list[str]:
    stages = _member(f"experts/round-{t:02d}")
    if config.boosting.errors == "crossfit":
        folds = range(1, config.boosting.folds + 1)
        stages += [stage for f in folds for stage in _member(f"experts/helpers/round-{t:02d}-fold-{f}")]
    if t == 1:
        return [*stages, "baselines/zero-shot-weak/scores"]  # the prior error needs it, whatever is compared
    return stages + _joint(config, f"boosting/round-{t:02d}")


def _members(config: RunConfig, arm: str) -> list[str]:
    """Stages of the models that can be part of an arm; models that are equal are trained once."""
    boosting, spec = config.boosting, arm_spec(arm)
    counts = range(1, boosting.rounds + 1)
    experts = [f"experts/round-{t:02d}" for t in counts]
    if (number := expert_number(arm)) is not None:
        return [experts[number - 1]]
    # Under weights that never change, the rounds are bootstrap resamples, or trainings on all data, themselves.
    constant = not ALPHA_RULES.get(boosting.alpha).updates
    same = {"example": "bagging", "none": "seeds"}.get(boosting.draw) if constant else None
    own = spec.of or arm
    if own in (ENSEMBLE, same):
        return experts
    plain = experts[0] if boosting.first_is_plain else "baselines/plain"
    first = {WEAK: plain, "single": experts[0], "bagging": experts[0], "seeds": plain}.get(own)
    folder = f"baselines/{own.replace('_', '-')}"
    if not spec.several:
        return [first or folder]
    members = [f"{folder}/member-{k:02d}" for k in counts]
    return [first or members[0], *members[1:]]


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
        stages += _member(f"student/{teacher}") + _answers(config, student_of(teacher))
    return stages + (_member("ceiling") + _answers(config, "ceiling") if config.arms.ceiling else [])
