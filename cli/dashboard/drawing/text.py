"""Lines of styled text: a line is a list of (text, style key). Widths are in terminal columns."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size

from ensemw2s.text import printable

Line = list[tuple[str, str]]

_SHOWN = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍", "": "∅"}
BARS = "▁▂▃▄▅▆▇█"


def width_of(text: str) -> int:
    """Columns that a text takes."""
    return cell_len(text)


def visible(token: str) -> str:
    """A token with its white space made visible."""
    if token in _SHOWN:
        return _SHOWN[token]
    shown = "".join(_SHOWN.get(char, char) if char.isspace() else char for char in token)
    return printable(shown)


def cut(text: str, width: int) -> str:
    """The text, ending in ``…`` where it is too wide."""
    if width <= 0:
        return ""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…"


def fit(text: str, width: int, align: str = "<") -> str:
    """The text in exactly ``width`` columns: cut or padded; ``align`` is ``<`` or ``>``."""
    text = cut(text, width)
    pad = " " * max(0, width - cell_len(text))
    return pad + text if align == ">" else text + pad


def line_width(line: Line) -> int:
    """Columns that a line takes."""
    return sum(cell_len(text) for text, _ in line)


def plain(line: Line) -> str:
    """The text alone."""
    return "".join(text for text, _ in line)


def wrap(text: str, width: int, most: int = 1000) -> list[str]:
    """The text broken at spaces, long words inside; at most ``most`` lines, the last one cut."""
    width = max(1, width)
    lines: list[str] = []
    current = ""
    for word in text.split():
        while cell_len(word) > width:
            if current:
                lines.append(current)
                current = ""
            head = set_cell_size(word, width).rstrip() or word[:1]
            lines.append(head)
            word = word[len(head) :]
        if not current:
            current = word
        elif cell_len(current) + 1 + cell_len(word) <= width:
            current += " " + word
        else:
            lines.append(current)
            current = word
    if current or not lines:
        lines.append(current)
    if len(lines) > most:
        lines = lines[:most]
        lines[-1] = cut(lines[-1] + " …", width)
    return lines


def bar(share: float, width: int) -> str:
    """A horizontal bar in eighths of a column; empty where the share is unknown."""
    if share != share or width <= 0:
        return " " * max(0, width)
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    text = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
    return text + " " * (width - len(text))


def level(share: float) -> str:
    """One of eight heights for a share of 0 to 1; a space where it is unknown."""
    if share != share:
        return " "
    return BARS[min(7, max(0, int(share * 8)))]


def sparkline(values: list[float]) -> str:
    """Values as heights between their smallest and largest; ``·`` for unknown ones."""
    known = [value for value in values if value == value]
    if not known:
        return "·" * len(values)
    low, high = min(known), max(known)
    span = high - low or 1.0
    return "".join("·" if v != v else level((v - low) / span * 0.999) for v in values)
