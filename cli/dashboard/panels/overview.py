"""The Overview's panels as lines: timeline, comparison table, messages."""

from __future__ import annotations

from typing import Any

from ensemw2s.arms import arm_spec, is_boosted, is_strong, is_student
from ensemw2s.cli.dashboard.drawing.palette import look_of
from ensemw2s.cli.dashboard.drawing.text import Line, bar, cut, fit, line_width, wrap
from ensemw2s.cli.dashboard.model.fields import known
from ensemw2s.cli.dashboard.model.model import RunModel, Score, Stage
from ensemw2s.cli.dashboard.model.names import SPLITS, TESTS, arm_name, clean, clock, moment, percent, student_name
from ensemw2s.cli.dashboard.model.status_text import STAGE_LOOKS, pgr_text, score_text
from ensemw2s.cli.dashboard.model.summary import (
    ArmRow,
    Forecast,
    Group,
    arm_rows,
    forecast,
    groups,
    share,
    stage_seconds,
)
from ensemw2s.cli.dashboard.panels.context import PanelContext

_NAME, _COUNT, _TIME = 16, 6, 8


def stage_lines(context: PanelContext, width: int) -> list[Line]:
    """The timeline: a row for each group of stages, with a line below for the one at work."""
    model = context.model
    if model.life == "waiting" and not model.stages:
        return _waiting_lines(model, width)
    if not model.stages:
        return [[("No stage has begun yet.", "dim")]]
    plan = forecast(model)
    room = width - 2 - _NAME - _COUNT - _TIME - 2
    axis = _Axis(model, plan, room) if room >= 12 else None
    lines: list[Line] = []
    for group in groups(model):
        lines.append(_group_line(group, model, plan, axis))
        running = group.running
        if running is not None:
            lines.append(_running_line(running, model, plan, width))
    if axis is not None:
        lines.append([(" " * (2 + _NAME + _COUNT), "dim"), (axis.labels(), "axis")])
    return lines


def _waiting_lines(model: RunModel, width: int) -> list[Line]:
    """Hints while there is no run."""
    lines: list[Line] = [
        [(text, "bold text")] for text in wrap(clean(model.life_note or "There is no run yet."), width)
    ]
    lines += [
        [],
        *([(text, "text")] for text in wrap("It appears here as soon as it begins. In another terminal:", width)),
    ]
    return [*lines, [], [("  ew2s run --preset tiny", "bold blue")]]


def _group_line(group: Group, model: RunModel, plan: Forecast, axis: _Axis | None) -> Line:
    mark, key = STAGE_LOOKS[group.state]
    line: Line = [
        (mark + " ", key),
        (fit(group.name, _NAME), "faint" if group.state in ("waiting", "skipped") else "text"),
        (fit(f"{group.done}/{group.total}", _COUNT - 1, ">") + " ", "dim"),
    ]
    if axis is not None:
        line += axis.bar(group)
    if group.state == "waiting":
        expected = sum(plan.stages.get(stage.name, float("nan")) for stage in group.stages)
        line.append((fit(f"≈{clock(expected)}" if known(expected) else "–", _TIME, ">"), "faint"))
    else:
        text = "kept" if group.state == "kept" else clock(group.seconds(model.now))
        line.append((fit("" if group.state == "skipped" else text, _TIME, ">"), "dim"))
    return line


def _running_line(stage: Stage, model: RunModel, plan: Forecast, width: int) -> Line:
    done = share(stage)
    left = plan.stages.get(stage.name, float("nan"))
    what = stage.task or stage.name
    tail = f" {percent(done, 0):>3} %" if known(done) else ""
    tail += f"  {clock(stage_seconds(stage, model.now))}"
    if known(left) and left > 0:
        tail += f"  ≈{clock(left)} left"
    room = max(0, width - 4 - len(tail) - 1)
    line: Line = [("  └ ", "axis"), (cut(clean(what), room) + " ", "bold text")]
    left_over = room - line_width(line[1:]) - 2
    if left_over >= 4:  # the per cent say the same where there is no room for a bar
        line += [("▕", "axis"), (bar(done, min(30, left_over)), "blue"), ("▏", "axis")]
    return [*line, (tail, "dim")]


