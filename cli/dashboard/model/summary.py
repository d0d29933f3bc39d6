"""Views of the model: rows of the timeline, the comparison table, time left, JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ensemw2s import files
from ensemw2s.arms import CEILING, ENSEMBLE, SINGLE, WEAK, expert_arm, is_student, sorted_arms
from ensemw2s.cli.dashboard.model.fields import NAN, known, mapping, number
from ensemw2s.cli.dashboard.model.model import RunModel, Score, Stage
from ensemw2s.cli.dashboard.model.names import TESTS

_OVER = ("done", "kept", "skipped")
NO_SCORE = Score()


@dataclass
class Group:
    """Stages that share a row of the timeline."""

    name: str
    stages: list[Stage] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Stages that are over; skipped ones do not count."""
        return sum(stage.state in ("done", "kept") for stage in self.stages)

    @property
    def total(self) -> int:
        """Stages that count."""
        return sum(stage.state != "skipped" for stage in self.stages)

    @property
    def state(self) -> str:
        """``running``, ``stopped``, ``done``, ``kept``, ``skipped`` or ``waiting``."""
        states = {stage.state for stage in self.stages}
        for state in ("stopped", "running"):
            if state in states:
                return state
        if states <= {"skipped"}:
            return "skipped"
        if states <= {"kept", "skipped"}:
            return "kept"
        return "done" if states <= set(_OVER) else "waiting"

    def seconds(self, now: float) -> float:
        """Seconds that its stages took so far."""
        return sum(s for s in (stage_seconds(stage, now) for stage in self.stages) if known(s))

    @property
    def running(self) -> Stage | None:
        """The stage at work."""
        return next((stage for stage in self.stages if stage.state == "running"), None)


def groups(model: RunModel) -> list[Group]:
    """Rows of the timeline, in the order of the plan."""
    found: dict[str, Group] = {}
    for stage in model.stages.values():
        found.setdefault(stage.info.group, Group(stage.info.group)).stages.append(stage)
    return list(found.values())


def stage_seconds(stage: Stage, now: float) -> float:
    """Seconds that a stage took, or has taken so far; a clock that went back counts as 0."""
    if stage.state in ("done", "kept"):
        return stage.seconds
    if stage.state == "running":
        return max(0.0, now - stage.started)
    return max(0.0, stage.ended - stage.started)


def share(stage: Stage) -> float:
    """Progress of a stage's current task, 0 to 1; NaN where it is unknown."""
    return min(1.0, max(0.0, stage.done / stage.total)) if stage.total > 0 else NAN


@dataclass
class Forecast:
    """Expected seconds of every stage that is not over, and of all of them together."""

    stages: dict[str, float]
    left: float


def _alike(stage: Stage) -> tuple[tuple[str, ...], ...]:
    """Stages that take about as long, the most alike first."""
    info = stage.info
    return (info.group, info.kind, info.side), (info.kind, info.side), ()


def forecast(model: RunModel) -> Forecast:
    """Time left: a stage takes what the finished ones of its row and kind took on average.

    Where there are none: what the one at work there will take by its training's progress, else what those of the same
    kind and base took, else what all stages took.
    """
    times: dict[tuple[str, ...], list[float]] = {}
    for stage in model.stages.values():
        if stage.state in ("done", "kept") and known(stage.seconds) and stage.info.kind != "data":
            for like in _alike(stage):
                times.setdefault(like, []).append(stage.seconds)
    means = {like: sum(seconds) / len(seconds) for like, seconds in times.items()}
    for stage in model.stages.values():
        part = share(stage)
        if stage.state == "running" and stage.task == stage.name and known(part) and part > 0.05:
            for like in _alike(stage)[:2]:
                means.setdefault(like, stage_seconds(stage, model.now) / part)
    wanted: dict[str, float] = {}
    for stage in model.stages.values():
        if stage.state not in ("waiting", "running"):
            continue
        seconds = next((means[like] for like in _alike(stage) if like in means), NAN)
        if stage.state == "running" and known(seconds):
            seconds = max(seconds - stage_seconds(stage, model.now), 0.0)
        wanted[stage.name] = seconds
    return Forecast(wanted, sum(wanted.values()) if wanted else 0.0)


@dataclass
class ArmRow:
    """A row of the comparison table. PGR is (value, low, high) by split; low and high are NaN before the run's end."""

    arm: str
    scores: dict[str, Score]
    pgr: dict[str, tuple[float, float, float]]

    def score(self, split: str) -> Score:
        """The score on a split."""
        return self.scores.get(split, NO_SCORE)


def arm_rows(model: RunModel, *, so_far: bool = False) -> list[ArmRow]:
    """The comparison table: weak arms, then strong ones.

    Args:
        model: the run.
        so_far: with what rounds have told of arms that are not evaluated yet: an accuracy without an interval.
    """
    arms = {**_so_far(model), **model.arms} if so_far else model.arms
    return [ArmRow(arm, arms[arm], _pgr(model, arm)) for arm in sorted_arms(arms)]


