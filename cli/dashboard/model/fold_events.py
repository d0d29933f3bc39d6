"""From log records to the model, one record at a time. No record can raise, whatever it holds."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable

from ensemw2s.arms import BOOSTING, ENSEMBLE
from ensemw2s.cli.dashboard.model.fields import NAN, Record, known, mapping, number, numbers, text, texts, whole
from ensemw2s.cli.dashboard.model.model import (
    HardExample,
    LabelSample,
    Message,
    Round,
    RoundPoint,
    RunModel,
    Score,
    Stage,
    TeacherView,
)
from ensemw2s.cli.dashboard.model.names import arm_name, percent, short
from ensemw2s.cli.dashboard.model.stages import planned_infos

MAX_ROUNDS = 10_000
MAX_STAGES = 5_000
#: Arms and teachers that are kept: more than any run has.
MAX_NAMES = 1_000

_BEGUN = ("running", "done", "kept", "stopped")


Handlers = dict[str, Callable[[RunModel, Record], None]]


def fold_events(model: RunModel, records: Iterable[Record]) -> None:
    """Take milestones in, oldest first."""
    fold(model, records, _EVENTS)


def fold(model: RunModel, records: Iterable[Record], handlers: Handlers) -> None:
    """Hand every record to the handler of its kind; other kinds are passed over."""
    for record in records:
        handler = handlers.get(record.get("kind", ""))
        if handler is not None:
            time = number(record, "t")
            if known(time):
                model.updated = max(time, model.updated) if known(model.updated) else time
            handler(model, record)


def _say(model: RunModel, record: Record, message: str, level: str = "info") -> None:
    model.messages.append(Message(number(record, "t"), level, message))
    model.touch("messages")


def _run_started(model: RunModel, record: Record) -> None:
    fingerprint = text(record, "config_fingerprint")
    if model.starts and fingerprint != model.fingerprint:
        # Another configuration: what was found before does not hold for it. Losses stay for the stages that are kept.
        model.arms.clear()
        model.rounds.clear()
        model.scores.clear()
        model.teachers.clear()
        model.hard.clear()
        model.results = None
    for stage in model.stages.values():
        stage.clear()
    model.starts += 1
    model.fingerprint = fingerprint
    model.name = text(record, "name", model.name)
    model.seed = whole(record, "seed") if "seed" in record else None
    model.task = text(record, "task")
    model.preset = text(record, "preset")
    model.host = text(record, "host")
    model.versions = mapping(record, "versions")
    model.started = model.updated = number(record, "t")
    model.seconds, model.error, model.ended = NAN, "", ""
    model.stop_reason, model.selected_rounds, model.current_round = "", 0, 0
    if record.get("resumed") is True:
        _say(model, record, "The run was continued.")
    model.touch("run", "stages", "progress", "rounds", "arms", "labels", "tokens")


def _plan(model: RunModel, record: Record) -> None:
    names = texts(record, "stages")[:MAX_STAGES]
    model.records = planned_infos(record, MAX_STAGES)
    old = model.stages
    model.stages = {name: old.get(name) or Stage(name) for name in names}
    for name, stage in model.stages.items():
        stage.info = model.info(name)
    model.touch("stages")


def stage_of(model: RunModel, name: str) -> Stage:
    """The stage with this name; if it was not planned, a new one behind those that have begun."""
    stage = model.stages.get(name)
    if stage is None:
        stage = Stage(name, model.info(name))
        if len(model.stages) < MAX_STAGES:
            names = list(model.stages)
            begun = [place for place, each in enumerate(names) if model.stages[each].state in _BEGUN]
            names.insert(begun[-1] + 1 if begun else 0, name)
            model.stages = {each: model.stages.get(each, stage) for each in names}
    return stage


def _stage_started(model: RunModel, record: Record) -> None:
    stage = stage_of(model, text(record, "stage", "?"))
    stage.clear()
    stage.state, stage.started = "running", number(record, "t")
    _skip_before(model, stage)
    model.touch("stages", "progress")


def _skip_before(model: RunModel, stage: Stage) -> None:
    """Stages come in the order of the plan: those before one that began, and that still wait, will not come."""
    for other in model.stages.values():
        if other is stage:
            return
        if other.state == "waiting":
            other.state = "skipped"


def _stage_finished(model: RunModel, record: Record) -> None:
    stage = stage_of(model, text(record, "stage", "?"))
    cached = record.get("cached") is True
    stage.state = "kept" if cached else "done"
    stage.seconds, stage.ended = number(record, "seconds"), number(record, "t")
    if not known(stage.started):
        stage.started = stage.ended if cached else stage.ended - stage.seconds
    _skip_before(model, stage)
    model.touch("stages", "progress")


def _stage_rerun(model: RunModel, record: Record) -> None:
    stage = stage_of(model, text(record, "stage", "?"))
    stage.note = text(record, "reason")
    _say(model, record, f"{stage.name} runs again: {stage.note}")
    model.touch("stages")


def _data_ready(model: RunModel, record: Record) -> None:
    counts = mapping(record, "counts")
    model.counts = {str(name): whole(counts, name) for name in counts}
    model.tokens = whole(record, "tokens")
    model.notes = mapping(record, "notes")
    model.touch("data", "tokens")


def _round_of(model: RunModel, record: Record) -> Round | None:
    place = whole(record, "round", -1)
    if not 0 < place <= MAX_ROUNDS:
        return None
    if place not in model.rounds:
        model.rounds[place] = Round(place)
    return model.rounds[place]


def _round_started(model: RunModel, record: Record) -> None:
    model.rounds_planned = whole(record, "rounds", model.rounds_planned)
    found = _round_of(model, record)
    if found is not None:
        model.current_round = found.number
    model.touch("rounds", "stages")


def _round_finished(model: RunModel, record: Record) -> None:
    found = _round_of(model, record)
    if found is None:
        return
    found.epsilon, found.epsilon_raw = number(record, "epsilon"), number(record, "epsilon_raw")
    found.prior, found.alpha = number(record, "epsilon_prior"), number(record, "alpha")
    found.kept, found.finished = record.get("kept") is not False, True
    found.errors_from = text(record, "errors_from")
    found.n_eff, found.top1_share = number(record, "n_eff"), number(record, "top1_share")
    found.validation = number(record, "validation")
    note = f"Round {found.number}: ε {percent(found.epsilon)} %, α {short(found.alpha)}"
    _say(model, record, note + ("" if found.kept else "; its expert is dropped"))
    model.touch("rounds")


def _round_scored(model: RunModel, record: Record) -> None:
    place = whole(record, "round", -1)
    if 0 < place <= MAX_ROUNDS:
        arm = text(record, "arm", BOOSTING)
        fields = ("expert_accuracy", "ensemble_accuracy", "expert_token_accuracy", "ensemble_token_accuracy")
        point = RoundPoint(*(number(record, name) for name in fields))
        model.scores[ENSEMBLE if arm == BOOSTING else arm, text(record, "split")][place] = point
        model.touch("rounds")


def _boosting_stopped(model: RunModel, record: Record) -> None:
    model.stop_reason = text(record, "reason")
    model.selected_rounds = whole(record, "selected_rounds")
    last = whole(record, "rounds", len(model.rounds))
    for place in [place for place in model.rounds if place > last]:
        del model.rounds[place]
    for stage in model.stages.values():
        if stage.info.round > last and stage.state == "waiting":
            stage.state = "skipped"
    note = f"Boosting ended after {last} rounds ({model.stop_reason}); {model.selected_rounds} chosen on validation."
    _say(model, record, note)
    model.touch("rounds", "stages")


def _arm_result(model: RunModel, record: Record) -> None:
    arm, split = text(record, "arm"), text(record, "split")
    if not arm or not split:
        return
    if arm not in model.arms and len(model.arms) >= MAX_NAMES:
        return
    accuracy, low, high, tokens = (number(record, name) for name in ("accuracy", "low", "high", "token_accuracy"))
    model.arms.setdefault(arm, {})[split] = Score(accuracy, low, high, whole(record, "n"), tokens)
    model.touch("arms")


def teacher_of(model: RunModel, name: str) -> TeacherView:
    """The teacher with this name, made where it is new."""
    teacher = model.teachers.get(name) or TeacherView(name)
    if len(model.teachers) < MAX_NAMES:
        model.teachers[name] = teacher
    return teacher


def _label_sample(model: RunModel, record: Record) -> None:
    teacher = teacher_of(model, text(record, "teacher", "?"))
    if teacher.finished:  # reported again by a continued run
        teacher.finished = False
        teacher.samples.clear()
    correct = record.get("correct")
    teacher.samples.append(
        LabelSample(
            text(record, "prompt"),
            text(record, "label"),
            number(record, "confidence"),
            number(record, "agreement"),
            correct if isinstance(correct, bool) else None,
        )
    )
    del teacher.samples[:-200]
    model.touch("labels")


def _labels_done(model: RunModel, record: Record) -> None:
    teacher = teacher_of(model, text(record, "teacher", "?"))
    teacher.done = teacher.total = whole(record, "n")
    teacher.kept = whole(record, "kept")
    for name in ("mean_confidence", "mean_agreement", "accuracy"):
        setattr(teacher, name, number(record, name))
    teacher.finished = True
    note = f"Labels of {arm_name(teacher.name)}: {teacher.kept} of {teacher.done} kept"
    _say(model, record, note + (f", {percent(teacher.accuracy)} % right" if known(teacher.accuracy) else ""))
    model.touch("labels")


def _hard_tokens(model: RunModel, record: Record) -> None:
    place, examples = whole(record, "round", -1), record.get("examples")
    if not 0 < place <= MAX_ROUNDS or not isinstance(examples, list):
        return
    model.hard[place] = [hard_example(item) for item in examples if isinstance(item, dict)]
    model.touch("tokens")


def hard_example(item: Record) -> HardExample:
    """One entry of ``hard_tokens``; lists that are too short are filled up."""
    tokens = [sys.intern(token) for token in texts(item, "tokens")]
    weights, wrong = numbers(item, "weights"), numbers(item, "wrong")
    predicted = [sys.intern(token) for token in texts(item, "predicted")]
    lack = len(tokens)
    return HardExample(
        sys.intern(text(item, "id", "?")),
        sys.intern(text(item, "prompt")),
        tokens,
        array("d", (weights + [NAN] * lack)[:lack]),
        array("d", (wrong + [NAN] * lack)[:lack]),
        (predicted + [""] * lack)[:lack],
    )


def _message(model: RunModel, record: Record) -> None:
    _say(model, record, text(record, "text"), text(record, "level", "info"))


def _run_finished(model: RunModel, record: Record) -> None:
    model.seconds, model.ended = number(record, "seconds"), "finished"
    for stage in model.stages.values():
        if stage.state == "waiting":
            stage.state = "skipped"
    _say(model, record, "The run is finished.")
    model.touch("run", "stages")


def _run_failed(model: RunModel, record: Record) -> None:
    model.error, model.ended = text(record, "error"), "failed"
    for stage in model.stages.values():
        if stage.state == "running":
            stage.state, stage.ended = "stopped", number(record, "t")
    where = text(record, "stage")
    _say(model, record, f"{where}: {model.error}" if where else model.error or "The run failed.", "error")
    model.touch("run", "stages")


_EVENTS: Handlers = {
    "run_started": _run_started,
    "plan": _plan,
    "stage_started": _stage_started,
    "stage_finished": _stage_finished,
    "stage_rerun": _stage_rerun,
    "data_ready": _data_ready,
    "round_started": _round_started,
    "round_finished": _round_finished,
    "round_scored": _round_scored,
    "boosting_stopped": _boosting_stopped,
    "arm_result": _arm_result,
    "labels_done": _labels_done,
    "label_sample": _label_sample,
    "hard_tokens": _hard_tokens,
    "message": _message,
    "run_finished": _run_finished,
    "run_failed": _run_failed,
}
