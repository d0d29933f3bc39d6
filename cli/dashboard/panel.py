"""Panels: boxes with a title that show a part of the model and redraw only when that part changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from rich.segment import Segment
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from ensemw2s.cli.dashboard.context import Context
from ensemw2s.cli.dashboard.model import Part
from ensemw2s.cli.dashboard.palette import style
from ensemw2s.cli.dashboard.text import Line, plain

Rows = list[dict[str, Any]]
BAD_STAMP: tuple[object, ...] = ()


def to_strip(line: Line, width: int, dark: bool, selected: bool = False, ground: str = "ground") -> Strip:
    """A line as a strip of exactly ``width`` columns."""
    more = " selected" if selected else ""
    segments = [Segment(text, style(key + more, dark, ground)) for text, key in line if text]
    return Strip(segments).adjust_cell_length(width, style("text" + more, dark, ground))


def to_content(line: Line, dark: bool) -> Text:
    """A line as the title of a border."""
    return Text.assemble(*((text, style(key, dark)) for text, key in line))


class Panel:
    """Mixed into widgets that show a part of the model.

    ``parts`` are the parts that are shown; ``machine`` and ``runs`` add this machine's load and the list of runs;
    ``ticking`` panels are also redrawn every second while a run goes on.
    """

    parts: tuple[Part, ...] = ()
    machine = False
    runs = False
    ticking = False
    context: Context | None = None
    _stamp: tuple[object, ...] = BAD_STAMP

    def show(self, context: Context, tick: bool = False) -> None:
        """Redraw if something changed."""
        self.context = context
        stamp = context.stamp(self.parts, machine=self.machine, runs=self.runs)
        if stamp != self._stamp or (tick and self.ticking):
            self._stamp = stamp
            with context.model.lock:
                self.rebuild(context)

    def rebuild(self, context: Context) -> None:
        """Take what is needed from the model, and refresh."""

    def rows(self) -> Rows:
        """What is shown as rows for a CSV file."""
        return []


class LinesPanel(Panel, ScrollView, can_focus=True):
    """A scrollable panel of styled lines.

    Subclasses give ``build``; a line may belong to an item, and then a cursor moves over the items.
    """

    DEFAULT_CSS = """
    LinesPanel { scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; overflow-x: hidden; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "move(-10)", "Page up", show=False),
        Binding("pagedown", "move(10)", "Page down", show=False),
        Binding("home", "move(-1000000)", "First", show=False),
        Binding("end", "move(1000000)", "Last", show=False),
        Binding("enter", "choose", "Choose", show=False),
    ]
    heading = ""
    selectable = False
    stick_to_end = False

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
        self._built_width = -1

    def build(self, context: Context, width: int) -> list[Line]:
        """The lines for a width. A selectable panel also sets ``self.items``: for each line its item or None."""
        raise NotImplementedError

    def title_line(self, context: Context) -> Line:
        """The title in the border."""
        return [(self.heading, "bold")]

    @property
    def inner_width(self) -> int:
        """Columns for text; one is left for the scroll bar."""
        return max(1, self.scrollable_content_region.width or self.size.width - 1)

    def rebuild(self, context: Context) -> None:
        """Build the lines anew."""
        at_end = self.scroll_offset.y >= self.max_scroll_y
        width = max(1, self.content_size.width - 1)
        self._built_width = width
        self.items = []
        self.lines = self.build(context, width)
        self.border_title = to_content(self.title_line(context), context.dark)
        self.virtual_size = Size(width, len(self.lines))
        self.cursor = min(self.cursor, max(0, self.item_count - 1))
        if self.stick_to_end and at_end:
            self.scroll_end(animate=False, immediate=True)
        self.refresh()

    @property
    def item_count(self) -> int:
        """Number of items that the cursor can be on."""
        return len({item for item in self.items if item is not None})

    def plain_lines(self) -> list[str]:
        """The lines as plain text."""
        return [plain(line) for line in self.lines]

    def on_resize(self, event: events.Resize) -> None:
        """Build for the new width."""
        if self.context is not None and max(1, self.content_size.width - 1) != self._built_width:
            with self.context.model.lock:
                self.rebuild(self.context)

    def render_line(self, y: int) -> Strip:
        """One line of what is seen."""
        dark = self.context.dark if self.context is not None else True
        place = self.scroll_offset.y + y
        width = self.size.width
        if place >= len(self.lines):
            return Strip.blank(width, style("text", dark))
        item = self.items[place] if place < len(self.items) else None
        selected = self.selectable and item is not None and item == self.cursor
        return to_strip(self.lines[place], width, dark, selected)

    def move_to(self, item: int) -> None:
        """Put the cursor on an item, and bring it into view."""
        count = self.item_count
        if count == 0:
            return
        self.cursor = min(max(0, item), count - 1)
        places = [place for place, found in enumerate(self.items) if found == self.cursor]
        self.scroll_to_region(Region(0, places[0], 1, len(places)), animate=False, immediate=True, force=True)
        self.refresh()
        self.post_message(self.Moved(self, self.cursor))

    def action_move(self, by: int) -> None:
        """Move the cursor, or scroll where there is none."""
        if self.selectable:
            self.move_to(self.cursor + by)
        else:
            self.scroll_to(y=self.scroll_offset.y + by, animate=False, immediate=True)

    def action_choose(self) -> None:
        """Choose the item under the cursor."""
        if self.selectable and self.item_count:
            self.post_message(self.Chosen(self, self.cursor))

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the line; a click on the item that has it chooses it."""
        offset = event.get_content_offset(self)
        if not self.selectable or offset is None:
            return
        place = self.scroll_offset.y + offset.y
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
        builder: Callable[[Context, int], list[Line]],
        parts: tuple[Part, ...],
        *,
        rows: Callable[[Context], Rows] | None = None,
        id: str | None = None,
        ticking: bool = False,
        machine: bool = False,
        runs: bool = False,
        stick_to_end: bool = False,
    ) -> None:
        super().__init__(id=id)
        self.heading = heading
        self.parts = parts
        self.ticking = ticking
        self.machine = machine
        self.runs = runs
        self.stick_to_end = stick_to_end
        self._builder = builder
        self._rows = rows

    def build(self, context: Context, width: int) -> list[Line]:
        """See :class:`LinesPanel`."""
        return self._builder(context, width)

    def rows(self) -> Rows:
        """See :class:`Panel`."""
        if self._rows is None or self.context is None:
            return []
        with self.context.model.lock:
            return self._rows(self.context)


def panels_in(widget: Widget) -> list[Panel]:
    """All panels below a widget, in order."""
    return [child for child in widget.query("*") if isinstance(child, Panel)]
