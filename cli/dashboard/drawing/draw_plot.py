"""Renders a plot as styled text."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ensemw2s.cli.dashboard.drawing.braille import Canvas, thin
from ensemw2s.cli.dashboard.drawing.plot import Curve, Frame, Look, Picture, Plot, full_range
from ensemw2s.cli.dashboard.drawing.text import Line, cut, width_of
from ensemw2s.cli.dashboard.drawing.ticks import linear_ticks, log_labels, log_ticks, tick_labels
from ensemw2s.cli.dashboard.model.series import Floats, smooth

MIN_WIDTH, MIN_HEIGHT = 16, 3
#: From this width on the names of horizontal lines are beside them.
NAMED_RULES = 40


def _y_values(plot: Plot, curves: list[Curve], window: tuple[float, float]) -> Floats:
    parts = [np.array([rule.y for rule in plot.rules], dtype=np.float64)]
    for curve in curves:
        seen = (curve.x >= window[0]) & (curve.x <= window[1])
        for values in (curve.y, curve.low, curve.high):
            if values is not None:
                parts.append(values[seen])
    every = np.concatenate(parts)
    return every[np.isfinite(every)]


def _y_range(plot: Plot, curves: list[Curve], window: tuple[float, float], log: bool) -> tuple[float, float] | None:
    values = _y_values(plot, curves, window)
    if log:
        values = values[values > 0]
    if values.size == 0:
        return None
    low, high = float(values.min()), float(values.max())
    if log:
        return (low / 1.3, high * 1.3) if high / low < 1.7 else (low / 1.05, high * 1.05)
    if plot.y_range is not None:
        return min(plot.y_range[0], low), max(plot.y_range[1], high)
    if high - low < 1e-12 * max(1.0, abs(high)):
        pad = max(0.05 if plot.percent else 0.5, 0.5 * abs(high) if abs(high) > 1.0 or not plot.percent else 0.0)
    else:
        pad = 0.06 * (high - low)
    low, high = low - pad, high + pad
    return (max(0.0, low), min(1.0, high)) if plot.percent and low < 1.0 and high > 0.0 else (low, high)


def draw(plot: Plot, look: Look, width: int, height: int) -> Picture:
    """Draw a plot into ``height`` lines of ``width`` columns."""
    whole = full_range(plot)
    if width < MIN_WIDTH or height < MIN_HEIGHT:
        return Picture([[(cut(plot.title, width), "dim")]][:height], None)
    span = 0.0 if whole is None else whole[1] - whole[0]
    window = (0.0, 1.0) if whole is None else (whole[0] + look.start * span, whole[0] + look.end * span)
    curves = [replace(c, y=smooth(c.y, look.smoothing)) if c.smoothed and c.draw == "line" else c for c in plot.curves]
    log = look.log and plot.can_log
    y_range = None if whole is None else _y_range(plot, curves, window, log)
    if y_range is None:
        return Picture(_centred(plot.empty, width, height), None)
    return _Drawing(plot, curves, window, y_range, log, width, height).picture()


def _centred(message: str, width: int, height: int) -> list[Line]:
    lines: list[Line] = [[] for _ in range(height)]
    text = cut(message, width - 2)
    lines[height // 2] = [(" " * max(0, (width - width_of(text)) // 2) + text, "dim")]
    return lines


def _at_least_two(low: float, high: float, most: int) -> list[float]:
    """Linear ticks; more than asked for where there would be one or none."""
    ticks: list[float] = []
    for more in (0, 1, 2, 4):
        ticks = linear_ticks(low, high, most + more)
        if len(ticks) >= 2:
            break
    return ticks


class _Drawing:
    """One drawing in progress."""

    def __init__(
        self,
        plot: Plot,
        curves: list[Curve],
        window: tuple[float, float],
        y_range: tuple[float, float],
        log: bool,
        width: int,
        height: int,
    ) -> None:
        self.plot, self.curves, self.window, self.y_range, self.log = plot, curves, window, y_range, log
        axis_rows = 2 if height >= 9 else 1
        rows = height - axis_rows
        most = max(1, rows // 3)
        scale = 100.0 if plot.percent else 1.0
        self.y_ticks = log_ticks(*y_range, most) if log else _at_least_two(*y_range, most)
        self.y_labels = log_labels(self.y_ticks, scale=scale) if log else tick_labels(self.y_ticks, scale=scale)
        left = min(9, max((len(label) for label in self.y_labels), default=1)) + 1
        names = [width_of(rule.name) for rule in plot.rules if rule.name]
        right = min(max(names) + 2, width // 4) if names and width >= NAMED_RULES else 0
        self.width, self.height = width, height
        self.frame = Frame(left, 0, max(4, width - left - right), rows, *window, *y_range, log)
        self.right = right
        self.axis_rows = axis_rows
        self.chars: npt.NDArray[np.str_] = np.full((height, width), " ", dtype="<U1")
        self.inks: npt.NDArray[np.int64] = np.full((height, width), 0, dtype=np.int64)
        self.keys: list[str] = ["dim"]
        self.named = True

    def picture(self) -> Picture:
        """Draw everything, and return it."""
        self._grid()
        self._rules()
        canvas = Canvas(self.frame.width, self.frame.height)
        order = sorted(range(len(self.curves)), key=lambda place: not self.curves[place].faint)
        inks = {place: self._ink(self._key(self.curves[place])) for place in order}
        for place in order:
            curve = self.curves[place]
            if curve.draw == "line":
                self._line(canvas, curve, inks[place])
            elif curve.draw == "points" and curve.low is not None and curve.high is not None:
                self._whiskers(canvas, curve, inks[place])
        self._take(canvas)
        for place in order:
            curve = self.curves[place]
            if curve.draw == "bars":
                self._bars(curve, inks[place])
            elif not curve.faint:
                self._markers(place, curve, inks[place])
        self._x_axis()
        return Picture(self._lines(), self.frame, self.named)

    def _key(self, curve: Curve) -> str:
        return "faint" if curve.faint else curve.colour

    def _ink(self, key: str) -> int:
        if key not in self.keys:
            self.keys.append(key)
        return self.keys.index(key)

    def _columns(self, x: Floats) -> Floats:
        low, high = self.window
        return np.asarray((x - low) / (high - low) * (self.frame.width * 2 - 1), dtype=np.float64)

    def _rows(self, y: Floats) -> Floats:
        low, high = self.y_range
        if self.log:
            safe = np.where(y > 0, y, np.nan)
            y, low, high = np.log(safe), math.log(low), math.log(high)
        return np.asarray((high - y) / (high - low) * (self.frame.height * 4 - 1), dtype=np.float64)

    def _row(self, y: float) -> int:
        place = self._rows(np.array([y]))[0]
        return round(place) // 4 if math.isfinite(place) else -1

    def _put(self, row: int, column: int, text: str, ink: int) -> None:
        for offset, char in enumerate(text):
            if 0 <= row < self.height and 0 <= column + offset < self.width:
                self.chars[row, column + offset] = char
                self.inks[row, column + offset] = ink

    def _grid(self) -> None:
        grid, axis, frame = self._ink("grid"), self._ink("axis"), self.frame
        for row in range(frame.height):
            self._put(row, frame.left - 1, "│", axis)
        taken = -2
        for tick, label in sorted(zip(self.y_ticks, self.y_labels, strict=True), reverse=True):
            row = self._row(tick)
            if not 0 <= row < frame.height or row <= taken:
                continue
            taken = row
            self._put(row, frame.left - 1 - len(label), label, 0)
            self._put(row, frame.left - 1, "┤", axis)
            for column in range(frame.left + 3, frame.left + frame.width, 4):
                self._put(row, column, "·", grid)

    def _rules(self) -> None:
        frame = self.frame
        taken: set[int] = set()
        for rule in sorted(self.plot.rules, key=lambda rule: -rule.y):
            row = self._row(rule.y)
            if not 0 <= row < frame.height:
                continue
            ink = self._ink(rule.colour)
            self._put(row, frame.left, "╌" * frame.width, ink)
            if self.right and rule.name:
                place = next((r for r in (row, row + 1, row - 1) if r not in taken and 0 <= r < frame.height), None)
                if place is not None:
                    taken.add(place)
                    self._put(place, frame.left + frame.width + 1, cut(rule.name, self.right - 1), ink)

    def _line(self, canvas: Canvas, curve: Curve, ink: int) -> None:
        columns = self._columns(curve.x)
        dots = self.frame.width * 2
        near = (columns >= -dots) & (columns <= 2 * dots)
        # one point beyond each edge keeps the line going to it
        first = max(0, int(np.searchsorted(columns, 0.0)) - 1) if columns.size else 0
        last = min(columns.size, int(np.searchsorted(columns, dots - 1.0)) + 2)
        near[first:last] = True
        columns, y = columns[near], curve.y[near]
        columns, y = thin(columns, y, np.rint(np.clip(columns, -1e9, 1e9)).astype(np.int64), dots)
        canvas.line(columns, self._rows(y), ink)

    def _whiskers(self, canvas: Canvas, curve: Curve, ink: int) -> None:
        if curve.low is None or curve.high is None:
            return
        columns = np.repeat(self._columns(curve.x), 3)
        ends = np.stack([self._rows(curve.low), self._rows(curve.high), np.full(curve.x.size, np.nan)], axis=1)
        canvas.line(np.rint(columns) // 2 * 2, ends.reshape(-1), ink)

    def _take(self, canvas: Canvas) -> None:
        frame = self.frame
        chars, drawn = canvas.characters(), canvas.ink >= 0
        area = (slice(frame.top, frame.top + frame.height), slice(frame.left, frame.left + frame.width))
        self.chars[area] = np.where(drawn, chars, self.chars[area])
        self.inks[area] = np.where(drawn, canvas.ink, self.inks[area])

    def _markers(self, number: int, curve: Curve, ink: int) -> None:
        frame = self.frame
        columns, rows = self._columns(curve.x), self._rows(curve.y)
        good = np.flatnonzero(np.isfinite(rows) & (columns >= -0.5) & (columns <= frame.width * 2 - 0.5))
        if curve.draw == "line" and good.size > max(2, frame.width // 3):
            every = max(1, good.size // max(2, frame.width // 16))
            good = good[(every * (number % 4 + 1)) // 5 :: every]
        for place in good.tolist():
            row, column = round(rows[place]) // 4, round(columns[place]) // 2
            if 0 <= row < frame.height:
                self._put(row, frame.left + column, curve.marker, ink)

    def _bars(self, curve: Curve, ink: int) -> None:
        frame = self.frame
        count = max(1, curve.x.size)
        edges = np.linspace(0, frame.width, count + 1).astype(int)
        base, heights = frame.height * 8, None
        low, high = self.y_range
        heights = np.clip((curve.y - low) / (high - low), 0.0, 1.0) * base
        for place in range(count):
            eighths = 0 if not math.isfinite(heights[place]) else round(heights[place])
            eighths = max(eighths, 1) if curve.y[place] > low else eighths
            columns = max(1, edges[place + 1] - edges[place] - (1 if edges[place + 1] - edges[place] > 2 else 0))
            for row in range(frame.height):
                part = min(8, max(0, eighths - (frame.height - 1 - row) * 8))
                if part:
                    self._put(row, frame.left + int(edges[place]), " ▁▂▃▄▅▆▇█"[part] * int(columns), ink)

    def _x_axis(self) -> None:
        frame, axis = self.frame, self._ink("axis")
        if self.axis_rows == 2:
            self._put(frame.height, frame.left - 1, "└" + "─" * frame.width, axis)
        if self.plot.categories:
            ticks = [float(i) for i in range(len(self.plot.categories))]
            room = max(1, frame.width // max(1, len(ticks)) - 1)
            labels = [cut(name, room) for name in self.plot.categories]
        else:
            ticks = linear_ticks(*self.window, max(1, frame.width // 7), whole=self.plot.whole_x)
            labels = tick_labels(ticks)
            longest = max(map(len, labels), default=1) + 2
            ticks = linear_ticks(*self.window, max(1, frame.width // longest), whole=self.plot.whole_x)
            labels = tick_labels(ticks)
        free = frame.left - 1
        end = frame.left + frame.width + self.right
        name_at = end - width_of(self.plot.x_name)
        for tick, label in zip(ticks, labels, strict=True):
            column = frame.left + round(self._columns(np.array([tick]))[0]) // 2
            if not frame.left <= column < frame.left + frame.width:
                continue
            if self.axis_rows == 2:
                self._put(frame.height, column, "┬", axis)
            start = min(max(frame.left - 1, column - len(label) // 2), end - len(label))
            if start >= free and start + len(label) <= end:
                self._put(self.height - 1, start, label, 0)
                free = start + len(label) + 1
        if not self.plot.categories and name_at >= free:
            self._put(self.height - 1, name_at, self.plot.x_name, self._ink("axis"))
        elif not self.plot.categories:
            self.named = False

    def _lines(self) -> list[Line]:
        lines: list[Line] = []
        for row in range(self.height):
            inks = self.inks[row]
            cuts = [*np.flatnonzero(np.concatenate([[True], inks[1:] != inks[:-1]])).tolist(), self.width]
            text = "".join(self.chars[row].tolist())
            lines.append([(text[a:b], self.keys[inks[a]]) for a, b in itertools.pairwise(cuts)])
        return lines
