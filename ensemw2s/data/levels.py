"""Parse a difficulty: a number, or the name of a level."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from numbers import Real
from typing import Any

from ensemw2s.data.fields import shape
from ensemw2s.data.problems import RowError

#: Ordered level names in lower case; a name's place, from 0, is its number.
SCALES: tuple[tuple[str, ...], ...] = (
    ("low", "medium", "high"),
    ("easy", "medium", "hard"),
    ("i", "ii", "iii", "iv", "v"),
    ("remembering", "understanding", "applying", "analyzing", "evaluating", "creating"),
)
_NUMBER = {name: float(place) for scale in SCALES for place, name in enumerate(scale)}
_DECIMAL_COMMA, _GROUPED = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?"), re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")
_GRADE = re.compile(r"grade\s*(\d+)")


def level_number(name: str) -> float | None:
    """The number of a level name: its place in one of :data:`SCALES`, ``Grade 07`` is 7; None for other names."""
    folded = name.strip().lower()
    grade = _GRADE.fullmatch(folded)
    return float(grade.group(1)) if grade else _NUMBER.get(folded)


def parse_difficulty(value: Any, column: str) -> tuple[float | None, str]:
    """``(number, level name)`` of a difficulty; ``(None, "")`` where it is empty or missing (null, NaN).

    A number, or text that is one, has no level name; other text is a level name, with a number if its scale is known.

    Raises:
        RowError: it is neither a number nor text, or the number is infinite.
    """
    if value is None or (isinstance(value, Real | Decimal) and value != value):
        return None, ""
    if isinstance(value, bool) or not isinstance(value, Real | Decimal | str):
        raise RowError("difficulty", f"difficulty must be a number or a level name, got {shape(value)}", column=column)
    if isinstance(value, str):
        text = value.strip()
        if _GROUPED.fullmatch(text):
            hint = "Write 1.234 for a fraction and 1234 for a thousand."
            raise RowError("difficulty", f"difficulty {text} can be a thousand or a fraction", column=column, hint=hint)
        try:
            number = float(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text)
        except ValueError:
            return level_number(text), text
    else:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not math.isfinite(number):
        raise RowError("difficulty", f"difficulty must be a finite number, got {shape(value)}", column=column)
    return number, ""
