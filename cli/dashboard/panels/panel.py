"""Panels: boxes with a title that show a part of the model and redraw only when that part changed."""

from __future__ import annotations

from typing import Any

from rich.segment import Segment
from textual import events
from textual.containers import Container
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from ensemw2s.cli.dashboard.drawing.box import Frame, paint, segments
from ensemw2s.cli.dashboard.drawing.palette import style
from ensemw2s.cli.dashboard.drawing.text import Line
from ensemw2s.cli.dashboard.panels.context import PanelContext, Shown

Rows = list[dict[str, Any]]
BAD_STAMP: tuple[object, ...] = ()


def to_strip(line: Line, width: int, dark: bool, ground: str = "ground") -> Strip:
    """A line as a strip of exactly ``width`` columns."""
    return Strip(segments(line, width, dark, ground=ground), width)


class Panel:
    """Mixed into widgets that show ``parts``; ``ticking`` ones are also redrawn every second while a run goes on."""

    parts: tuple[Shown, ...] = ()
    ticking = False
    context: PanelContext | None = None
    _stamp: tuple[object, ...] = BAD_STAMP

    def show(self, context: PanelContext, tick: bool = False) -> bool:
        """Redraw if something changed; whether that was so."""
        self.context = context
        stamp = context.stamp(self.parts)
        if stamp == self._stamp and not (tick and self.ticking):
            return False
        self._stamp = stamp
        with context.model.lock:
            self.rebuild(context)
        return True

    def shows(self, context: PanelContext) -> bool:
        """Whether the same run and choices are shown already, if not its newest state."""
        return self._stamp[:3] == context.stamp(())

    def rebuild(self, context: PanelContext) -> None:
        """Take what is needed from the model, and refresh."""


class BoxPanel(Panel, Widget, can_focus=True):
    """A panel that paints itself with its frame, once for each change.

    Subclasses give ``title_line``, ``note_line`` and ``body``.
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._strips: list[Strip] = []
        self._painted_for: tuple[object, ...] = ()
        self._body: list[list[Segment]] = []
        self._body_for: tuple[object, ...] = ()

    def rows(self, context: PanelContext) -> Rows:
        """The content as rows of a CSV file."""
        return []

    def title_line(self) -> Line:
        """Title of the upper border."""
        return []

    def note_line(self) -> Line:
        """Note of the lower border."""
        return []

    def body(self, width: int, height: int) -> list[list[Segment]]:
        """The lines inside, each of exactly ``width`` columns."""
        raise NotImplementedError

    def thumb(self, height: int) -> tuple[int, int] | None:
        """Lines of the scroll bar's thumb."""
        return None

    @property
    def boxed(self) -> bool:
        """Whether there is a box around it."""
        return self.context is None or self.context.boxed

    @property
    def inner(self) -> tuple[int, int]:
        """Columns and lines inside of the frame."""
        edges = self._frame().edges
        return max(0, self.size.width - edges.left - edges.right), max(0, self.size.height - edges.top - edges.bottom)

    def _frame(self) -> Frame:
        context = self.context
        dark, plain_ = (True, False) if context is None else (context.dark, context.plain)
        return Frame(self.boxed, self.has_focus, plain_, dark)

    def repaint(self) -> None:
        """Paint anew."""
        self._painted_for = self._body_for = ()
        self.refresh()

    def prepare(self) -> None:
        """Paint now what is painted otherwise when the screen is, together with everything else."""
        if self.size:
            self.painted()

    def on_resize(self, event: events.Resize) -> None:
        """Nothing to do: what is painted is always of the present size."""

    def painted(self) -> list[Strip]:
        """The panel as lines of the screen."""
        frame = self._frame()
        wanted = (self.size, frame)
        if self._painted_for != wanted:
            width, height = self.inner
            if self._body_for != (self.inner, frame.dark):  # another focus changes the frame alone
                self._body = self.body(width, height) if width > 0 and height > 0 else []
                self._body_for = (self.inner, frame.dark)
            body = self._body
            frame = Frame(frame.boxed, frame.focused, frame.plain, frame.dark, self.thumb(height))
            strips = paint(self.title_line(), self.note_line(), body, self.size, frame)
            if frame.plain:
                for line_filter in self.get_line_filters():
                    strips = [strip.apply_filter(line_filter, self.background_colors[1]) for strip in strips]
            self._painted_for, self._strips = wanted, strips
        return self._strips

    def render_lines(self, crop: Region) -> list[Strip]:
        """The part of the panel that is on the screen."""
        strips = self.painted()[crop.y : crop.bottom]
        if len(strips) < crop.height:
            dark = self.context is None or self.context.dark
            strips += [Strip.blank(self.size.width, style("text", dark))] * (crop.height - len(strips))
        whole = crop.column_span == (0, self.size.width)
        return strips if whole else [strip.crop(crop.x, crop.right) for strip in strips]

    def place_of(self, event: events.MouseEvent) -> tuple[int, int]:
        """Column and line inside of the frame where the mouse is; may be outside of it."""
        edges = self._frame().edges
        return event.x - edges.left, event.y - edges.top

    @property
    def frame_height(self) -> int:
        """Lines that the frame takes."""
        edges = self._frame().edges
        return edges.top + edges.bottom


class Backdrop(Container):
    """A container that paints nothing: what is seen are the panels in it, and they leave no gaps."""

    def render_lines(self, crop: Region) -> list[Strip]:
        """One blank line as often as needed."""
        return [Strip.blank(crop.width)] * crop.height


def panels_in(widget: Widget) -> list[BoxPanel]:
    """All panels below a widget, in order."""
    return [child for child in widget.query("*") if isinstance(child, BoxPanel)]
