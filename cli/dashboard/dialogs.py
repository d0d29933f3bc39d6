"""Help, and the question what becomes of a run when the dashboard that started it is left."""

from __future__ import annotations

from typing import ClassVar, Literal

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from ensemw2s.cli.dashboard.palette import style

_KEYS = (
    ("1 – 7", "the views; Tab goes from panel to panel"),
    ("f  Enter", "full screen for the panel with the focus, and back (Esc)"),
    ("m", "smoothing: off, 0.6, 0.85, 0.95, 0.99"),
    ("y", "log axis"),
    ("+ − 0", "zoom in, zoom out, all; ← → move along x"),
    ("[ ]", "round, teacher … before and after"),
    ("/  o", "search; sort"),
    ("s  e", "save the screen as SVG; the data shown as CSV"),
    ("d", "dark or light"),
    ("l", "the latest run, and newer ones as they begin"),
    ("Ctrl-P", "all commands"),
    ("q", "leave; the run goes on"),
)
_REPLAY_KEYS = (("p", "pause or go on"), ("< >", "slower, faster"))


class HelpScreen(ModalScreen[None]):
    """All keys, and those of the view that is shown."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter,space", "dismiss", "Close")]

    def __init__(self, view: str, lines: tuple[tuple[str, str], ...], replay: bool, dark: bool) -> None:
        super().__init__()
        self._view, self._lines, self._replay, self._dark = view, lines, replay, dark

    def compose(self) -> ComposeResult:
        """The keys as a table."""
        with VerticalScroll(id="help") as box:
            box.border_title = "Keys"
            box.border_subtitle = "Esc closes"
            yield Static(self.text())

    def text(self) -> Text:
        """What the help says."""
        out = Text()
        entries = [*_KEYS, *(_REPLAY_KEYS if self._replay else ())]
        for key, what in entries:
            out.append(f"{key:<10}", style("bold blue", self._dark))
            out.append(what + "\n", style("text", self._dark))
        if self._lines:
            out.append(f"\n{self._view}\n", style("bold text", self._dark))
        for key, what in self._lines:
            out.append(f"{key:<10}", style("bold orange", self._dark))
            out.append(what + "\n", style("text", self._dark))
        out.rstrip()
        return out

    async def action_dismiss(self, result: None = None) -> None:
        """Close."""
        self.dismiss(None)


Answer = Literal["stop", "leave", "stay"]


class QuitScreen(ModalScreen[Answer]):
    """Stop the run, let it go on in the background, or stay."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "answer('stop')", "Stop the run"),
        Binding("b", "answer('leave')", "Go on in the background"),
        Binding("escape,c,q", "answer('stay')", "Stay"),
    ]

    def __init__(self, dark: bool) -> None:
        super().__init__()
        self._dark = dark

    def compose(self) -> ComposeResult:
        """The question."""
        text = Text("The run that was started here is still going on.\n\n", style("text", self._dark))
        for key, what in (
            ("s", "stop it; the same command continues it later"),
            ("b", "let it go on in the background"),
            ("Esc", "stay here"),
        ):
            text.append(f"{key:<5}", style("bold blue", self._dark))
            text.append(what + "\n", style("text", self._dark))
        yield Static(text, id="quit")

    def action_answer(self, answer: Answer) -> None:
        """Close with an answer."""
        self.dismiss(answer)
