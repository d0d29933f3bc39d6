"""A canvas of braille dots, two by four to a character, with one colour a character."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ensemw2s.cli.dashboard.model.series import Floats

Ints = npt.NDArray[np.int64]

#: Bit of the dot in (row, column) of a braille character.
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.int64)
BLANK = 0x2800


class Canvas:
    """Dots to draw on.

    Args:
        width: in characters.
        height: in characters.

    Attributes:
        bits: int64 ``[height, width]``, the dots of each character.
        ink: int64 ``[height, width]``, number of the last series drawn there; −1 for none.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width = max(1, width)
        self.height = max(1, height)
        self.bits: Ints = np.zeros((self.height, self.width), dtype=np.int64)
        self.ink: Ints = np.full((self.height, self.width), -1, dtype=np.int64)

    @property
    def dots(self) -> tuple[int, int]:
        """Columns and rows of dots."""
        return self.width * 2, self.height * 4

    def points(self, columns: Ints, rows: Ints, ink: int) -> None:
        """Set dots; those outside are left out. Row 0 is at the top."""
        inside = (columns >= 0) & (columns < self.width * 2) & (rows >= 0) & (rows < self.height * 4)
        columns, rows = columns[inside], rows[inside]
        cells = (rows >> 2) * self.width + (columns >> 1)
        np.bitwise_or.at(self.bits.reshape(-1), cells, _BITS[rows & 3, columns & 1])
        self.ink.reshape(-1)[cells] = ink

    def line(self, x: Floats, y: Floats, ink: int) -> None:
        """Join points by straight lines; NaN interrupts.

        Args:
            x: columns of dots, float64 ``[n]``.
            y: rows of dots, float64 ``[n]``.
            ink: number of the series.
        """
        good = np.isfinite(x) & np.isfinite(y)
        # what lies far outside of the canvas is not followed there, and must stay a whole number
        reach = 4.0 * max(self.dots)
        x, y = np.clip(x, -reach, reach), np.clip(y, -reach, reach)
        alone = good & ~(np.concatenate([[False], good[:-1]]) | np.concatenate([good[1:], [False]]))
        if alone.any():
            self.points(np.rint(x[alone]).astype(np.int64), np.rint(y[alone]).astype(np.int64), ink)
        joined = good[:-1] & good[1:]
        if not joined.any():
            return
        x0, x1, y0, y1 = x[:-1][joined], x[1:][joined], y[:-1][joined], y[1:][joined]
        steps = np.maximum(np.ceil(np.maximum(np.abs(x1 - x0), np.abs(y1 - y0))), 1).astype(np.int64) + 1
        total = int(steps.sum())
        segment = np.repeat(np.arange(steps.size), steps)
        place = np.arange(total) - np.repeat(np.cumsum(steps) - steps, steps)
        part = place / (steps[segment] - 1)
        columns = np.rint(x0[segment] + part * (x1 - x0)[segment]).astype(np.int64)
        rows = np.rint(y0[segment] + part * (y1 - y0)[segment]).astype(np.int64)
        self.points(columns, rows, ink)

    def characters(self) -> npt.NDArray[np.str_]:
        """The characters, ``[height, width]``; a space where there is no dot."""
        codes = np.where(self.bits > 0, self.bits + BLANK, 0x20).astype(np.uint32)
        chars: npt.NDArray[np.str_] = np.ascontiguousarray(codes).view("<U1").reshape(self.height, self.width)
        return chars


def thin(x: Floats, y: Floats, columns: Ints, width: int) -> tuple[Floats, Floats]:
    """At most four points a column of dots that draw the same line: first, lowest, highest, last.

    Args:
        x: float64 ``[n]``, ascending.
        y: float64 ``[n]``.
        columns: int64 ``[n]``, the column of each point, ascending.
        width: number of columns.
    """
    if x.size <= 4 * width or x.size == 0:
        return x, y
    starts = np.flatnonzero(np.concatenate([[True], columns[1:] != columns[:-1]]))
    ends = np.concatenate([starts[1:], [x.size]])
    filled_low = np.where(np.isnan(y), np.inf, y)
    filled_high = np.where(np.isnan(y), -np.inf, y)
    low = np.minimum.reduceat(filled_low, starts)
    high = np.maximum.reduceat(filled_high, starts)
    empty = np.isinf(low) & np.isinf(high)
    low[empty], high[empty] = np.nan, np.nan
    ys = np.stack([y[starts], low, high, y[ends - 1]], axis=1)
    # a NaN at the border of a column must not cut a line that goes on inside it
    ys[:, 0] = np.where(np.isnan(ys[:, 0]), low, ys[:, 0])
    ys[:, 3] = np.where(np.isnan(ys[:, 3]), high, ys[:, 3])
    xs = np.repeat(columns[starts].astype(np.float64), 4)
    return xs, ys.reshape(-1)
