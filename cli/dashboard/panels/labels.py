"""The Labelling view's panels as lines: the teachers, and their labels as they come."""

from __future__ import annotations

from typing import Any

from ensemw2s.arms import sorted_arms
from ensemw2s.cli.dashboard.drawing.palette import look_of
from ensemw2s.cli.dashboard.drawing.text import Line, bar, cut, fit, width_of
from ensemw2s.cli.dashboard.model.fields import NAN, known
from ensemw2s.cli.dashboard.model.model import LabelSample, RunModel, Stage
from ensemw2s.cli.dashboard.model.names import arm_name, clean, percent
from ensemw2s.cli.dashboard.panels.context import Choices, PanelContext


def teachers(model: RunModel) -> list[str]:
    """Names of the teachers that label or are to label."""
    return sorted_arms({*model.teachers, *(s.info.arm for s in model.stages.values() if s.info.kind == "label")})


def shown_teacher(model: RunModel, choices: Choices) -> str | None:
    """The chosen teacher; else the one at work, else the last that has labels."""
    names = teachers(model)
    if choices.teacher in names:
        return choices.teacher
    running = [name for name in names if (stage := _stage(model, name)) is not None and stage.state == "running"]
    have = [name for name in names if name in model.teachers]
    found = running or have or names
    return found[-1] if found else None


def step_teacher(model: RunModel, choices: Choices, by: int) -> None:
    """Show the teacher before or after."""
    names = teachers(model)
    now = shown_teacher(model, choices)
    if now is not None:
        choices.teacher = names[(names.index(now) + by) % len(names)]
        choices.changed()


def _stage(model: RunModel, teacher: str) -> Stage | None:
    stages = model.stages.values()
    return next((s for s in stages if s.info.kind == "label" and s.info.arm == teacher), None)


def teacher_progress(model: RunModel, name: str) -> tuple[int, int, float]:
    """Labels done, labels in all, and labels a second, from whatever the log has."""
    teacher, stage = model.teachers.get(name), _stage(model, name)
    if teacher is not None and teacher.total:
        return teacher.done, teacher.total, teacher.per_second
    if stage is not None and stage.total:
        seconds = model.now - stage.started
        return stage.done, stage.total, stage.done / seconds if seconds > 0 else NAN
    return 0, model.counts.get("hard_pool", 0), NAN


def teacher_lines(context: PanelContext, width: int) -> list[Line]:
    """A line for each teacher: progress, labels a second, what came out."""
    model = context.model
    shown = shown_teacher(model, context.choices)
    names = teachers(model)
    if not names:
        return [[("Nothing is labelled yet.", "dim")]]
    lines: list[Line] = []
    narrow = width < 76
    head = fit("", 22) + fit("", 0 if narrow else 12) + fit("labels", 12, ">")
    head += "".join(fit(t, 8, ">") for t in ("kept", "conf. %", "agree %", "right %"))
    lines.append([(cut(head, width), "dim")])
    for name in names:
        colour, marker = look_of(name)
        done, total, speed = teacher_progress(model, name)
        line: Line = [
            ("▸ " if name == shown else "  ", "bold text"),
            (marker + " ", colour),
            (fit(arm_name(name), 18), "bold text" if name == shown else "text"),
        ]
        if not narrow:
            line += [(bar(done / total if total else NAN, 10), colour), ("  ", "text")]
        line.append((fit(f"{done}/{total or '–'}", 12, ">"), "text" if done else "faint"))
        line += _outcome(model, name, speed)
        lines.append(line)
    return lines


def _outcome(model: RunModel, name: str, speed: float) -> Line:
    teacher = model.teachers.get(name)
    if teacher is None or not teacher.finished:
        return [(f"  {speed:.1f} a second", "dim")] if known(speed) and speed > 0 else []
    values = (
        str(teacher.kept),
        *(percent(v) for v in (teacher.mean_confidence, teacher.mean_agreement, teacher.accuracy)),
    )
    return [("".join(fit(value, 8, ">") for value in values), "text")]


def samples(model: RunModel, choices: Choices) -> list[LabelSample]:
    """Labels of the shown teacher that match the search, the newest first."""
    name = shown_teacher(model, choices)
    teacher = model.teachers.get(name) if name is not None else None
    words = choices.label_search.casefold().split()
    found = reversed(teacher.samples) if teacher is not None else []
    return [s for s in found if all(w in f"{s.prompt} {s.label} {_verdict(s)[2]}".casefold() for w in words)]


def _verdict(sample: LabelSample) -> tuple[str, str, str]:
    if sample.correct is None:
        return "?", "dim", "unknown"
    return ("✓", "good", "right") if sample.correct else ("✕", "bad", "wrong")


def sample_lines(context: PanelContext, width: int) -> list[Line]:
    """The labels: right or wrong, confidence, agreement, label, prompt."""
    found = samples(context.model, context.choices)
    if not found:
        return [[("No label matches." if context.choices.label_search else "No label yet.", "dim")]]
    label = max(6, min(34, (width - 24) // 3, max(width_of(clean(s.label).strip()) for s in found)))
    lines: list[Line] = [[(cut(f"  conf.       agree {fit('label', label)}  prompt", width), "dim")]]
    for sample in found:
        mark, key, _ = _verdict(sample)
        lines.append(
            [
                (mark + " ", "bold " + key),
                (bar(sample.confidence, 5), "blue"),
                (fit(percent(sample.confidence, 0), 4, ">") + " ", "text"),
                (fit(percent(sample.agreement, 0), 6, ">") + " ", "dim"),
                (fit(clean(sample.label).strip(), label) + "  ", "bold text"),
                (cut(clean(sample.prompt), max(1, width - 22 - label)), "text"),
            ]
        )
    return lines


def sample_rows(context: PanelContext) -> list[dict[str, Any]]:
    """The labels as data."""
    name = shown_teacher(context.model, context.choices)
    return [{"teacher": name, **vars(sample)} for sample in samples(context.model, context.choices)]


def teacher_rows(context: PanelContext) -> list[dict[str, Any]]:
    """The teachers as data."""
    out = []
    for name in teachers(context.model):
        done, total, _ = teacher_progress(context.model, name)
        row: dict[str, Any] = {"teacher": name, "done": done, "total": total}
        teacher = context.model.teachers.get(name)
        if teacher is not None:
            row |= {name: getattr(teacher, name) for name in ("kept", "mean_confidence", "mean_agreement", "accuracy")}
        out.append(row)
    return out
