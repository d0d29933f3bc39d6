"""Boxes that panels draw themselves: frame, title and inside in one painting.

Textual can draw borders and scroll bars. It does so line by line through several caches, changes titles one repaint
after the other, and lays the whole screen out anew when a text grows; on a busy machine a key then waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import set_cell_size
from rich.segment import Segment
from textual.strip import Strip

from ensemw2s.cli.dashboard.drawing.palette import style
from ensemw2s.cli.dashboard.drawing.text import Line, cut, line_width, width_of
from ensemw2s.text import without_hidden


@dataclass(frozen=True)
class Edges:
    """Columns and lines that a frame takes on each side."""

    left: int
    top: int
    right: int
    bottom: int


BOXED, FLAT = Edges(2, 1, 2, 1), Edges(0, 1, 1, 0)


@dataclass(frozen=True)
class Frame:
    """Frame of a panel.

    Attributes:
        boxed: a box around it; else a line above, for small terminals.
        focused: whether keys go to it.
        plain: no colours, so the focus must show in the shape.
        thumb: first and last line of the scroll bar's thumb; None where everything is seen.
    """

    boxed: bool
    focused: bool
    plain: bool
    dark: bool
    thumb: tuple[int, int] | None = None

    @property
    def edges(self) -> Edges:
        """Cells that the frame takes."""
        return BOXED if self.boxed else FLAT


def segments(line: Line, width: int, dark: bool, more: str = "", ground: str = "ground") -> list[Segment]:
    """A line as segments of exactly ``width`` columns; ``more`` is added to every style."""
    out: list[Segment] = []
    left = width
    for raw, key in line:
        text = without_hidden(raw)  # whatever a file says, nothing but text reaches the terminal
        if not text or left <= 0:
            continue
        cells = width_of(text)
        if cells > left:
            text, cells = set_cell_size(text, left), left
        out.append(Segment(text, style(key + more, dark, ground)))
        left -= cells
    if left > 0:
        out.append(Segment(" " * left, style("text" + more, dark, ground)))
    return out


def paint(title: Line, note: Line, body: Sequence[list[Segment]], size: tuple[int, int], frame: Frame) -> list[Strip]:
    """A panel as lines of the screen, of ``size`` columns and lines.

    The note stands in the lower edge, or at the right of the upper one where there is no box. Lines of ``body`` are as
    wide as the frame leaves; lines that are missing stay empty.
    """
    width, height = size
    if width < 2 or height < 1:
        return [Strip.blank(width, style("text", frame.dark))] * height
    edges = frame.edges
    inside = max(0, width - edges.left - edges.right)
    blank = [Segment(" " * inside, style("text", frame.dark))]
    key = "blue" if frame.focused else "axis"
    strips = [Strip(_top(title, note, width, frame), width)]
    sides = "┃" if frame.focused and frame.plain else "│"
    left = [Segment(f"{sides} ", style(key, frame.dark))] if frame.boxed else []
    right = Segment(f" {sides}" if frame.boxed else " ", style(key, frame.dark))
    thumb = Segment(" ┃" if frame.boxed else "┃", style("blue" if frame.focused else "dim", frame.dark))
    if frame.plain and frame.boxed:
        thumb = Segment(" █", style("dim", frame.dark))
    for place in range(height - edges.top - edges.bottom):
        seen = frame.thumb is not None and frame.thumb[0] <= place <= frame.thumb[1]
        strips.append(Strip([*left, *(body[place] if place < len(body) else blank), thumb if seen else right], width))
    if frame.boxed and height > 1:
        strips.append(Strip(_bottom(note, width, frame), width))
    return strips[:height]


def _corners(frame: Frame) -> str:
    return "┏━┓┗┛" if frame.focused and frame.plain else "╭─╮╰╯"


def _top(title: Line, note: Line, width: int, frame: Frame) -> list[Segment]:
    key = "blue" if frame.focused else "axis"
    if frame.boxed:
        corners = _corners(frame)
        corner, rule, end = corners[0], corners[1], corners[2]
        shown = _cut(title, width - 6)
        line: Line = [(corner + rule, key)]
        line += [(" ", key), *shown, (" ", key)] if shown else []
        fill = width - line_width(line) - 1
        return segments([*line, (rule * fill + end, key)], width, frame.dark)
    rule = "━" if frame.focused else "─"
    mark = _cut(note, max(0, width - 12))
    room = width - (line_width(mark) + 2 if mark else 0) - 5
    shown = _cut(title, room)
    line = [(rule, key)]
    line += [(" ", key), *shown, (" ", key)] if shown else []
    fill = width - line_width(line) - (line_width(mark) + 2 if mark else 0) - 1
    line.append((rule * max(0, fill), key))
    line += [(" ", key), *mark, (" ", key)] if mark else []
    return segments([*line, (" ", key)], width, frame.dark)


def _bottom(note: Line, width: int, frame: Frame) -> list[Segment]:
    key = "blue" if frame.focused else "axis"
    corners = _corners(frame)
    mark = _cut(note, width - 6)
    fill = width - 2 - (line_width(mark) + 3 if mark else 0)
    line: Line = [(corners[3] + corners[1] * fill, key)]
    line += [(" ", key), *mark, (" " + corners[1], key)] if mark else []
    return segments([*line, (corners[4], key)], width, frame.dark)


def _cut(line: Line, width: int) -> Line:
    """As much of a line as fits."""
    if line_width(line) <= width:
        return line
    out: Line = []
    left = width
    for text, key in line:
        shown = cut(text, left)
        if shown.strip():
            out.append((shown, key))
        left -= width_of(shown)
        if left <= 0 or shown != text:
            break
    return out


def thumb_of(top: int, seen: int, total: int, height: int) -> tuple[int, int] | None:
    """Lines of the thumb for a list of ``total`` lines of which ``seen`` are seen from ``top``."""
    if total <= seen or height < 2:
        return None
    length = max(1, round(height * seen / total))
    first = round((height - length) * top / max(1, total - seen))
    return first, first + length - 1
