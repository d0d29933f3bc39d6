"""Comparisons of two arms: on one seed over the same examples, and over seeds.

McNemar's test and the paired interval speak about two given models. A claim about two methods needs several seeds and
the paired t-test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, stdtr, stdtrit

from ensemw2s.evaluation.intervals import critical_value
from ensemw2s.evaluation.record import Record
from ensemw2s.evaluation.sampling import Sampling

#: Differences between accuracies that vary less than this are one number with rounding noise.
_NO_SPREAD = 1e-12


@dataclass(frozen=True, slots=True)
class Difference(Record):
    """Accuracy of ``a`` minus accuracy of ``b`` over the same ``n`` examples, with its interval and standard error."""

    estimate: float
    low: float
    high: float
    se: float
    n: int


@dataclass(frozen=True, slots=True)
class McNemar(Record):
    """Exact McNemar test.

    Attributes:
        b01: examples that ``a`` has wrong and ``b`` right.
        b10: examples that ``a`` has right and ``b`` wrong.
        p: two-sided p-value; 1 where no example differs.
    """

    b01: int
    b10: int
    p: float


@dataclass(frozen=True, slots=True)
class PairedT(Record):
    """Paired t-test over seeds.

    Attributes:
        differences: one difference a seed, in the order of the seeds; all of them, none dropped.
        sd: their standard deviation (``n − 1``).
        low: lower end of the interval of the mean, or None where ``t`` is None.
        high: upper end.
        t: mean divided by ``se``; None where that is 0, for then there is no measure of spread.
        p: two-sided p-value; None where ``t`` is None.
        n: number of seeds.
        se: standard error of the mean, never below ``sampling_se``; None where ``t`` is None.
        sampling_se: the standard error of the mean that sampling the questions alone gives; None where unknown.
        repeat_low: lower end of the interval for the mean of as many other seeds, or None where ``t`` is None.
        repeat_high: upper end.
    """

    differences: tuple[float, ...]
    mean: float
    sd: float
    low: float | None
    high: float | None
    t: float | None
    p: float | None
    n: int
    se: float | None = None
    sampling_se: float | None = None
    repeat_low: float | None = None
    repeat_high: float | None = None


def correctness(values: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    """Right-or-wrong per example as float64 0 and 1, shape ``[n]``.

    Raises:
        ValueError: no examples, not one-dimensional, or values other than 0 and 1; ``name`` is in the message.
    """
    x = np.asarray(values)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"{name} needs one value an example and at least one example, got shape {x.shape}")
    out = x.astype(np.float64)
    if not ((out == 0.0) | (out == 1.0)).all():
        raise ValueError(f"{name} must be right (1) or wrong (0) for every example")
    return out


def variance_of_mean(d: npt.NDArray[np.float64]) -> float:
    """Variance of the mean of paired differences −1, 0 and 1 ``[n]``; never 0.

    The sample variance over ``n``. Where the differences do not vary that says nothing about other examples, and it is
    that of :func:`constant_variance`.
    """
    n = d.size
    sample = float(d.var(ddof=1)) / n if n > 1 else 0.0
    return sample if sample > 0.0 else constant_variance(float(d.mean()), n)


def constant_variance(d: float, n: int) -> float:
    """Variance of the mean of ``n`` paired differences that are all −1, 0 or 1; never 0.

    That of Agresti and Min (2005, Statistics in Medicine 24): half a count is added to each cell of the 2×2 table,
    ``((Σ|d| + 1)/(n + 2) − (Σd/(n + 2))²)/(n + 2)``.
    """
    centre = n * d / (n + 2)
    return ((n * abs(d) + 1.0) / (n + 2) - centre * centre) / (n + 2)


def paired_difference(a: npt.ArrayLike, b: npt.ArrayLike, level: float = 0.95) -> Difference:
    """Difference in accuracy of two models on the same examples: estimate ± z·se of the paired differences.

    ``a`` and ``b`` are right or wrong, bool ``[n]``, in the same order. The interval holds 0 exactly where Fieller's
    set for the matching ratio holds 0 (or 1, or is unbounded), so the differences and the PGR of a report never
    contradict each other. Where the paired differences do not vary (the two models are right on the same examples)
    ``se`` is 0, and the interval that of Agresti and Min: see :func:`variance_of_mean`.

    Raises:
        ValueError: no examples, lengths that differ, or values other than 0 and 1.
    """
    first, second = correctness(a, "a"), correctness(b, "b")
    if first.shape != second.shape:
        raise ValueError(f"paired models need the same examples, got {first.size} and {second.size}")
    z = critical_value(level)
    d = first - second
    n = d.size
    estimate = float(d.mean())
    se = float(d.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    if se > 0.0:
        low, high = estimate - z * se, estimate + z * se
    else:
        centre, half = float(d.sum()) / (n + 2), z * math.sqrt(variance_of_mean(d))
        low, high = min(estimate, centre - half), max(estimate, centre + half)
    return Difference(estimate, max(-1.0, low), min(1.0, high), se, n)


def mcnemar_exact(a: npt.ArrayLike, b: npt.ArrayLike) -> McNemar:
    """Exact two-sided McNemar test: of the examples on which the models differ, half should favour each.

    Raises:
        ValueError: as :func:`paired_difference`.
    """
    first, second = correctness(a, "a"), correctness(b, "b")
    if first.shape != second.shape:
        raise ValueError(f"paired models need the same examples, got {first.size} and {second.size}")
    b10 = int(((first == 1.0) & (second == 0.0)).sum())
    b01 = int(((first == 0.0) & (second == 1.0)).sum())
    total = b01 + b10
    # the distribution is symmetric at ½, so twice the smaller tail is the exact two-sided test
    p = 1.0 if b01 == b10 else min(1.0, 2.0 * float(bdtr(min(b01, b10), total, 0.5)))
    return McNemar(b01, b10, p)


def t_critical(n: int, level: float) -> float:
    """Two-sided critical value of Student's t with ``n − 1`` degrees of freedom."""
    critical_value(level)  # checks the level
    return float(stdtrit(n - 1, 0.5 + level / 2.0))


