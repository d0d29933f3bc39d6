"""Numeric series of bounded length."""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: A series keeps at most this many points; then neighbours are merged in pairs.
MAX_POINTS = 8192


class Series:
    """Points ``(x, y)`` in ascending x, appended at the end or put in front as history comes in.

    Beyond ``limit`` points neighbours are replaced by their mean, so memory is bounded and the shape stays. A point
    whose x is not above the last one starts over from there: a training that was resumed from a checkpoint, or
    repeated, replaces its former points.
    """

    __slots__ = ("limit", "x", "y")

    def __init__(self, limit: int = MAX_POINTS) -> None:
        self.limit = max(4, limit)
        self.x = array("d")
        self.y = array("d")

    def __len__(self) -> int:
        return len(self.x)

    def append(self, x: float, y: float) -> None:
        """Add a point at the end."""
        if self.x and x <= self.x[-1]:
            self._cut(x)
        self.x.append(x)
        self.y.append(y)
        if len(self.x) > self.limit:
            self._thin()

    def prepend(self, older: Series) -> None:
        """Put older points in front; those that newer ones have replaced are left out."""
        if not self.x:
            self.x, self.y = older.x[:], older.y[:]
        else:
            keep = int(np.searchsorted(np.frombuffer(older.x), self.x[0])) if older.x else 0
            self.x = older.x[:keep] + self.x
            self.y = older.y[:keep] + self.y
        while len(self.x) > self.limit:
            self._thin()

    def arrays(self) -> tuple[Floats, Floats]:
        """Copies of x and y, float64 ``[n]``."""
        return np.array(self.x), np.array(self.y)

    def last(self) -> tuple[float, float] | None:
        """The newest point."""
        return (self.x[-1], self.y[-1]) if self.x else None

    def _cut(self, x: float) -> None:
        keep = int(np.searchsorted(np.array(self.x), x))
        del self.x[keep:]
        del self.y[keep:]

    def _thin(self) -> None:
        x, y = self.arrays()
        even = x.size // 2 * 2
        merged_x = x[:even].reshape(-1, 2).mean(axis=1)
        pairs = y[:even].reshape(-1, 2)
        # a gap next to a number must not swallow it
        merged_y = np.where(
            np.isnan(pairs).any(axis=1), np.nanmax(np.nan_to_num(pairs, nan=-np.inf), axis=1), pairs.mean(axis=1)
        )
        merged_y[np.isneginf(merged_y)] = np.nan
        self.x = array("d", np.concatenate([merged_x, x[even:]]).tobytes())
        self.y = array("d", np.concatenate([merged_y, y[even:]]).tobytes())


def smooth(y: Floats, weight: float) -> Floats:
    """Exponential moving average with the bias of its start removed; NaN is passed over.

    Args:
        y: float64 ``[n]``.
        weight: 0 (off) to below 1: the share of the past.
    """
    if weight <= 0.0 or y.size == 0:
        return y
    out = np.empty_like(y)
    total = norm = 0.0
    for place, value in enumerate(y.tolist()):
        if value == value and abs(value) != np.inf:
            total = weight * total + (1.0 - weight) * value
            norm = weight * norm + (1.0 - weight)
            out[place] = total / norm
        else:
            out[place] = np.nan
    return out
