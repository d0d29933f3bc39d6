"""Dialogs: help, and confirmation before leaving a run that the dashboard started.

They lie over the views on the same screen: Textual's modal screens blend every character of what is below, and opening
one takes several times as long.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget

from ensemw2s.cli.dashboard.drawing.text import Line, fit, wrap
from ensemw2s.cli.dashboard.panels.context import PanelContext
from ensemw2s.cli.dashboard.panels.keys import KEYS, available
from ensemw2s.cli.dashboard.panels.text_panel import LinesPanel

_KEY_COLUMNS = 10


class Dialog(LinesPanel):
    """A box over the views; it goes when another panel gets the focus.

    Attributes:
        columns: how wide it is where there is room.
    """

    columns = 76

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._before: Widget | None = None

    @property
    def boxed(self) -> bool:
        """In every size of the terminal."""
        return True

    @property
    def is_open(self) -> bool:
        """Whether it is seen."""
        return self.has_class("-open")

    def open(self, context: PanelContext) -> None:
        """Show it, with the focus."""
        self.context = context
        self._before = self.screen.focused
        self.top = 0
        self.fit_in()
        self.add_class("-open")
        self.rebuild(context)
        self.screen.set_focus(self, scroll_visible=False)

    def close(self) -> None:
        """Hide it; the focus goes back."""
        if self.is_open:
            self.remove_class("-open")
            if self.has_focus:
                self.screen.set_focus(self._before, scroll_visible=False)

    def fit_in(self) -> None:
        """Find its place in the middle of the screen."""
        if self.context is None:
            return
        across, down = self.app.size
        width = max(12, min(self.columns, across - 2))
        height = min(len(self.build(self.context, width - 4)) + self.frame_height, max(3, down - 2))
        self.styles.width, self.styles.height = width, height
        self.styles.offset = ((across - width) // 2, (down - height) // 2)

    def on_blur(self, event: events.Blur) -> None:
        """Something else was chosen."""
        self.close()

    def action_close(self) -> None:
        """Hide it."""
        self.close()


def _entry(key: str, what: str, colour: str, width: int) -> list[Line]:
    """A key and what it does, in as many lines as needed."""
    parts = wrap(what, max(8, width - _KEY_COLUMNS))
    return [
        [(fit(key if place == 0 else "", _KEY_COLUMNS), f"bold {colour}"), (text, "text")]
        for place, text in enumerate(parts)
    ]


class Help(Dialog):
    """All keys, and those of the view that is shown."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter,space", "close", "Close", show=False)
    ]

    def __init__(self) -> None:
        super().__init__(id="help")
        self.view = ""
        self.of_view: tuple[tuple[str, str], ...] = ()
        self.replay = False
        self.saves = True

    def title_line(self) -> Line:
        """The title."""
        return [("Keys", "bold text")]

    def note_line(self) -> Line:
        """The key that closes it."""
        return [*super().note_line(), ("  Esc closes" if super().note_line() else "Esc closes", "dim")]

    def build(self, context: PanelContext, width: int) -> list[Line]:
        """Keys that count everywhere, then those of the view."""
        lines: list[Line] = []
        lines += _entry("1 – 7", "the views; Tab goes from panel to panel", "blue", width)
        for key in KEYS:
            if key.help is not None and available(key.action, replay=self.replay, saves=self.saves):
                lines += _entry(*key.help, "blue", width)
        if self.of_view:
            lines += [[], [(self.view, "bold text")]]
        for entry in self.of_view:
            lines += _entry(*entry, "orange", width)
        return lines


Answer = Literal["stop", "leave", "stay"]


class Leaving(Dialog):
    """Stop the run, let it go on in the background, or stay."""

    columns = 64
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "answer('stop')", "Stop the run", show=False),
        Binding("b", "answer('leave')", "Go on in the background", show=False),
        Binding("escape,c,q", "answer('stay')", "Stay", show=False),
    ]

    class Answered(Message):
        """The user's answer."""

        def __init__(self, answer: Answer) -> None:
            super().__init__()
            self.answer = answer

    def __init__(self) -> None:
        super().__init__(id="leaving")

    def title_line(self) -> Line:
        """The title."""
        return [("Leave", "bold text")]

    def build(self, context: PanelContext, width: int) -> list[Line]:
        """The question and its answers."""
        lines: list[Line] = [[]]
        lines += [[(text, "text")] for text in wrap("The run that was started here is still going on.", width)]
        lines.append([])
        for key, what in (
            ("s", "stop it; the same command continues it later"),
            ("b", "let it go on in the background"),
            ("Esc", "stay here"),
        ):
            lines += _entry(key, what, "blue", width)
        return [*lines, []]

    def action_answer(self, answer: Answer) -> None:
        """Close with an answer."""
        self.close()
        self.post_message(self.Answered(answer))
