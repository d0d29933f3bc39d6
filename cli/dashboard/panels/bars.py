"""The lines at the edges: how the run stands, the bar of views, and the keys."""

from __future__ import annotations

from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from ensemw2s.cli.dashboard.drawing.text import Line, bar, cut, line_width, width_of
from ensemw2s.cli.dashboard.model.fields import known
from ensemw2s.cli.dashboard.model.names import ago, clean, clock
from ensemw2s.cli.dashboard.model.status_text import life_text
from ensemw2s.cli.dashboard.model.summary import forecast
from ensemw2s.cli.dashboard.panels.context import PanelContext
from ensemw2s.cli.dashboard.panels.panel import Panel, to_strip


class Head(Panel, Widget):
    """State, name, stage and times of the run; below a problem, what it is."""

    parts = ("run", "stages", "progress", "rounds")
    ticking = True

    def __init__(self) -> None:
        super().__init__(id="head")
        self.line: Line = []

    def rebuild(self, context: PanelContext) -> None:
        """Write the line anew."""
        line = head_line(context, self.size.width)
        if line != self.line:
            self.line = line
            self.refresh()

    def on_resize(self, event: events.Resize) -> None:
        """Fit the line."""
        if self.context is not None:
            self.rebuild(self.context)

    def render_line(self, y: int) -> Strip:
        """The line."""
        dark = self.context.dark if self.context is not None else True
        return to_strip(self.line, self.size.width, dark, ground="edge")


def head_line(context: PanelContext, width: int) -> Line:
    """The run in one line; what matters least is left out first."""
    model = context.model
    state, colour = life_text(model.life)
    left: Line = [(f" {state} ", f"bold reverse {colour}")]
    if context.watcher.failure:
        return [*left, (" " + cut(clean(context.watcher.failure), width - 14), "bad")]
    name = clean(model.name or model.path or "no run yet")
    left.append((f" {cut(name, max(8, width // 4))}", "bold text"))
    details: list[tuple[str, str]] = []
    if model.seed is not None:
        details.append((f"  seed {model.seed}", "dim"))
    if model.life == "running":
        details += _work(context)
    elif model.life_note and model.life != "finished":
        details.append((f"  {clean(model.life_note)}", "dim"))
    if model.life_note.startswith(("replay", "end of the replay")):
        details.append((f"  {model.life_note}", "orange"))
    right = _times(context)
    for detail in details:
        rest = width - line_width(left) - line_width(right) - 1
        text, key = detail
        if key == "blue" and width_of(text) > rest:  # half a bar says nothing: the count alone
            text = "  " + text.split()[-1]
            if width_of(text) > rest:
                continue
        if rest >= 6:
            left.append((cut(text, rest), key))
    gap = width - line_width(left) - line_width(right)
    return left if gap < 1 else [*left, (" " * gap, "dim"), *right]


def _work(context: PanelContext) -> list[tuple[str, str]]:
    model = context.model
    parts: list[tuple[str, str]] = []
    stage = model.running_stage
    if stage is not None:
        parts.append((f"  {stage.name}", "text"))
    if model.current_round and model.rounds_planned and not model.stop_reason:
        parts.append((f"  round {model.current_round}/{model.rounds_planned}", "dim"))
    over = sum(s.state in ("done", "kept") for s in model.stages.values())
    total = sum(s.state != "skipped" for s in model.stages.values())
    if total:
        parts.append((f"  {bar(over / total, 10)} {over}/{total}", "blue"))
    return parts


def _times(context: PanelContext) -> Line:
    model = context.model
    line: Line = []
    if model.history < 1.0:
        line.append((f"history {100 * model.history:.0f} %  ", "dim"))
    if known(model.elapsed) and model.starts:
        line.append((clock(model.elapsed), "bold text"))
    if model.life == "running":
        left = forecast(model).left
        if known(left) and left > 0:
            line.append((f"  ≈{clock(left)} left", "dim"))
    elif known(model.now) and known(model.updated) and model.now >= model.updated:
        line.append((f"  {ago(model.now - model.updated)} ago", "dim"))
    return [*line, (" ", "dim")] if line else []


class ClickLine(Widget):
    """Words in one line; a click on one asks for its action. Cheaper to change than Textual's footer and tabs."""

    ground = "ground"
    dark = True

    class Pressed(Message):
        """A word was clicked."""

        def __init__(self, action: str) -> None:
            super().__init__()
            self.action = action

    def words(self) -> list[tuple[Line, str]]:
        """The words, each with its action."""
        raise NotImplementedError

    def render_line(self, y: int) -> Strip:
        """The line."""
        line = [part for word, _ in self.words() for part in word]
        return to_strip(line, self.size.width, self.dark, ground=self.ground)

    def on_click(self, event: events.Click) -> None:
        """Ask for the action of the word under the mouse."""
        at = 0
        for word, action in self.words():
            width = line_width(word)
            if at <= event.x < at + width:
                self.post_message(self.Pressed(action))
            at += width


class KeyBar(ClickLine):
    """The keys that count at present: (key, what it does, action)."""

    ground = "edge"

    def __init__(self) -> None:
        super().__init__(id="keys")
        self.entries: list[tuple[str, str, str]] = []

    def show_keys(self, entries: list[tuple[str, str, str]], dark: bool) -> None:
        """Show other keys."""
        if (entries, dark) != (self.entries, self.dark):
            self.entries, self.dark = entries, dark
            self.refresh()

    def words(self) -> list[tuple[Line, str]]:
        """Entries as far as there is room; the first and the last are kept longest."""
        entries = list(self.entries)
        while len(entries) > 2 and sum(len(key) + len(what) + 3 for key, what, _ in entries) > self.size.width:
            del entries[-2]
        return [([(f" {key}", "bold blue"), (f" {what} ", "text")], action) for key, what, action in entries]


class NavBar(ClickLine):
    """The names of the views with their keys."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(id="nav")
        self.names = names
        self.current = names[0]

    def select(self, name: str) -> None:
        """Mark a view as the one that is shown."""
        self.current = name
        self.refresh()

    def words(self) -> list[tuple[Line, str]]:
        """Whole names, or their beginnings where there is less room."""
        wide = self.size.width >= sum(len(name) + 4 for name in self.names)
        room = max(3, (self.size.width - 4 * len(self.names)) // len(self.names) + 1)
        words: list[tuple[Line, str]] = []
        for place, name in enumerate(self.names):
            key = "bold reverse text" if name == self.current else "dim"
            words.append(([(f" {place + 1} {name if wide else name[:room]} ", key)], f"view({place})"))
        return words
