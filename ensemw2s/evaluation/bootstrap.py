"""Bootstrap over examples for statistics of sums over examples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

#: Largest number of drawn counts held at once (32 MiB).
_CHUNK = 1 << 22


def resampled_sums(values: npt.ArrayLike, resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Sums of ``c`` quantities, float ``[n, c]``, over ``n`` examples drawn with replacement; the seed fixes them.

    Returns:
        float64 ``[resamples, c]``.

    Raises:
        ValueError: no examples, not two-dimensional, or fewer than one resample.
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[0] == 0:
        raise ValueError(f"values must be [examples, quantities] with at least one example, got {rows.shape}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    n = rows.shape[0]
    rng = np.random.default_rng(seed)
    share = np.full(n, 1.0 / n)
    parts = [rng.multinomial(n, share, size=size) @ rows for size in pieces(resamples, max(1, _CHUNK // n))]
    return np.concatenate(parts)


def pieces(total: int, largest: int) -> Iterator[int]:
    """Sizes of at most ``largest`` that add up to ``total``: what is held in memory at once."""
    for start in range(0, total, largest):
        yield min(largest, total - start)


def percentiles(values: npt.NDArray[np.float64], level: float) -> tuple[float, float]:
    """The middle ``level`` of resampled values; NaN (a resample with nothing to divide by) is left out."""
    low, high = np.nanquantile(values, [0.5 - level / 2.0, 0.5 + level / 2.0])
    return float(low), float(high)
