"""The stages that a configuration leads to, in order."""

from __future__ import annotations

from ensemw2s.config.schema import RunConfig


def planned_stages(config: RunConfig, until: str | None = None) -> list[str]:
    """Names of the stages of a run; boosting may stop before its last round.

    Args:
        config: the resolved configuration.
        until: ``data``, ``experts``, ``labels`` or ``student``: the last phase; None is all.
    """
    stages = ["data"]
    if until == "data":
        return stages
    arms, rounds = config.arms, config.boosting.rounds
    if arms.zero_shot:
        stages += ["baselines/zero-shot-strong", "baselines/zero-shot-weak"]
    stages += ["experts/round-01"]
    if not arms.zero_shot:
        stages += ["baselines/zero-shot-weak"]  # the prior error needs it all the same
    stages += [f"experts/round-{t:02d}" for t in range(2, rounds + 1)]
    if arms.plain:
        stages.append("baselines/plain")
    if arms.plain_long:
        stages.append("baselines/plain-long")
    if arms.bagging:
        first = 2 if config.boosting.draw == "example" else 1
        stages += [f"baselines/bagging/member-{k:02d}" for k in range(first, rounds + 1)]
    if arms.seeds:
        stages += [] if arms.plain else ["baselines/plain"]
        stages += [f"baselines/seeds/member-{k:02d}" for k in range(2, rounds + 1)]
    if until == "experts":
        return stages
    stages += [f"labels/{name}" for name in arms.students]
    if until == "labels":
        return stages
    stages += [f"student/{name}" for name in arms.students]
    if arms.ceiling:
        stages.append("ceiling")
    return stages
