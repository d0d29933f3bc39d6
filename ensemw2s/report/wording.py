"""Formatting of numbers and names in tables, plots and sentences."""

from __future__ import annotations

import math

from ensemw2s.arms import arm_spec, arm_word, labelling_teacher, teacher_of
from ensemw2s.evaluation.results import Results

MINUS = "−"

_SPLITS = {"test": "ID", "hard_test": "OOD", "validation": "validation", "hard_pool": "hard pool"}


def arm_label(arm: str) -> str:
    """Name of an arm, at most 27 characters for the known ones."""
    return arm_spec(arm).label


def pair_label(a: str, b: str) -> str:
    """Name of a comparison in a table, at most 34 characters for the planned ones."""
    first, second = teacher_of(a), teacher_of(b)
    if first is not None and second is not None:
        return f"students: {teacher_label(first)} {MINUS} {arm_word(second)}"
    return f"{teacher_label(a)} {MINUS} {teacher_label(b)}"


def arm_phrase(arm: str) -> str:
    """Name of an arm inside a sentence."""
    teacher = teacher_of(arm)
    return arm_spec(arm).phrase or arm_label(arm) if teacher is None else f"the student from {arm_phrase(teacher)}"


def teacher_label(teacher: str) -> str:
    """Name of a teacher in a table, or of an arm in a comparison."""
    return arm_spec(teacher).brief or arm_label(teacher)


def calibrated_label(name: str) -> str:
    """Name of an arm, or of a teacher's labels, in a table of calibration."""
    teacher = labelling_teacher(name)
    return arm_label(name) if teacher is None else f"labels of {teacher_label(teacher)}"


def split_label(split: str) -> str:
    """ID or OOD for the test splits."""
    return _SPLITS.get(split, split)


def cost_times(results: Results, arm: str) -> str:
    """Cost of building an arm, in multiples of W; empty where it costs nothing or nobody counted."""
    cost, weak = results.arm_costs.get(arm), results.arm_costs.get(results.weak)
    return "" if cost is None or weak is None or not (cost.total and weak.total) else f"{cost.total / weak.total:.1f}"


def percent(share: float | None) -> str:
    """A share as per cent with one decimal, without the sign: ``62.3``."""
    return "" if share is None else _fixed(100.0 * share, 1)


def points(difference: float | None, digits: int = 1) -> str:
    """A difference between shares in percentage points, with its sign: ``+4.3``."""
    return "" if difference is None else _signed(100.0 * difference, digits)


def point_digits(difference: float) -> int:
    """Decimals with which a difference in points is not shown as 0 unless it is 0: one, or up to its first digit."""
    size = abs(round(100.0 * difference, 9))
    return 1 if size == 0.0 or size >= 0.05 else -math.floor(math.log10(size))


def interval(value: str, low: float | None, high: float | None, scale: float = 100.0, digits: int = 1) -> str:
    """A value with its interval: ``62.3 [57.6, 66.8]``."""
    if low is None or high is None:
        return value
    return f"{value} [{_fixed(scale * low, digits)}, {_fixed(scale * high, digits)}]"


def number(value: float | None, digits: int = 2) -> str:
    """A plain number with a true minus sign."""
    return "" if value is None else _fixed(value, digits)


def p_value(p: float | None) -> str:
    """A p-value: three decimals, two from 0.1, and ``<0.001`` below that."""
    if p is None:
        return "–"
    if p < 0.001:
        return "<0.001"
    return f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def p_phrase(p: float) -> str:
    """A p-value inside a sentence, ``p = 0.03`` or ``p < 0.001``, that no line break tears apart."""
    text = p_value(p)
    return f"p\u00a0<\u00a0{text[1:]}" if text.startswith("<") else f"p\u00a0=\u00a0{text}"


def duration(seconds: float) -> str:
    """Seconds as ``8.4 s``, ``2 min 05 s`` or ``3 h 12 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(value: int) -> str:
    """A count with thin spaces between thousands from 10 000 on."""
    return f"{value:,}".replace(",", "\u2009") if value >= 10_000 else str(value)


def large(value: float, unit: str = "") -> str:
    """A large number with three digits and a prefix: ``1.43 M``, ``52.3 GFLOP``."""
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        # 999.5 k and more would round to 1000 k
        if abs(value) >= 0.9995 * 10**power:
            scaled = value / 10**power
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f}\u00a0{prefix}{unit}"
    return f"{value:.0f}\u00a0{unit}".rstrip("\u00a0")


def round_number(value: float) -> str:
    """A round number for an axis: ``50 G``, ``2 T``."""
    text = large(value)
    number, space, prefix = text.partition("\u00a0")
    return f"{float(number):g}{space}{prefix}"


def memory(size: int | None) -> str:
    """Bytes as ``512 MiB`` or ``3.2 GiB``; empty where unknown."""
    if size is None:
        return ""
    mebibytes = size / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1023.5 else f"{mebibytes / 1024:.1f} GiB"


def level_text(level: float) -> str:
    """A confidence level: ``95 %``."""
    return f"{100 * level:g} %"


def _fixed(value: float, digits: int) -> str:
    # the first rounding removes noise: 0.7725 − 0.735 is to print like the 0.0375 that it stands for
    text = f"{round(value, 9):.{digits}f}"
    # a rounded −0.0 is 0.0
    return text.replace("-", "" if float(text) == 0.0 else MINUS)


def _signed(value: float, digits: int) -> str:
    text = f"{round(value, 9):+.{digits}f}"
    if float(text) == 0.0:
        return "±" + text[1:]
    return text.replace("-", MINUS)
