"""Untrusted text made harmless for terminals, readers of JSON, and spreadsheets.

A terminal obeys control characters (ESC sequences reach the clipboard, move the cursor, and make it type answers);
bidirectional and invisible characters show another text than there is; a spreadsheet calculates cells that begin with
``=``. Whatever comes from a file goes through one of these functions before it gets there.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from typing import Any

# C0 and C1 controls; invisible format characters (Unicode's Cf without the visible Arabic and Kaithi signs, and what
# is ignorable by default: fillers, tags); line and paragraph separators; lone surrogates; noncharacters.
_HIDDEN = (
    "\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_HIDDEN_CHAR = re.compile(f"[{_HIDDEN}]")

# What the programs of this package and progress bars of libraries draw with: colours, the cursor within the lines that
# they drew, and hiding it. No other sequence passes (clipboard, title, questions that a terminal answers by typing).
_DRAWING = re.compile(rf"(\x1b\[[0-9;]*[mABCDGK]|\x1b\[\?25[lh]|[\n\r\t\b])|[{_HIDDEN}]")

_FORMULA = re.compile("\\s*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def _mark(char: str) -> str:
    """A visible character of one column in place of a hidden one."""
    code = ord(char)
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def printable(text: object, keep: str = "") -> str:
    """``text`` with a visible mark (``␛``, ``␍``, ``�``) for each control or invisible character not in ``keep``."""
    return _HIDDEN_CHAR.sub(lambda found: found[0] if found[0] in keep else _mark(found[0]), str(text))


def without_hidden(text: str) -> str:
    """``text`` without control and invisible characters, line breaks included.

    It is as wide as before, for text that is laid out already.
    """
    return _HIDDEN_CHAR.sub("", text)


def drawn(text: str) -> str:
    """Output of a whole program with only those control characters and sequences that draw lines and colours."""
    return _DRAWING.sub(lambda found: found[1] or _mark(found[0]), text)


def escaped_json(text: str) -> str:
    """JSON text of the same value whose control and invisible characters are written as numbers (``u001b``)."""
    return _HIDDEN_CHAR.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    if char == "\n":  # between the values: in a string it is escaped already
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def markdown(text: object) -> str:
    """One line of Markdown that shows ``text``: no HTML, no links and images of its own, no new lines."""
    line = printable(str(text).replace("\n", " ")).replace("<", "&lt;")
    return re.sub(r"\](?=[(\[:])", "&#93;", line)


def scalar(text: str) -> str:
    """Text as a scalar of YAML, and as a literal of Python: in quotes unless it is plain words."""
    return text if re.fullmatch(r"[A-Za-z][\w./ -]*", text) else quoted(text)


def quoted(text: str) -> str:
    """Text in double quotes, as YAML and Python read it; JSON has no escapes of one unit beyond the first plane."""
    return _HIDDEN_CHAR.sub(lambda found: f"\\U{ord(found[0]):08x}", json.dumps(text, ensure_ascii=False))


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet calculates: text that looks like a formula gets a ``'`` in front, numbers stay."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def csv_text(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table as CSV, None as an empty cell; see :func:`csv_cell`.

    A comma is no separator where numbers have a decimal comma, and some programs end rows at a carriage return: rows
    with another separator in a cell are quoted whole.
    """
    out = io.StringIO()
    plain = csv.writer(out, lineterminator="\n")
    quoted = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in (head, *rows):
        cells = [csv_cell(cell) for cell in row]
        split = any(isinstance(cell, str) and re.search(r"[;\t\r|]", cell) for cell in cells)
        (quoted if split else plain).writerow(cells)
    return out.getvalue()
