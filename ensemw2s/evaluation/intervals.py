"""Intervals for one proportion: Wilson over examples, and a bootstrap clustered by example for tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ensemw2s.evaluation.bootstrap import pieces
from ensemw2s.evaluation.record import Record

#: Largest number of drawn cluster indices held at once by the bootstrap (32 MiB of int64).
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class Interval(Record):
    """A confidence interval for a proportion, both ends in [0, 1]."""

    low: float
    high: float


def critical_value(level: float) -> float:
    """The two-sided critical value of the normal distribution (1.959964 for 0.95).

    Raises:
        ValueError: ``level`` is not strictly between 0 and 1.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    return NormalDist().inv_cdf(0.5 + level / 2.0)


def wilson(correct: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for ``correct`` of ``n`` independent examples (Wilson 1927, equation for z).

    Unlike the estimate ± z·se interval it stays inside [0, 1] and is not empty when everything is right or wrong.

    Raises:
        ValueError: ``n`` is not positive or ``correct`` is not in ``0 … n``.
    """
    if n < 1:
        raise ValueError(f"an accuracy needs at least one example, got n = {n}")
    if not 0 <= correct <= n:
        raise ValueError(f"correct must lie in 0 … {n}, got {correct}")
    z = critical_value(level)
    share = correct / n
    scale = 1.0 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1.0 - share) / n + z * z / (4.0 * n * n)) / scale
    # at the ends rounding must not leave a bound a hair inside the estimate
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return Interval(low, high)


def clustered_bootstrap(
    values: npt.ArrayLike,
    clusters: npt.ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of the mean of ``values`` in [0, 1], resampling whole clusters with replacement.

    For token accuracy the values are the tokens (1 right, 0 wrong) and the clusters their examples: the mean is taken
    over tokens (micro), while tokens of one answer, which are right or wrong together, count as one observation.
    Where all values are 0 or all are 1 every resample is the same and the bootstrap has nothing to say; the Wilson
    interval over the clusters is returned then.

    Args:
        values: float or bool, shape ``[A]``.
        clusters: integer cluster of each value, shape ``[A]``; any integers, in any order.
        level: confidence level.
        resamples: number of resamples.
        seed: seed of the draws; the same seed gives the same interval.

    Raises:
        ValueError: no values, shapes that differ, values outside [0, 1], or fewer than one resample.
    """
    x = np.asarray(values, dtype=np.float64)
    ids = np.asarray(clusters)
    if x.ndim != 1 or ids.shape != x.shape:
        raise ValueError(f"values and clusters must be one-dimensional and equally long, got {x.shape} and {ids.shape}")
    if x.size == 0:
        raise ValueError("a bootstrap needs at least one value")
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"clusters must be integers, got {ids.dtype}")
    if not ((x >= 0.0) & (x <= 1.0)).all():
        raise ValueError("values must lie in [0, 1]")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    _, inverse = np.unique(ids, return_inverse=True)
    sums = np.bincount(inverse, weights=x).astype(np.float64)
    sizes = np.bincount(inverse).astype(np.float64)
    n = sums.size
    if x.min() == x.max() and x[0] in (0.0, 1.0):
        return wilson(n if x[0] == 1.0 else 0, n, level)
    means = _resampled_means(sums, sizes, resamples, np.random.default_rng(seed))
    critical_value(level)  # checks the level
    low, high = np.quantile(means, [0.5 - level / 2.0, 0.5 + level / 2.0])
    return Interval(float(low), float(high))


def _resampled_means(
    sums: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Means over values of ``resamples`` draws of ``n`` clusters, in chunks of bounded memory."""
    n = sums.size
    rows = max(1, _CHUNK // n)
    means = []
    for size in pieces(resamples, rows):
        drawn = rng.integers(0, n, size=(size, n))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(means)
