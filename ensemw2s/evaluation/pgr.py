"""Performance gap recovered, PGR = (S − W) / (C − W), with Fieller's interval.

W is the accuracy of the weak base fine-tuned on all training data (the same for every student), S the student's, C the
ceiling's. A ratio of
two uncertain differences has no usable standard error where the lower one may be near 0; Fieller's set asks instead
for which ``r`` the data do not contradict ``S − W = r·(C − W)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ensemw2s.evaluation.comparisons import correctness, paired_difference, paired_t, t_critical
from ensemw2s.evaluation.intervals import critical_value
from ensemw2s.evaluation.record import Record

SetKind = Literal["interval", "outside", "half_line", "whole_line", "empty"]


@dataclass(frozen=True, slots=True)
class FiellerSet(Record):
    """The ratios that the data do not contradict.

    Attributes:
        kind: ``interval`` is ``[low, high]``; ``outside`` is all but the open interval ``(low, high)``;
            ``half_line`` has one end only; ``whole_line`` excludes nothing; ``empty`` happens only where
            the denominator is exactly 0 without spread.
        low: lower end or None.
        high: upper end or None.
    """

    kind: SetKind
    low: float | None
    high: float | None

    def holds(self, ratio: float) -> bool:
        """Whether ``ratio`` is in the set."""
        if self.kind in ("whole_line", "empty"):
            return self.kind == "whole_line"
        above = self.low is None or ratio >= self.low
        below = self.high is None or ratio <= self.high
        if self.kind == "outside":
            return (self.low is not None and ratio <= self.low) or (self.high is not None and ratio >= self.high)
        return above and below


@dataclass(frozen=True, slots=True)
class PGR(Record):
    """Performance gap recovered.

    Attributes:
        value: the ratio; None where it is undefined. It is not bounded by 0 and 1.
        low: lower end of its interval; None where undefined.
        high: upper end.
        kind: ``interval`` or ``undefined``.
        reason: why it is undefined, in words; empty otherwise.
        region: the kind of Fieller's set, ``interval`` whenever the value is defined.
    """

    value: float | None
    low: float | None
    high: float | None
    kind: Literal["interval", "undefined"]
    reason: str
    region: SetKind


def fieller_set(
    numerator: float, denominator: float, *, var_num: float, var_den: float, cov: float, critical: float
) -> FiellerSet:
    """``{r : |N − r·D| ≤ critical·√(Var(N) − 2r·Cov + r²·Var(D))}``, solved as the quadratic ``a·r² − 2b·r + c ≤ 0``.

    ``a = D² − z²·Var(D)``, ``b = N·D − z²·Cov``, ``c = N² − z²·Var(N)`` (Fieller 1954). The set is an interval exactly
    where the denominator differs from 0 at this level (``a > 0``).

    Args:
        numerator: estimate N.
        denominator: estimate D.
        var_num: variance of N.
        var_den: variance of D.
        cov: covariance of N and D.
        critical: quantile ``z`` of the normal or of Student's t.
    """
    z2 = critical * critical
    a = denominator * denominator - z2 * var_den
    b = numerator * denominator - z2 * cov
    c = numerator * numerator - z2 * var_num
    if a == 0.0:
        if b == 0.0:
            return FiellerSet("whole_line" if c <= 0.0 else "empty", None, None)
        end = c / (2.0 * b)
        return FiellerSet("half_line", end, None) if b > 0.0 else FiellerSet("half_line", None, end)
    root = b * b - a * c
    if a < 0.0 and root <= 0.0:
        return FiellerSet("whole_line", None, None)
    # a > 0 holds N/D, so its root cannot be negative beyond rounding; q avoids cancellation between b and the root
    q = b + math.copysign(math.sqrt(max(root, 0.0)), b)
    first, second = (q / a, c / q) if q != 0.0 else (0.0, 0.0)
    return FiellerSet("interval" if a > 0.0 else "outside", min(first, second), max(first, second))


def pgr_fieller(weak: npt.ArrayLike, student: npt.ArrayLike, ceiling: npt.ArrayLike, level: float = 0.95) -> PGR:
    """PGR of one student on one split with Fieller's interval, paired over examples.

    Args:
        weak: right or wrong of the plain fine-tune, bool shape ``[n]``.
        student: the same for the student, same examples in the same order.
        ceiling: the same for the ceiling.
        level: confidence level.

    Returns:
        The PGR; ``kind`` is ``undefined`` where the lower bound of the paired interval of C − W is ≤ 0.

    Raises:
        ValueError: no examples, lengths that differ, or values other than 0 and 1.
    """
    w, s, c = correctness(weak, "weak"), correctness(student, "student"), correctness(ceiling, "ceiling")
    if not w.shape == s.shape == c.shape:
        raise ValueError(f"PGR is paired: the same examples are needed, got {w.size}, {s.size} and {c.size}")
    gap = paired_difference(c, w, level)
    return _ratio(s - w, c - w, critical_value(level), gap.low, gap.high, level)


def ratio_of_means(
    numerators: Sequence[float] | npt.NDArray[np.float64],
    denominators: Sequence[float] | npt.NDArray[np.float64],
    level: float = 0.95,
) -> PGR:
    """PGR over seeds: mean of S − W divided by mean of C − W, with Fieller's interval paired over seeds (Student's t).

    The mean of the seeds' own ratios would let a single seed with a small gap decide everything.

    Args:
        numerators: S − W, one a seed.
        denominators: C − W of the same seeds.
        level: confidence level.

    Raises:
        ValueError: fewer than two seeds, lengths that differ, or a number that is not finite.
    """
    num, den = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if num.shape != den.shape:
        raise ValueError(f"the same seeds are needed for both means, got {num.size} and {den.size}")
    if not np.isfinite(num).all():
        raise ValueError("a numerator is not finite")
    gap = paired_t(den, level)
    low = gap.mean if gap.low is None else gap.low
    high = gap.mean if gap.high is None else gap.high
    return _ratio(num, den, t_critical(den.size, level), low, high, level)


def _ratio(
    num: npt.NDArray[np.float64],
    den: npt.NDArray[np.float64],
    critical: float,
    gap_low: float,
    gap_high: float,
    level: float,
) -> PGR:
    """The ratio of two paired means, or why there is none."""
    n = num.size
    # numpy warns and gives NaN for the covariance of a single observation
    cov = np.cov(np.stack([num, den]), ddof=1) / n if n > 1 else np.zeros((2, 2))
    top, bottom = float(num.mean()), float(den.mean())
    region = fieller_set(
        top, bottom, var_num=float(cov[0, 0]), var_den=float(cov[1, 1]), cov=float(cov[0, 1]), critical=critical
    )
    if gap_low <= 0.0 or region.kind != "interval":
        reason = (
            f"the ceiling is not clearly above the weak model: C − W is {100 * bottom:+.1f} points, "
            f"{100 * level:g} % interval {100 * gap_low:+.1f} to {100 * gap_high:+.1f}"
        ).replace("-", "−")
        return PGR(None, None, None, "undefined", reason, region.kind)
    return PGR(top / bottom, region.low, region.high, "interval", "", region.kind)
