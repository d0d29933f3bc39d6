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
        mean: their mean.
        sd: their standard deviation (``n − 1``).
        low: lower end of the interval of the mean, or None where ``t`` is None.
        high: upper end.
        t: test statistic; None where the differences do not vary, for then there is no measure of their spread.
        p: two-sided p-value with ``n − 1`` degrees of freedom; None where ``t`` is None.
        n: number of seeds.
    """

    differences: tuple[float, ...]
    mean: float
    sd: float
    low: float | None
    high: float | None
    t: float | None
    p: float | None
    n: int


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


def paired_difference(a: npt.ArrayLike, b: npt.ArrayLike, level: float = 0.95) -> Difference:
    """Difference in accuracy of two models on the same examples: estimate ± z·se of the paired differences.

    The interval holds 0 exactly where Fieller's set for the matching ratio holds 0 (or 1, or is unbounded), so the
    differences and the PGR of a report never contradict each other. Where the paired differences do not vary (the
    two models are right on the same examples) ``se`` is 0, which says nothing about other examples; the interval is
    then that of Agresti and Min (2005): half a count is added to each cell of the 2×2 table.

    Args:
        a: right or wrong, bool shape ``[n]``.
        b: the same examples in the same order.
        level: confidence level.

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
        centre = float(d.sum()) / (n + 2)
        variance = (np.abs(d).sum() + 1.0) / (n + 2) - centre * centre
        half = z * math.sqrt(float(variance) / (n + 2))
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


def paired_t(differences: Sequence[float] | npt.NDArray[np.float64], level: float = 0.95) -> PairedT:
    """Paired t-test of the hypothesis that the mean difference over seeds is 0.

    Args:
        differences: one difference a seed.
        level: confidence level of the interval.

    Raises:
        ValueError: fewer than two seeds, or a difference that is not finite.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or d.size < 2:
        raise ValueError(f"a paired t-test needs at least two seeds, got {d.size}")
    if not np.isfinite(d).all():
        raise ValueError("a difference is not finite")
    n, mean, sd = d.size, float(d.mean()), float(d.std(ddof=1))
    critical = t_critical(n, level)
    values = tuple(float(x) for x in d)
    if sd <= _NO_SPREAD:
        return PairedT(values, mean, 0.0, None, None, None, None, n)
    se = sd / math.sqrt(n)
    t = mean / se
    p = min(1.0, 2.0 * float(stdtr(n - 1, -abs(t))))
    return PairedT(values, mean, sd, mean - critical * se, mean + critical * se, t, p, n)


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
