"""Step metrics into the model: newest first from the tail of the file, history in front of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ensemw2s.cli.dashboard.model.fields import MAX_WHOLE, NAN, Record, known, number, numbers, text, whole
from ensemw2s.cli.dashboard.model.fold_events import Handlers, fold, teacher_of
from ensemw2s.cli.dashboard.model.model import BINS, Curve, RunModel, Stage
from ensemw2s.cli.dashboard.model.series import Series

MAX_CURVES = 1_000

#: Kinds of which history is kept; the rest only says how things stand now.
HISTORY_KINDS = ("train", "label", "system")


def fold_metrics(model: RunModel, records: Iterable[Record]) -> None:
    """Take step metrics in, oldest first."""
    fold(model, records, _METRICS)


def _train(model: RunModel, record: Record) -> None:
    tag = text(record, "tag", "?")
    curve = model.curves.get(tag)
    if curve is None:
        if len(model.curves) >= MAX_CURVES:
            return
        curve = model.curves[tag] = Curve(tag)
    step = number(record, "step")
    if not abs(step) < MAX_WHOLE:
        return
    curve.loss.append(step, number(record, "loss"))
    curve.step, curve.steps = int(step), whole(record, "steps", curve.steps)
    curve.learning_rate = number(record, "learning_rate")
    curve.tokens_per_second = number(record, "tokens_per_second")
    curve.time = number(record, "t")
    model.touch("train")


def count_confidences(histogram: list[int], confidences: Iterable[float]) -> None:
    """Add confidences to a histogram of :data:`BINS` equal bins over [0, 1]."""
    for value in filter(known, confidences):
        histogram[min(BINS - 1, max(0, int(value * BINS)))] += 1


def _label(model: RunModel, record: Record) -> None:
    teacher = teacher_of(model, text(record, "teacher", "?"))
    done = whole(record, "done")
    if done <= teacher.counted:  # labelled again from the start
        teacher.histogram = [0] * BINS
        teacher.first_done = done
    teacher.counted = done
    teacher.first_done = teacher.first_done or done
    if not teacher.finished:
        teacher.done, teacher.total = done, whole(record, "total")
    teacher.per_second = number(record, "per_second")
    count_confidences(teacher.histogram, numbers(record, "confidences"))
    model.touch("labels")


def _progress(model: RunModel, record: Record) -> None:
    task = text(record, "task")
    stage = _stage_for(model, task)
    if stage is None or stage.state not in ("running", "waiting"):
        return
    stage.task, stage.done, stage.total = task, whole(record, "done"), whole(record, "total")
    model.touch("progress")


def _stage_for(model: RunModel, task: str) -> Stage | None:
    """The stage whose name is the task, or begins it: ``experts/round-01/test`` belongs to ``experts/round-01``."""
    name = task
    while name:
        if name in model.stages:
            return model.stages[name]
        name = name.rpartition("/")[0]
    return model.running_stage


def _system(model: RunModel, record: Record) -> None:
    time = number(record, "t")
    if known(time):
        model.cpu.append(time, number(record, "cpu"))
        model.rss.append(time, number(record, "rss"))
        model.touch("system")


_METRICS: Handlers = {
    "train": _train,
    "label": _label,
    "progress": _progress,
    "system": _system,
}


@dataclass
class OldMetrics:
    """A chunk of history, folded by itself before it goes in front of what the model has."""

    losses: dict[str, Series] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    cpu: Series = field(default_factory=lambda: Series(2048))
    rss: Series = field(default_factory=lambda: Series(2048))
    labels: dict[str, list[tuple[int, list[float]]]] = field(default_factory=dict)

    def add(self, records: Iterable[Record]) -> None:
        """Take records in, oldest first."""
        for record in records:
            kind = record.get("kind")
            if kind == "train":
                tag, step = text(record, "tag", "?"), number(record, "step")
                if known(step):
                    self.losses.setdefault(tag, Series()).append(step, number(record, "loss"))
                    self.steps[tag] = whole(record, "steps")
            elif kind == "system":
                time = number(record, "t")
                if known(time):
                    self.cpu.append(time, number(record, "cpu"))
                    self.rss.append(time, number(record, "rss"))
            elif kind == "label":
                entry = (whole(record, "done"), numbers(record, "confidences"))
                self.labels.setdefault(text(record, "teacher", "?"), []).append(entry)

    def put_before(self, model: RunModel) -> None:
        """Put this chunk in front of the model's series."""
        for tag, older in self.losses.items():
            curve = model.curves.get(tag)
            if curve is None:
                if len(model.curves) >= MAX_CURVES:
                    continue
                last = older.last() or (0.0, NAN)
                model.curves[tag] = Curve(tag, steps=self.steps[tag], step=int(last[0]), loss=older)
            else:
                curve.loss.prepend(older)
        if self.losses:
            model.touch("train")
        if len(self.cpu):
            model.cpu.prepend(self.cpu)
            model.rss.prepend(self.rss)
            model.touch("system")
        for name, batches in self.labels.items():
            self._put_labels(model, name, batches)

    def _put_labels(self, model: RunModel, name: str, batches: list[tuple[int, list[float]]]) -> None:
        teacher = teacher_of(model, name)
        for done, confidences in reversed(batches):
            if teacher.first_done and done >= teacher.first_done:
                continue  # of an earlier attempt
            teacher.first_done = done
            count_confidences(teacher.histogram, confidences)
        model.touch("labels")
