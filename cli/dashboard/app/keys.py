"""The keys of the application, which of them count in a view, and the last line that names them."""

from __future__ import annotations

from textual.binding import Binding, BindingType

#: The last line: key, what it does, action.
LINE = (
    ("?", "Help", "help"),
    ("f", "Full", "full"),
    ("/", "Search", "search"),
    ("o", "Sort", "sort"),
    ("[ ]", "Before, after", "step(1)"),
    ("m", "Smooth", "smooth"),
    ("y", "Log", "log"),
    ("+ −", "Zoom", "zoom(0.5)"),
    ("p", "Pause", "pause"),
    ("< >", "Speed", "speed(2.0)"),
    ("s", "SVG", "picture"),
    ("e", "CSV", "csv"),
    ("d", "Theme", "dark"),
    ("^p", "Commands", "command_palette"),
    ("q", "Quit", "leave"),
)

#: What the command palette offers besides the views: name, what it does, action.
COMMANDS = (
    ("Help", "All keys", "help"),
    ("Full screen", "The panel with the focus alone, and back", "full"),
    ("Dark or light", "The other theme", "dark"),
    ("Save picture", "The screen as SVG", "picture"),
    ("Export CSV", "The data shown", "csv"),
    ("Latest run", "And newer ones as they begin", "latest"),
    ("Quit", "Leave; the run goes on", "leave"),
)

#: Actions that count only in some views.
_ONLY_IN = {
    "step": ("Tokens", "Labelling"),
    "search": ("Tokens", "Labelling", "Runs"),
    "sort": ("Tokens",),
}
CHART_ACTIONS = ("smooth", "log", "zoom", "reset")
REPLAY_ACTIONS = ("pause", "speed")
#: Actions that write files.
SAVING_ACTIONS = ("picture", "csv")


def counts(action: str, view: str, *, charts: bool, replay: bool) -> bool:
    """Whether an action does something in a view.

    Args:
        action: its name.
        view: the view's name.
        charts: whether the view shows charts at its present size.
        replay: whether a replay is playing.
    """
    if action in CHART_ACTIONS:
        return charts
    if action in REPLAY_ACTIONS:
        return replay
    return view in _ONLY_IN.get(action, (view,))


def bindings(views: list[str]) -> list[BindingType]:
    """The keys of the application; 1, 2, … show the views."""
    return [
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("f", "full", "Full"),
        Binding("m", "smooth", "Smooth"),
        Binding("y", "log", "Log"),
        Binding("plus,equals_sign", "zoom(0.5)", "Zoom", key_display="+/−"),
        Binding("minus", "zoom(2.0)", "Zoom out", show=False),
        Binding("0", "reset", "All", show=False),
        Binding("left_square_bracket", "step(-1)", "Before", key_display="[ ]"),
        Binding("right_square_bracket", "step(1)", "After", show=False),
        Binding("slash", "search", "Search", key_display="/"),
        Binding("o", "sort", "Sort"),
        Binding("p", "pause", "Pause"),
        Binding("less_than_sign", "speed(0.5)", "Slower", show=False),
        Binding("greater_than_sign", "speed(2.0)", "Faster", show=False),
        Binding("s", "picture", "SVG"),
        Binding("e", "csv", "CSV"),
        Binding("d", "dark", "Theme", show=False),
        Binding("l", "latest", "Latest", show=False),
        Binding("escape", "back", "Back", show=False),
        Binding("q", "leave", "Quit"),
        *(Binding(str(place + 1), f"view({place})", name, show=False) for place, name in enumerate(views)),
    ]
