"""Typed access to the fields of log records, which may hold anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NAN = math.nan
Record = Mapping[str, Any]


#: Counts and steps of a run are below it.
MAX_WHOLE = 2.0**53

#: Longer text of a log is cut: nobody reads it on a screen, and laying it out would take long.
MAX_TEXT = 100_000


def number(record: Record, name: str) -> float:
    """A finite or infinite number; NaN where it is missing, null or no number."""
    value = record.get(name)
    return _float(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NAN
    try:
        return float(value)
    except OverflowError:
        return NAN


def whole(record: Record, name: str, default: int = 0) -> int:
    """An integer; ``default`` where it is missing, no integer or out of all proportion."""
    value = number(record, name)
    return int(value) if abs(value) < MAX_WHOLE else default


def text(record: Record, name: str, default: str = "") -> str:
    """A string; ``default`` where it is missing or no string."""
    value = record.get(name)
    return value[:MAX_TEXT] if isinstance(value, str) else default


def texts(record: Record, name: str) -> list[str]:
    """A list of strings; other items as their ``str``."""
    value = record.get(name)
    return [str(item)[:MAX_TEXT] for item in value] if isinstance(value, list) else []


def numbers(record: Record, name: str) -> list[float]:
    """A list of numbers; NaN for other items."""
    value = record.get(name)
    if not isinstance(value, list):
        return []
    return [_float(item) for item in value]


def mapping(record: Record, name: str) -> dict[str, Any]:
    """An object; empty where it is missing or none."""
    value = record.get(name)
    return dict(value) if isinstance(value, dict) else {}


def known(value: float) -> bool:
    """Whether ``value`` is a finite number."""
    return math.isfinite(value)