class _Axis:
    """Time from the run's start to its expected end, on so many columns."""

    def __init__(self, model: RunModel, plan: Forecast, width: int) -> None:
        self.model, self.plan, self.width = model, plan, width
        starts = [s.started for s in model.stages.values() if known(s.started) and s.state != "kept"]
        self.begin = min([*starts, model.started] if known(model.started) else starts, default=0.0)
        ends = [s.ended for s in model.stages.values() if known(s.ended)]
        now = model.now if model.life == "running" and known(model.now) else max([*ends, self.begin])
        self.now = max(now, self.begin)
        self.expected: dict[str, tuple[float, float]] = {}
        at = self.now
        if model.life == "running":
            for name, seconds in plan.stages.items():
                if known(seconds):
                    self.expected[name] = (at, at + seconds)
                    at += seconds
        self.end = max(at, self.begin + 1.0)

    def _column(self, moment_: float) -> int:
        part = (moment_ - self.begin) / (self.end - self.begin)
        return min(self.width, max(0, round(part * self.width)))

    def bar(self, group: Group) -> Line:
        """Bar of a group's stages: done ``█``, at work ``▓``, expected ``░``."""
        cells = [" "] * self.width
        for stage in group.stages:
            if stage.name in self.expected:
                self._fill(cells, *self.expected[stage.name], "░")
        for stage in group.stages:
            if stage.state == "running":
                self._fill(cells, stage.started, self.now, "▓")
            elif stage.state in ("done", "stopped") and known(stage.started) and known(stage.ended):
                self._fill(cells, stage.started, stage.ended, "█")
        keys = {" ": "faint", "░": "axis", "▓": "blue", "█": "good" if group.state != "stopped" else "bad"}
        line: Line = []
        for char in cells:
            if line and line[-1][0][0] == char:
                line[-1] = (line[-1][0] + char, line[-1][1])
            else:
                line.append((char, keys[char]))
        return line

    def _fill(self, cells: list[str], start: float, end: float, char: str) -> None:
        first = min(self._column(start), self.width - 1)
        for place in range(first, max(self._column(end), first + 1)):
            cells[place] = char

    def labels(self) -> str:
        """The axis below the bars: 0, now where it is not the end, and the expected end."""
        end = clock(self.end - self.begin)
        text = "0:00" + " " * max(0, self.width - 4 - len(end)) + ("≈" + end if self.expected else end)
        if self.expected:
            place = self._column(self.now)
            if 8 <= place <= self.width - len(end) - 6:
                text = text[: place - 1] + "▲ now" + text[place + 4 :]
        return text[: self.width + 1]


def score_cells(score: Score, width: int) -> str:
    """Accuracy in a column: with its interval, with ±, or alone, as there is room."""
    text = score_text(score) if width >= 17 else percent(score.accuracy)
    if 10 <= width < 17 and known(score.high - score.low):
        text += f" ±{percent((score.high - score.low) / 2)}"
    return fit(text, width, ">")


def _fitting(rows: list[ArmRow], most: int) -> list[ArmRow]:
    """The rows that matter most, at most so many: single experts after the first go first, then variants."""
    for spare in (1, 2, 3, 4):
        if len(rows) > most:
            rows = [row for row in rows if arm_spec(row.arm).spare != spare]
    return rows


def arm_lines(context: PanelContext, width: int, height: int = 1000) -> list[Line]:
    """The comparison table; with the intervals drawn where there is room, and the rows that fit."""
    every = arm_rows(context.model, so_far=True)
    if not every:
        return [[("No arm is evaluated yet.", "dim")]]
    both = any(is_strong(row.arm) for row in every)
    rows = every if len(every) + 1 + both <= height else _fitting(every, height - 2 - both)
    ratios = any(row.pgr for row in rows)
    name = 22 if width >= 56 else 18
    extra = 14 if ratios else 0
    column = 18 if width >= name + extra + 36 else 11 if width >= name + extra + 22 else 6
    extra = extra if width >= name + extra + 2 * column else 0
    spare = (width - name - extra - 2 * column) // 2 - 2
    picture = min(36, spare) if spare >= 10 else 0
    scale = _Scale(rows, picture)
    blank = " " * (picture + 2) if picture else ""
    head = fit("", name) + "".join(fit(t, column, ">") + blank for t in ("ID, %", "OOD, %"))
    lines: list[Line] = [[(head + (fit("PGR ID / OOD", extra, ">") if extra else ""), "dim")]]
    strong = False
    for row in rows:
        if is_strong(row.arm) and not strong:
            strong = True
            if len(lines) > 1:
                lines.append([("─" * (name + extra + 2 * (column + (picture + 2 if picture else 0))), "grid")])
        lines.append(_arm_line(row, name, column, extra, scale))
    if len(rows) < len(every):
        lines.append([(cut(f"and {len(every) - len(rows)} more: f shows all, full screen", width), "dim")])
        return lines
    return [*lines, *_pgr_lines(rows, context.model, width)]