def paired_t(
    differences: Sequence[float] | npt.NDArray[np.float64], level: float = 0.95, sampling: Sampling | None = None
) -> PairedT:
    """Paired t-test of the hypothesis that the mean difference over seeds is 0, with a floor from sampling.

    With ``S`` seeds, the standard deviation ``sd`` of their differences, the mean ``v`` of their squared standard
    errors and the mean covariance ``c ≥ 0`` between two seeds through questions that both have,

        ``se² = own + c``, ``own = max(sd², v − c)/S``.

    Equally correlated differences have ``E[sd²] = Var(d) − c`` and ``Var(mean) = (Var(d) − c)/S + c``, seeds and
    questions being crossed random effects (Clark 1973); and ``Var(d)`` is at least what sampling the questions makes
    it, ``v``. So where every seed has questions of its own (``c = 0``) ``se = max(sd, √v)/√S``, and where all have the
    same, what their models have in common does not shrink with the seeds.

    The two parts are known from ``S`` seeds and from ``n`` questions. The interval is
    ``± √(t²_{S−1}·own + t²_{n−1}·c)``, which covers with at least its level (Banerjee 1960). It is never narrower than
    that of the plain paired t-test, nor than that of sampling alone: a mean is clear of 0 only where both say so.

    An interval of the mean is no forecast of a repeat: at 95 % it catches the mean of ten other seeds in 86 % of tries
    (Cumming and Maillardet 2006). That mean has the same ``own`` and shares ``c`` with this one, so their
    difference has the variance ``2·own``, and the interval for it is ``± t_{S−1}·√(2·own)`` (Hahn and Meeker 1991).

    Args:
        differences: one difference a seed.
        level: confidence level of the interval.
        sampling: sampling error of this difference over the same seeds; without it the plain paired t-test.

    Raises:
        ValueError: fewer than two seeds, or a difference that is not finite.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or d.size < 2:
        raise ValueError(f"a paired t-test needs at least two seeds, got {d.size}")
    if not np.isfinite(d).all():
        raise ValueError("a difference is not finite")
    n, mean, sd = d.size, float(d.mean()), float(d.std(ddof=1))
    sd = 0.0 if sd <= _NO_SPREAD else sd
    v, c, many, floor = 0.0, 0.0, 2, None
    if sampling is not None:
        v, c, many = float(sampling.within[0, 0]), max(0.0, float(sampling.shared[0, 0])), max(sampling.questions, 2)
        floor = math.sqrt(max(0.0, v - c) / n + c)
    values, parts = tuple(float(x) for x in d), [(max(sd * sd, v - c) / n, n), (c, many)]
    se = math.sqrt(sum(part for part, _ in parts))
    if se <= _NO_SPREAD:
        return PairedT(values, mean, 0.0, None, None, None, None, n, sampling_se=floor)
    half, repeat = banerjee_half_width(parts, level), t_critical(n, level) * math.sqrt(2.0 * parts[0][0])
    p, ends = _banerjee_p(mean, parts), (mean - repeat, mean + repeat)
    return PairedT(values, mean, sd, mean - half, mean + half, mean / se, p, n, se, floor, *ends)


def banerjee_half_width(parts: Sequence[tuple[float, int]], level: float) -> float:
    """``√(Σ t²_{n−1}·part)`` for parts of a variance, each with the number of observations that it is known from."""
    return math.sqrt(sum(t_critical(n, level) ** 2 * part for part, n in parts))


def _banerjee_p(mean: float, parts: Sequence[tuple[float, int]]) -> float:
    """The level at which the interval just holds 0, as a p-value; the plain t-test's where only one part is there."""
    known = [(part, n) for part, n in parts if part > 0.0]
    each = [2.0 * float(stdtr(n - 1, -abs(mean) / math.sqrt(part))) for part, n in known]
    if len(known) == 1:
        return min(1.0, each[0])
    low, high = math.log(max(each[0], each[1], 1e-300)), 0.0  # p grows with every part
    for _ in range(60):
        middle = 0.5 * (low + high)
        wide = sum(float(stdtrit(n - 1, math.exp(middle) / 2.0)) ** 2 * part for part, n in known) > mean * mean
        low, high = (middle, high) if wide else (low, middle)
    return math.exp(0.5 * (low + high))


def holm(pvalues: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment: compare the results with the level as if there were one test.

    A planned comparison without a p-value (None) stays None but still counts as one of the tests.

    Raises:
        ValueError: a p-value is not in [0, 1].
    """
    for p in pvalues:
        if p is not None and not 0.0 <= p <= 1.0:
            raise ValueError(f"a p-value must lie in [0, 1], got {p}")
    order = sorted((p, index) for index, p in enumerate(pvalues) if p is not None)
    adjusted: list[float | None] = [None] * len(pvalues)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(pvalues) - rank) * p))
        adjusted[index] = largest
    return adjusted
