"""How numbers and names are written in tables, plots and sentences."""

from __future__ import annotations

from collections.abc import Iterable

MINUS = "−"

_ARMS = {
    "weak_zero_shot": "weak base, zero-shot",
    "plain": "plain fine-tune",
    "single": "single expert",
    "plain_long": "plain fine-tune, T× steps",
    "bagging": "bagging",
    "bagging_equal_rounds": "bagging, same T",
    "seeds": "plain ensemble",
    "seeds_equal_rounds": "plain ensemble, same T",
    "ensemble_equal": "same experts, equal α",
    "ensemble_all": "boosted, all rounds",
    "ensemble": "boosted ensemble",
    "strong_zero_shot": "strong base, zero-shot",
    "student_plain": "student from fine-tune",
    "student_single": "student from single expert",
    "student_bagging": "student from bagging",
    "student_seeds": "student from plain ensemble",
    "student_ensemble": "student from ensemble",
    "ceiling": "ceiling (true labels)",
}

#: Arms built on the weak base, in the order of the tables; experts after the first follow the single expert.
_ORDER = {name: place for place, name in enumerate(_ARMS)}

_SPLITS = {"test": "ID", "hard_test": "OOD", "validation": "validation", "hard_pool": "hard pool"}

_TEACHERS = {
    "single": "single expert",
    "plain": "plain fine-tune",
    "bagging": "bagging",
    "seeds": "plain ensemble",
    "ensemble": "ensemble",
}

_GROUPS = {"boosting": "boosting", "bagging": "bagging", "seeds": "plain"}

_BRIEF = {"ensemble": "ensemble", "ensemble_equal": "equal weights", "plain_long": "plain, T× steps"}


def arm_label(arm: str) -> str:
    """Name of an arm, at most 27 characters for the known ones."""
    if arm.startswith("expert_"):
        return f"expert {arm.removeprefix('expert_')}"
    return _ARMS.get(arm, arm.replace("_", " "))


def pair_label(a: str, b: str) -> str:
    """Name of a comparison in a table, at most 34 characters for the planned ones."""
    if a.startswith("student_") and b.startswith("student_"):
        first = teacher_label(a.removeprefix("student_"))
        return f"students: {first} {MINUS} {short_teacher(b.removeprefix('student_'))}"
    return f"{_BRIEF.get(a, arm_label(a))} {MINUS} {_BRIEF.get(b, arm_label(b))}"


def arm_phrase(arm: str) -> str:
    """Name of an arm inside a sentence."""
    if arm.startswith("student_"):
        return f"the student from {teacher_phrase(arm.removeprefix('student_'))}"
    phrases = {
        "ceiling": "the ceiling",
        "bagging_equal_rounds": "bagging with as many members",
        "seeds_equal_rounds": "the plain ensemble with as many members",
        "single": "the single expert",
        "ensemble": "the boosted ensemble",
        "ensemble_equal": "the same experts with equal weights",
        "seeds": "the plain ensemble",
        "plain": "the plain fine-tune",
    }
    return phrases.get(arm, arm_label(arm))


def teacher_label(teacher: str) -> str:
    """Name of a teacher in a table."""
    return _TEACHERS.get(teacher, teacher.replace("_", " "))


def short_teacher(teacher: str) -> str:
    """Name of a teacher in one word, so that the longest rows fit 80 columns."""
    return teacher_label(teacher).removesuffix(" expert").removesuffix(" fine-tune")


def teacher_phrase(teacher: str) -> str:
    """Name of a teacher inside a sentence."""
    return arm_phrase(teacher)


def group_label(group: str) -> str:
    """Name of an ensemble's members in a table."""
    return _GROUPS.get(group, group.replace("_", " "))


def calibrated_label(name: str) -> str:
    """Name of an arm, or of a teacher's labels (``labels_TEACHER``), in a table of calibration."""
    if name.startswith("labels_"):
        return f"labels of {teacher_label(name.removeprefix('labels_'))}"
    return arm_label(name)


def split_label(split: str) -> str:
    """ID or OOD for the test splits."""
    return _SPLITS.get(split, split)


def is_strong(arm: str) -> bool:
    """Whether an arm is built on the strong base."""
    return arm.startswith("student_") or arm in ("strong_zero_shot", "ceiling")


def sorted_arms(arms: Iterable[str]) -> list[str]:
    """Weak arms first, then strong ones; each group from the base to the best informed."""

    def key(arm: str) -> tuple[float, float]:
        if arm.startswith("expert_"):
            number = arm.removeprefix("expert_")
            return _ORDER["single"] + 0.5, float(number) if number.isdigit() else 0.0
        return _ORDER.get(arm, len(_ORDER) / 2), 0.0

    return sorted(arms, key=key)


def percent(share: float | None) -> str:
    """A share as per cent with one decimal, without the sign: ``62.3``."""
    return "" if share is None else _fixed(100.0 * share, 1)


def points(difference: float | None) -> str:
    """A difference between shares in percentage points, with its sign: ``+4.3``."""
    return "" if difference is None else _signed(100.0 * difference, 1)


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
