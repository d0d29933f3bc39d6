"""The screen below the application, and how it keeps out of the way of keys."""

from __future__ import annotations

import gc

from textual.geometry import Region
from textual.message import Message
from textual.reactive import Reactive
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget

from ensemw2s.cli.dashboard.drawing.palette import style

#: Seconds after which everything that stays is there.
SETTLED = 2.0


class Changed(Message):
    """Something in the model changed. Only the newest of several is handled."""

    def can_replace(self, message: Message) -> bool:
        """A newer notice makes an older one needless."""
        return isinstance(message, Changed)


class Main(Screen[None]):
    """The screen with the views. Another focus repaints two panels here, not everything."""

    focused: Reactive[Widget | None] = Reactive(None, repaint=False)
    dark = True

    def render_lines(self, crop: Region) -> list[Strip]:
        """Blank lines, for where nothing else is."""
        return [Strip.blank(crop.width, style("text", self.dark))] * crop.height


def settle_memory() -> None:
    """Take what is there for good (modules, widgets) out of the garbage collector's sight.

    It goes through every object that it knows about now and then, and a key has to wait meanwhile: 80 ms before this,
    and far less after it.
    """
    gc.collect()
    gc.freeze()
