"""Panels of text: lines that scroll, and a cursor over items."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message

from ensemw2s.cli.dashboard.drawing.box import segments, thumb_of
from ensemw2s.cli.dashboard.drawing.text import Line
from ensemw2s.cli.dashboard.panels.context import PanelContext, Shown
from ensemw2s.cli.dashboard.panels.panel import BoxPanel, Rows

WHEEL = 3
NO_LIMIT = 1000


class LinesPanel(BoxPanel):
    """A panel of styled lines that scrolls.

    Subclasses give ``build``; a line may belong to an item, and then a cursor moves over the items.

    Attributes:
        top: the first line that is seen.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "move(-1000000)", "First", show=False),
        Binding("end", "move(1000000)", "Last", show=False),
        Binding("enter", "choose", "Choose", show=False),
    ]
    heading = ""
    selectable = False
    stick_to_end = False
    fits = False
    """Whether it is as high as its text."""

    class Moved(Message):
        """The cursor is on another item."""

        def __init__(self, panel: LinesPanel, item: int) -> None:
            super().__init__()
            self.panel = panel
            self.item = item

    class Chosen(Moved):
        """An item was chosen with Enter or a click on it."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.lines: list[Line] = []
        self.items: list[int | None] = []
        self.cursor = 0
        self.top = 0
        self._at_end = True
        self._built_for = (-1, -1)

    def build(self, context: PanelContext, width: int) -> list[Line]:
        """The lines for a width. A selectable panel also sets ``self.items``: for each line its item or None."""
        raise NotImplementedError

    def title_line(self) -> Line:
        """The title."""
        return [(self.heading, "bold text")]

    def note_line(self) -> Line:
        """Range of the visible lines, where not all are."""
        height = self.inner[1]
        if height <= 0 or len(self.lines) <= height:
            return []
        return [(f"{self.top + 1}–{min(len(self.lines), self.top + height)} of {len(self.lines)}", "dim")]

    def rebuild(self, context: PanelContext) -> None:
        """Build the lines anew."""
        before = len(self.lines)
        self._build(context)
        if self.fits and before != len(self.lines):
            self.refresh(layout=True)
        self.repaint()

    def _build(self, context: PanelContext) -> None:
        width, height = max(1, self.inner[0]), self.inner[1]
        self._built_for = (width, height)
        self.items = []
        self.lines = self.build(context, width)
        self.cursor = min(self.cursor, max(0, self.item_count - 1))

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As high as its text."""
        return len(self.lines) + self.frame_height

    @property
    def item_count(self) -> int:
        """Number of items that the cursor can be on."""
        return len({item for item in self.items if item is not None})

    @property
    def lowest_top(self) -> int:
        """The largest ``top``."""
        return max(0, len(self.lines) - self.inner[1])

    def body(self, width: int, height: int) -> list[list[Segment]]:
        """The lines that are seen."""
        context = self.context
        if context is None:
            return []
        if (width, height) != self._built_for:
            before = len(self.lines)
            with context.model.lock:
                self._build(context)
            if self.fits and before != len(self.lines):
                self.call_after_refresh(self.refresh, layout=True)
        self.top = self.lowest_top if self.stick_to_end and self._at_end else min(self.top, self.lowest_top)
        out = []
        for place in range(self.top, min(len(self.lines), self.top + height)):
            item = self.items[place] if place < len(self.items) else None
            selected = self.selectable and item is not None and item == self.cursor
            out.append(segments(self.lines[place], width, context.dark, " selected" if selected else ""))
        return out

    def thumb(self, height: int) -> tuple[int, int] | None:
        """Position of the visible lines among all."""
        return thumb_of(self.top, height, len(self.lines), height)

    def scroll_lines(self, to: int) -> None:
        """Show the lines from ``to`` on."""
        top = min(max(0, to), self.lowest_top)
        self._at_end = top >= self.lowest_top
        if top != self.top:
            self.top = top
            self.repaint()

    def move_to(self, item: int) -> None:
        """Put the cursor on an item, and bring it into view."""
        count = self.item_count
        if count == 0:
            return
        self.cursor = min(max(0, item), count - 1)
        places = [place for place, found in enumerate(self.items) if found == self.cursor]
        height = max(1, self.inner[1])
        first = places[0]
        while first > 0 and self.items[first - 1] is None:  # headings above an item come with it
            first -= 1
        if first < self.top:
            self.top = first
        elif places[-1] >= self.top + height:
            self.top = places[-1] - height + 1
        self.repaint()
        self.post_message(self.Moved(self, self.cursor))

    def action_move(self, by: int) -> None:
        """Move the cursor, or scroll where there is none."""
        if self.selectable:
            self.move_to(self.cursor + by)
        else:
            self.scroll_lines(self.top + by)

    def action_page(self, by: int) -> None:
        """Move by a screenful."""
        height = max(1, self.inner[1] - 1)
        each = max(1, len(self.items) // max(1, self.item_count)) if self.selectable else 1
        self.action_move(by * max(1, height // each))

    def action_choose(self) -> None:
        """Choose the item under the cursor."""
        if self.selectable and self.item_count:
            self.post_message(self.Chosen(self, self.cursor))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Scroll up."""
        event.stop()
        self.scroll_lines(self.top - WHEEL)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Scroll down."""
        event.stop()
        self.scroll_lines(self.top + WHEEL)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the line; a click on the item that has it chooses it. In the scroll bar: go there."""
        row = self.place_of(event)[1]
        height = self.inner[1]
        if event.x >= self.size.width - 1 and self.thumb(height) is not None:
            self.scroll_lines(round(row / max(1, height - 1) * self.lowest_top))
            return
        place = self.top + row
        if not self.selectable or not 0 <= row < height:
            return
        item = self.items[place] if place < len(self.items) else None
        if item is None:
            return
        again = item == self.cursor
        self.move_to(item)
        if again:
            self.action_choose()


class TextPanel(LinesPanel):
    """A panel whose lines come from a function.

    Args:
        heading: its title.
        builder: context and width → lines.
        parts: what it shows.
        rows: context → rows for a CSV file.
    """

    def __init__(
        self,
        heading: str,
        builder: Callable[..., list[Line]],
        parts: tuple[Shown, ...],
        *,
        id: str,
        rows: Callable[[PanelContext], Rows] | None = None,
        ticking: bool = False,
        stick_to_end: bool = False,
        fits: bool = False,
    ) -> None:
        super().__init__(id=id)
        self.heading, self.parts, self.ticking = heading, parts, ticking
        self.stick_to_end, self.fits = stick_to_end, fits
        self._builder, self._rows = builder, rows

    def build(self, context: PanelContext, width: int) -> list[Line]:
        """The lines for a width."""
        return self._builder(context, width)

    def rows(self, context: PanelContext) -> Rows:
        """The content as rows of a CSV file."""
        return [] if self._rows is None else self._rows(context)


class HighPanel(TextPanel):
    """A panel of text whose builder takes the height, too."""

    _whole = 0

    def build(self, context: PanelContext, width: int) -> list[Line]:
        """The lines for a width and the present height."""
        return self._builder(context, width, self.inner[1] or NO_LIMIT)

    def rebuild(self, context: PanelContext) -> None:
        """Build the lines anew, and ask for another height where all of them have one."""
        whole = len(self._builder(context, max(1, self.inner[0]), NO_LIMIT))
        if whole != self._whole:
            self._whole = whole
            self.refresh(layout=True)
        super().rebuild(context)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As high as all of it."""
        return self._whole + self.frame_height
