"""Short names of arms, splits and times, for narrow columns."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ensemw2s.arms import SINGLE, TEST_SPLITS, WEAK, arm_spec, arm_word, teacher_of
from ensemw2s.cli.dashboard.model.fields import known
from ensemw2s.text import printable

SPLITS = {"test": "ID", "hard_test": "OOD", "validation": "validation"}
TESTS = TEST_SPLITS


def clean(text: str) -> str:
    """One line without control characters (nothing in a log may move the cursor)."""
    return printable(text.replace("\n", " ⏎ "))


def arm_name(arm: str) -> str:
    """Name of an arm or a teacher, at most 19 characters for the known ones."""
    return arm_spec(arm).short


def student_name(student: str) -> str:
    """Name of a student by its teacher's."""
    return f"← {arm_word(teacher_of(student) or student)}"


def percent(share: float, digits: int = 1) -> str:
    """A share as per cent, without the sign; ``–`` where it is unknown."""
    return f"{100.0 * share:.{digits}f}" if known(share) else "–"


def pair(accuracy: Mapping[str, float], arm: str, between: str = " / ", none: str = "–") -> str:
    """Accuracies of an arm on the tests; in runs of earlier versions the first expert stands for the weak model.

    ``accuracy`` has the keys ``arm/split``; ``between`` stands between ID and OOD, ``none`` where the arm has neither.
    """
    values = [accuracy.get(f"{arm}/{split}") for split in TESTS]
    if values != [None, None]:
        return between.join("–" if value is None else percent(value) for value in values)
    return pair(accuracy, SINGLE, between, none) if arm == WEAK else none


def clock(seconds: float) -> str:
    """A time span as ``0:07``, ``12:05``, ``3:07:12``; ``–`` where it is unknown."""
    if not known(seconds):
        return "–"
    whole = max(0, int(seconds))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours >= 100:
        return f"{hours // 24}d {hours % 24}h"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def moment(unix: float) -> str:
    """Local time of day, with the date where it was not today; empty where it is unknown."""
    if not known(unix):
        return ""
    try:
        then = time.localtime(unix)
    except (OverflowError, OSError, ValueError):
        return ""
    today = time.localtime()
    same = (then.tm_year, then.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M:%S" if same else "%m-%d %H:%M", then)


def ago(seconds: float) -> str:
    """A time span in one unit: ``12 s``, ``3 min``, ``5 h``, ``2 d``."""
    if not known(seconds):
        return "–"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def size(count: float) -> str:
    """Bytes as ``1.2 GB``; ``–`` where unknown."""
    if not known(count):
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def short(value: float) -> str:
    """A number in few characters: ``0.2873``, ``12.4``, ``1.2e-05``, ``15k``; ``–`` where unknown."""
    if not known(value):
        return "–"
    if value == 0:
        return "0"
    magnitude = abs(value)
    if magnitude >= 1e6 or magnitude < 1e-4:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    if magnitude >= 1e4:
        return f"{value / 1000:.0f}k"
    return f"{value:.4g}"
