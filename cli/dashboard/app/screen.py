"""Textual screen below the application: merges notices of changes and limits repaints."""

from __future__ import annotations

from textual.geometry import Region
from textual.message import Message
from textual.reactive import Reactive
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget

from ensemw2s.cli.dashboard.drawing.palette import style

#: Columns and lines: below the first the views are not shown, below the second panels have no boxes; below the third
#: columns panels are stacked.
SMALLEST = (60, 15)
BOXED = (100, 30)
WIDE = 110


class Changed(Message):
    """Something in the model changed. Only the newest of several is handled."""

    def can_replace(self, message: Message) -> bool:
        """A newer notice makes an older one needless."""
        return isinstance(message, Changed)


class Main(Screen[None]):
    """The screen with the views. Another focus repaints two panels here, not everything."""

    focused: Reactive[Widget | None] = Reactive(None, repaint=False)
    dark = True
    small = False
    """Whether the terminal is too small for the views."""

    def fit(self, width: int, height: int) -> bool:
        """Choose the layout for a size; whether panels have boxes."""
        boxed = width >= BOXED[0] and height >= BOXED[1]
        self.small = width < SMALLEST[0] or height < SMALLEST[1]
        for name, chosen in (("-small", self.small), ("-compact", not boxed), ("-narrow", width < WIDE)):
            self.set_class(chosen, name)
        return boxed

    def render_lines(self, crop: Region) -> list[Strip]:
        """Blank lines, for where nothing else is."""
        return [Strip.blank(crop.width, style("text", self.dark))] * crop.height