def weak_arm(model: RunModel) -> str:
    """W of PGR: the plain fine-tune; the first expert in results of earlier versions."""
    if model.results is not None:
        return str(model.results.get("weak", SINGLE))
    return WEAK if WEAK in model.arms else SINGLE


def _so_far(model: RunModel) -> dict[str, dict[str, Score]]:
    """The experts, and the ensembles of the newest round, on the test splits."""
    found: dict[str, dict[str, Score]] = {}
    for (arm, split), scores in model.scores.items():
        if split not in TESTS or not scores:
            continue
        found.setdefault(arm, {})[split] = Score(scores[max(scores)].ensemble)
        if arm == ENSEMBLE:
            experts = {s.info.round: s.info.arm for s in model.stages.values() if s.info.kind == "train" and s.info.arm}
            experts |= {1: SINGLE} if SINGLE in model.arms else {}
            for place, score in scores.items():
                name = experts.get(place, WEAK if place == 1 else expert_arm(place))
                found.setdefault(name, {})[split] = Score(score.expert)
    return found


def _pgr(model: RunModel, arm: str) -> dict[str, tuple[float, float, float]]:
    if not is_student(arm):
        return {}
    final = mapping(mapping(model.results or {}, "pgr"), arm)
    found: dict[str, tuple[float, float, float]] = {}
    for split in TESTS:
        entry = mapping(final, split)
        if entry:
            if known(number(entry, "value")):
                found[split] = (number(entry, "value"), number(entry, "low"), number(entry, "high"))
            continue
        weak, own, top = (model.arms.get(name, {}).get(split, NO_SCORE) for name in (weak_arm(model), arm, CEILING))
        # before the run's end there is no paired interval: only a gap that the two intervals leave is worth a ratio
        if known(own.accuracy) and top.low > weak.high:
            found[split] = ((own.accuracy - weak.accuracy) / (top.accuracy - weak.accuracy), NAN, NAN)
    return found


def to_json(model: RunModel) -> dict[str, Any]:
    """The state of the run as data; numbers that are unknown are null."""
    running = model.running_stage
    found: dict[str, Any] = {
        "path": model.path,
        "name": model.name,
        "state": model.life,
        "note": model.life_note or None,
        "seed": model.seed,
        "task": model.task or None,
        "preset": model.preset or None,
        "host": model.host or None,
        "started": model.started,
        "updated": model.updated,
        "elapsed": model.elapsed,
        "seconds_left": forecast(model).left if model.life == "running" else None,
        "error": model.error or None,
        "stage": running and _fields(running, "name", "done", "total") | {"task": running.task or None},
        "stages": [
            _fields(stage, "name", "state") | {"seconds": stage_seconds(stage, model.now)}
            for stage in model.stages.values()
        ],
        "data": model.counts,
        "answer_tokens": model.tokens or None,
        "rounds": [_round_json(model, place) for place in sorted(model.rounds)],
        "rounds_planned": model.rounds_planned or max(model.rounds, default=0),
        "stop_reason": model.stop_reason or None,
        "selected_rounds": model.selected_rounds or None,
        "arms": {row.arm: _arm_json(row) for row in arm_rows(model)},
        "labels": {name: _fields(teacher, *_LABELLED) for name, teacher in model.teachers.items()},
        "training": {
            tag: _fields(c, "step", "steps") | {"loss": (c.loss.last() or (0.0, NAN))[1]}
            for tag, c in model.curves.items()
        },
        "messages": [_fields(message, "time", "level", "text") for message in model.messages],
        "unreadable_lines": model.unreadable,
    }
    plain: dict[str, Any] = files.to_json(found)
    return plain


_LABELLED = ("done", "total", "kept", "finished", "mean_confidence", "mean_agreement", "accuracy")
_ROUND = ("finished", "kept", "epsilon", "epsilon_raw", "prior", "alpha", "n_eff", "top1_share", "validation")


def _fields(thing: object, *names: str) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in names}


def _round_json(model: RunModel, place: int) -> dict[str, Any]:
    accuracy = {
        split: _fields(scores[place], "expert", "ensemble")
        for (arm, split), scores in model.scores.items()
        if arm == ENSEMBLE and place in scores
    }
    return {"round": place, **_fields(model.rounds[place], *_ROUND), "accuracy": accuracy}


def _arm_json(row: ArmRow) -> dict[str, Any]:
    out: dict[str, Any] = {s: _fields(score, "accuracy", "low", "high", "n") for s, score in row.scores.items()}
    if row.pgr:
        out["pgr"] = {
            split: dict(zip(("value", "low", "high"), values, strict=True)) for split, values in row.pgr.items()
        }
    return out
