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

from ensemw2s.evaluation.comparisons import (
    constant_variance,
    correctness,
    paired_difference,
    t_critical,
    variance_of_mean,
)
from ensemw2s.evaluation.intervals import critical_value
from ensemw2s.evaluation.record import Record
from ensemw2s.evaluation.sampling import Sampling

#: Standard errors below this are rounding noise.
_NO_SPREAD = 1e-9

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
    """``{r : |N − r·D| ≤ z·√(Var(N) − 2r·Cov + r²·Var(D))}``, solved as the quadratic ``a·r² − 2b·r + c ≤ 0``.

    ``a = D² − z²·Var(D)``, ``b = N·D − z²·Cov``, ``c = N² − z²·Var(N)`` (Fieller 1954), with the critical value ``z``
    of the normal or of Student's t. The set is an interval exactly where the denominator differs from 0 at this level
    (``a > 0``).
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

    Right or wrong of W, S and C is bool ``[n]`` over the same examples in the same order.

    Returns:
        The PGR; ``kind`` is ``undefined`` where the lower bound of the paired interval of C − W is ≤ 0.

    Raises:
        ValueError: no examples, lengths that differ, or values other than 0 and 1.
    """
    w, s, c = correctness(weak, "weak"), correctness(student, "student"), correctness(ceiling, "ceiling")
    if not w.shape == s.shape == c.shape:
        raise ValueError(f"PGR is paired: the same examples are needed, got {w.size}, {s.size} and {c.size}")
    gap = paired_difference(c, w, level)
    errors = [critical_value(level) ** 2 * _covariance(s - w, c - w)]
    return _ratio(float((s - w).mean()), float((c - w).mean()), errors, gap.low, gap.high, level)


def _covariance(num: npt.NDArray[np.float64], den: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Covariance ``[2, 2]`` of the means of S − W and C − W.

    Where S − W, C − W or S − C does not vary, ``Cov(N, D) = (Var(N) + Var(D) − Var(N − D))/2`` of the variances that
    the three differences have in :func:`~ensemw2s.evaluation.comparisons.paired_difference`: S equal to C on every
    example is no proof that PGR is 1. These are at most 3/(n + 2)² and any that varies is at least 1/n², so
    that no combination has a negative variance.
    """
    if all(np.ptp(d) > 0.0 for d in (num, den, num - den)):
        return np.asarray(np.cov(np.stack([num, den]), ddof=1) / num.size)
    top, bottom, apart = (variance_of_mean(d) for d in (num, den, num - den))
    both = (top + bottom - apart) / 2.0
    return np.array([[top, both], [both, bottom]])


def ratio_of_means(
    numerators: Sequence[float] | npt.NDArray[np.float64],
    denominators: Sequence[float] | npt.NDArray[np.float64],
    level: float = 0.95,
    sampling: Sampling | None = None,
) -> PGR:
    """PGR over seeds: mean of S − W divided by mean of C − W, with Fieller's interval paired over seeds (Student's t).

    The mean of the seeds' own ratios would let a single seed with a small gap decide everything. As in
    :func:`~ensemw2s.evaluation.comparisons.paired_t` the error is never below what sampling the questions gives: a
    ratio is in the set if ``(N − r·D)²`` does not exceed the larger of the squared errors that the spread over seeds
    and that sampling alone give, both with what seeds share. This is the union of the two Fieller sets. Where S − W,
    C − W or S − C is the same on every question of every seed, its sampling error is that of
    :func:`~ensemw2s.evaluation.comparisons.constant_variance` for all these questions.

    Args:
        numerators: S − W, one a seed.
        denominators: C − W of the same seeds.
        level: confidence level.
        sampling: sampling error of both, in this order, over the same seeds; without it the spread alone.

    Raises:
        ValueError: fewer than two seeds, lengths that differ, or a number that is not finite.
    """
    num, den = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if num.shape != den.shape:
        raise ValueError(f"the same seeds are needed for both means, got {num.size} and {den.size}")
    if num.size < 2:
        raise ValueError(f"a ratio of means needs at least two seeds, got {num.size}")
    for name, values in (("numerator", num), ("denominator", den)):
        if not np.isfinite(values).all():
            raise ValueError(f"a {name} is not finite")
    critical = t_critical(num.size, level) ** 2
    spread = critical * np.cov(np.stack([num, den]), ddof=1) / num.size
    errors = [spread]
    if sampling is not None:
        shared = _no_negative(sampling.shared)
        of_questions = t_critical(max(sampling.questions, 2), level) ** 2
        alone = critical * _no_negative(sampling.within - shared) / num.size + of_questions * shared
        floor = [
            _constant(d, w, sampling) for d, w in zip((num, den, num - den), _variances(sampling.within), strict=True)
        ]
        errors = [spread + of_questions * shared, _raised(alone, [of_questions * least for least in floor])]
    mean, half = float(den.mean()), max(math.sqrt(squared[1, 1]) for squared in errors)
    return _ratio(float(num.mean()), mean, errors, mean - half, mean + half, level)


def _variances(covariance: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Variances of S − W, C − W and S − C from the covariance ``[2, 2]`` of the first two."""
    top, bottom = float(covariance[0, 0]), float(covariance[1, 1])
    return top, bottom, top + bottom - 2.0 * float(covariance[0, 1])


def _constant(differences: npt.NDArray[np.float64], within: float, sampling: Sampling) -> float:
    """Variance of differences that are the same on every question of a seed; 0 where a question is another."""
    if within > _NO_SPREAD**2:
        return 0.0
    return float(np.mean([constant_variance(float(d), sampling.questions) for d in differences]))


def _raised(covariance: npt.NDArray[np.float64], least: Sequence[float]) -> npt.NDArray[np.float64]:
    """A covariance ``[2, 2]`` with at least these variances of S − W, C − W and S − C."""
    if not any(least):
        return covariance
    top, bottom, apart = map(max, _variances(covariance), least)
    both = (top + bottom - apart) / 2.0
    return _no_negative(np.array([[top, both], [both, bottom]]))


def _no_negative(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The nearest covariance matrix to an estimate of one: no direction has a negative variance."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2.0)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)


def _ratio(
    top: float,
    bottom: float,
    errors: Sequence[npt.NDArray[np.float64]],
    gap_low: float,
    gap_high: float,
    level: float,
) -> PGR:
    """The ratio of two paired means, or why there is none; ``gap_low`` and ``gap_high``: the interval of the lower one.

    ``errors`` are covariances ``[2, 2]`` of the two means, times the squared critical value; the largest error counts.
    """
    regions = [
        fieller_set(top, bottom, var_num=float(e[0, 0]), var_den=float(e[1, 1]), cov=float(e[0, 1]), critical=1.0)
        for e in errors
    ]
    kind: SetKind = next((region.kind for region in regions if region.kind != "interval"), "interval")
    if gap_low <= 0.0 or kind != "interval":
        reason = (
            f"the ceiling is not clearly above the weak model: C − W is {100 * bottom:+.1f} points, "
            f"{100 * level:g} % interval {100 * gap_low:+.1f} to {100 * gap_high:+.1f}"
        ).replace("-", "−")
        return PGR(None, None, None, "undefined", reason, kind)
    low = min(region.low for region in regions if region.low is not None)
    high = max(region.high for region in regions if region.high is not None)
    return PGR(top / bottom, low, high, "interval", "", kind)