def _pgr_lines(rows: list[ArmRow], model: RunModel, width: int) -> list[Line]:
    """PGR of every student with its interval, or that it is not defined."""
    learners = [row for row in rows if is_student(row.arm)]
    if not any(row.pgr for row in learners):
        return []
    lines: list[Line] = [[], [(cut("PGR = (S − W) / (C − W), with Fieller's 95 % interval", width), "dim")]]
    for row in learners:
        colour, marker = look_of(row.arm)
        line: Line = [(marker + " ", colour), (fit(student_name(row.arm), 11), "text")]
        for split in TESTS:
            text = pgr_text(row.pgr.get(split)) or ("undefined" if model.results else "–")
            line += [(f" {SPLITS[split]} ", "dim"), (fit(text.replace("-", "−"), 20), "text")]
        lines.append(line)
    return lines


def _arm_line(row: ArmRow, name: int, column: int, extra: int, scale: _Scale) -> Line:
    colour, marker = look_of(row.arm)
    strong = is_boosted(row.arm)
    key = "bold text" if strong else "text"
    line: Line = [(marker + " ", colour), (fit(arm_name(row.arm), name - 2), key)]
    for split in TESTS:
        score = row.score(split)
        line.append((score_cells(score, column), key))
        if scale.width:
            line += [("  ", key), *scale.whisker(score, colour, marker)]
    if extra:
        parts = [f"{row.pgr[s][0]:.2f}".replace("-", "−") if s in row.pgr else "–" for s in TESTS] if row.pgr else []
        known_interval = all(known(value[1]) for value in row.pgr.values())
        line.append(
            (fit(("" if known_interval else "≈") + " / ".join(parts), extra, ">"), "text" if known_interval else "dim")
        )
    return line


class _Scale:
    """A common axis on which intervals are drawn."""

    def __init__(self, rows: list[ArmRow], width: int) -> None:
        self.width = width
        values = [v for row in rows for s in row.scores.values() for v in (s.low, s.high, s.accuracy) if known(v)]
        self.low, self.high = min(values, default=0.0), max(values, default=1.0)

    def _column(self, value: float) -> int:
        span = self.high - self.low or 1.0
        return min(self.width - 1, max(0, round((value - self.low) / span * (self.width - 1))))

    def whisker(self, score: Score, colour: str, marker: str) -> Line:
        """``  ├──●──┤  `` on the axis."""
        if not known(score.accuracy):
            return [(" " * self.width, "text")]
        middle = self._column(score.accuracy)
        low = self._column(score.low) if known(score.low) else middle
        high = self._column(score.high) if known(score.high) else middle
        text = " " * low + "─" * (high - low + 1)
        text = text[:middle] + marker + text[middle + 1 :]
        return [(fit(text, self.width), colour)]


def arm_table_rows(context: PanelContext) -> list[dict[str, Any]]:
    """The comparison table as data."""
    out: list[dict[str, Any]] = []
    for row in arm_rows(context.model):
        for split, score in row.scores.items():
            ratio = dict(zip(("pgr", "pgr_low", "pgr_high"), row.pgr.get(split, (None, None, None)), strict=True))
            out.append({"arm": row.arm, "split": split, **vars(score), **ratio})
    return out


def stage_rows(context: PanelContext) -> list[dict[str, Any]]:
    """The stages as data."""
    return [
        {"stage": s.name, "state": s.state, "started": s.started, "seconds": stage_seconds(s, context.model.now)}
        for s in context.model.stages.values()
    ]


_LEVELS = {"info": ("·", "dim"), "warning": ("!", "bold warn"), "error": ("✗", "bold bad")}


def message_lines(context: PanelContext, width: int) -> list[Line]:
    """Messages, the newest at the end."""
    lines: list[Line] = []
    for message in list(context.model.messages)[-200:]:
        mark, key = _LEVELS.get(message.level, ("·", "dim"))
        stamp = fit(moment(message.time), 12 if width >= 60 else 9)
        body = wrap(clean(message.text), width - len(stamp) - 2, 6)
        for place, text in enumerate(body):
            head: Line = [(stamp, "dim"), (mark + " ", key)] if place == 0 else [(" " * (len(stamp) + 2), "dim")]
            lines.append([*head, (text, "text" if message.level == "info" else key)])
    return lines or [[("No message yet.", "dim")]]


def message_rows(context: PanelContext) -> list[dict[str, Any]]:
    """Messages as data."""
    return [vars(message) for message in context.model.messages]
