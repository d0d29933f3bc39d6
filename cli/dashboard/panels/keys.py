"""The keys of the application in one table, and which of them count in a view."""

from __future__ import annotations

from dataclasses import dataclass

from textual.binding import Binding, BindingType


@dataclass(frozen=True)
class Key:
    """A key, or several that belong together.

    Attributes:
        bindings: Textual's names of keys → action; the first action is that of a click.
        shown: how the key is written in the last line.
        label: what it does, in the last line; empty: it is not there.
        help: keys and what they do, in the help.
        command: name and explanation in the command palette.
    """

    bindings: dict[str, str]
    shown: str = ""
    label: str = ""
    help: tuple[str, str] | None = None
    command: tuple[str, str] | None = None

    @property
    def action(self) -> str:
        """The action of a click."""
        return next(iter(self.bindings.values()))


#: In the order of the last line.
KEYS = (
    Key({"question_mark": "help"}, "?", "Help", command=("Help", "All keys")),
    Key(
        {"f": "full"}, "f", "Full", ("f", "full screen for the panel with the focus, and back (Esc)"),
        ("Full screen", "The panel with the focus alone, and back"),
    ),
    Key({"slash": "search"}, "/", "Search", ("/  o", "search; sort")),
    Key({"o": "sort"}, "o", "Sort"),
    Key(
        {"right_square_bracket": "step(1)", "left_square_bracket": "step(-1)"}, "[ ]", "Before, after",
        ("[ ]", "round, teacher … before and after"),
    ),
    Key({"m": "chart('cycle_smoothing')"}, "m", "Smooth", ("m", "smoothing: off, 0.6, 0.85, 0.95, 0.99")),
    Key({"y": "chart('toggle_log')"}, "y", "Log", ("y", "log axis")),
    Key(
        {"plus,equals_sign": "chart('zoom', 0.5)", "minus": "chart('zoom', 2.0)", "0": "chart('reset')"}, "+ −", "Zoom",
        ("+ − 0", "zoom in, zoom out, all; ← → move along x"),
    ),
    Key({"p": "pause"}, "p", "Pause", ("p", "pause or go on")),
    Key({"greater_than_sign": "speed(2.0)", "less_than_sign": "speed(0.5)"}, "< >", "Speed", ("< >", "slower, faster")),
    Key(
        {"s": "picture"}, "s", "SVG", ("s  e", "save the screen as SVG; the data shown as CSV"),
        ("Save picture", "The screen as SVG"),
    ),
    Key({"e": "csv"}, "e", "CSV", command=("Export CSV", "The data shown")),
    Key({"d": "dark"}, "d", "Theme", ("d", "dark or light"), ("Dark or light", "The other theme")),
    Key(
        {"l": "latest"}, help=("l", "the latest run, and newer ones as they begin"),
        command=("Latest run", "And newer ones as they begin"),
    ),
    Key({"": "command_palette"}, "^p", "Commands", ("Ctrl-P", "all commands")),
    Key({"q": "leave"}, "q", "Quit", ("q", "leave; the run goes on"), ("Quit", "Leave; the run goes on")),
    Key({"escape": "back"}),
)  # fmt: skip

#: Actions that count only in some views.
_ONLY_IN = {"step": ("Tokens", "Labelling"), "search": ("Tokens", "Labelling", "Runs"), "sort": ("Tokens",)}


def available(action: str, *, replay: bool, saves: bool) -> bool:
    """Whether an action does something at all: while a replay is playing, and where files may be written."""
    name = action.partition("(")[0]
    return replay if name in ("pause", "speed") else saves if name in ("picture", "csv") else True


def counts(action: str, view: str, *, charts: bool, replay: bool, saves: bool) -> bool:
    """Whether an action does something in a view; ``charts``: the view shows charts at its present size."""
    name = action.partition("(")[0]
    fits = charts if name == "chart" else view in _ONLY_IN.get(name, (view,))
    return fits and available(action, replay=replay, saves=saves)


def bindings(views: list[str]) -> list[BindingType]:
    """The keys of the application; 1, 2, … show the views."""
    pairs = [(key, action) for entry in KEYS for key, action in entry.bindings.items() if key]
    pairs += [(str(place + 1), f"view({place})") for place in range(len(views))]
    return [Binding(key, action, show=False) for key, action in pairs]
