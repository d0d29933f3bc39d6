"""Colours (Okabe and Ito's, safe for the colour-blind) and the look of each series: colour and marker go together."""

from __future__ import annotations

import functools
import itertools

from rich.style import Style

from ensemw2s.arms import arm_spec

_DARK = {
    "text": "#e4e7eb", "dim": "#9aa4af", "faint": "#66707b", "grid": "#3a424b", "axis": "#59636e", "ground": "#12161b",
    "blue": "#56B4E9", "vermillion": "#F0732E", "orange": "#E69F00", "green": "#2BBF95", "purple": "#DB93BB",
    "yellow": "#F0E442", "good": "#2BBF95", "bad": "#F0732E", "warn": "#E69F00", "select": "#26415a", "edge": "#2a3139",
}  # fmt: skip
_LIGHT = {
    "text": "#1c1e21", "dim": "#5a636c", "faint": "#9aa1a9", "grid": "#c9ced4", "axis": "#8b939b", "ground": "#fbfbfa",
    "blue": "#0072B2", "vermillion": "#C24F00", "orange": "#A66F00", "green": "#00805C", "purple": "#A9527F",
    "yellow": "#857A00", "good": "#00805C", "bad": "#C24F00", "warn": "#A66F00", "select": "#cfe3f2", "edge": "#d5dade",
}  # fmt: skip
_HEAT_DARK = (
    (0.0, (18, 22, 27)),
    (0.25, (38, 58, 82)),
    (0.5, (110, 76, 96)),
    (0.75, (214, 118, 38)),
    (1.0, (240, 228, 66)),
)
_HEAT_LIGHT = (
    (0.0, (251, 251, 250)), (0.25, (214, 230, 240)), (0.5, (250, 214, 150)), (0.75, (236, 146, 62)),
    (1.0, (160, 44, 10)),
)  # fmt: skip

#: For series without a name of their own, in order.
CYCLE = (
    ("blue", "●"), ("vermillion", "✕"), ("orange", "■"), ("green", "▲"), ("purple", "★"),
    ("yellow", "◆"), ("text", "○"), ("dim", "□"),
)  # fmt: skip


def look_of(name: str) -> tuple[str, str]:
    """Colour and marker of an arm or series; the same arm looks the same in every chart and table."""
    return arm_spec(name).screen


def colours(dark: bool) -> dict[str, str]:
    """Colour names to hex values."""
    return _DARK if dark else _LIGHT


def _mix(share: float, dark: bool) -> tuple[int, int, int]:
    stops = _HEAT_DARK if dark else _HEAT_LIGHT
    share = min(1.0, max(0.0, share))
    for (a, low), (b, high) in itertools.pairwise(stops):
        if share <= b:
            part = (share - a) / (b - a)
            red, green, blue = (round(x + part * (y - x)) for x, y in zip(low, high, strict=True))
            return red, green, blue
    return stops[-1][1]


@functools.lru_cache(maxsize=4096)
def style(key: str, dark: bool, ground: str = "ground") -> Style:
    """The style of a key: colour names and ``bold``, ``underline``, ``reverse``, ``heat:0.42``, ``ink:0.42``.

    ``heat`` is a background whose lightness grows with the value, and a text colour that can be read on it; ``ink`` is
    the same as a text colour. ``selected`` gives way to ``heat``. ``ground`` is the colour behind the text.
    """
    names = colours(dark)
    out = Style(color=names["text"], bgcolor=names[ground])
    for word in key.split():
        if word in names:
            out += Style(color=names[word])
        elif word.startswith("heat:"):
            red, green, blue = _mix(float(word[5:]), dark)
            bright = 0.299 * red + 0.587 * green + 0.114 * blue > 120
            out += Style(bgcolor=f"rgb({red},{green},{blue})", color="#101010" if bright else "#f4f4f4")
        elif word.startswith("ink:"):
            out += Style(color="rgb({},{},{})".format(*_mix(0.3 + 0.7 * float(word[4:]), dark)))
        elif word == "selected":
            if "heat:" not in key:
                out += Style(bgcolor=names["select"])
        else:
            out += Style.parse(word)
    return out
