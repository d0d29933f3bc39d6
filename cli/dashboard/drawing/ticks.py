"""Tick positions and labels."""

from __future__ import annotations

import itertools
import math

from ensemw2s.cli.dashboard.model.names import short


def nice_step(span: float, most: int, *, whole: bool = False) -> float:
    """The smallest step of 1, 2 or 5 times a power of ten that gives at most ``most`` intervals over ``span``."""
    raw = span / max(1, most)
    if raw <= 0.0 or not math.isfinite(raw):
        return 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * (1 - 1e-9))
    return max(1.0, step) if whole else step


def linear_ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """Nice values within ``[low, high]``, at most ``most + 1`` of them."""
    step = nice_step(high - low, most, whole=whole)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [(first + place) * step for place in range(min(count, 200))]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Powers of ten within ``[low, high]`` (both positive); with 2 and 5 between them where there is room."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        ticks = [f * 10.0**e for e in range(first, last + 1) for f in factors if low <= f * 10.0**e <= high]
        if len(ticks) <= most + 1:
            break
    stride = max(1, math.ceil(len(ticks) / (most + 1)))
    if len(ticks) < 2 and most >= 1:
        return [low, high]
    return ticks[::stride]


def tick_labels(ticks: list[float], *, scale: float = 1.0) -> list[str]:
    """Labels with as many decimals as the step needs; thousands as ``15k``.

    Args:
        ticks: ascending.
        scale: factor on the values, 100 for per cent.
    """
    values = [tick * scale for tick in ticks]
    if not values:
        return []
    largest = max(abs(value) for value in values)
    step = min((b - a for a, b in itertools.pairwise(values) if b > a), default=largest or 1.0)
    if largest >= 1e6 or (0 < largest < 1e-3):
        return [short(value) for value in values]
    if largest >= 1e4 and step >= 1000 - 1e-6:
        return [f"{value / 1000:g}k" if value else "0" for value in values]
    decimals = max(0, min(6, -math.floor(math.log10(step) + 1e-9))) if step > 0 else 2
    return [f"{value:.{decimals}f}" for value in values]


def log_labels(ticks: list[float], *, scale: float = 1.0) -> list[str]:
    """Labels of a log axis: each in its own precision."""
    return [short(float(f"{tick * scale:.2g}")) for tick in ticks]
