"""Joint scores of several models, and the cache of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemw2s.data.example import SplitName

Ints = NDArray[np.int64]
Shares = tuple[float, ...]


@dataclass(frozen=True)
class JointTable:
    """Joint scores of members at some rows of a split; memory maps.

    Attributes:
        rows: int64 [R], row numbers, rising.
        target_logprob: float32 [R], log-probability of each row's own token.
        argmax: int32 [R], the most probable token.
    """

    rows: Ints
    target_logprob: NDArray[np.float32]
    argmax: NDArray[np.int32]

    def argmax_at(self, rows: Ints) -> Ints:
        """The most probable tokens at some of the rows."""
        place = np.searchsorted(self.rows, rows)
        if rows.size and not np.array_equal(self.rows[np.minimum(place, self.rows.size - 1)], rows):
            raise RuntimeError("joint scores lack a position that is open")
        return np.asarray(self.argmax[place], dtype=np.int64)


class JointTables:
    """Cache: split, members (their stages) and normalised weights → joint scores, None where no row is open."""

    def __init__(self) -> None:
        self._found: dict[object, JointTable | None] = {}

    @staticmethod
    def _key(members: Sequence[str], shares: Shares, split: SplitName) -> object:
        return split, tuple((name, share) for name, share in zip(members, shares, strict=True) if share > 0.0)

    def put(self, members: Sequence[str], shares: Shares, split: SplitName, table: JointTable | None) -> None:
        """Keep joint scores."""
        self._found[self._key(members, shares, split)] = table

    def get(self, members: Sequence[str], shares: Shares, split: SplitName) -> JointTable | None:
        """Joint scores that were kept; RuntimeError if there are none."""
        key = self._key(members, shares, split)
        if key not in self._found:
            raise RuntimeError(f"no joint scores were prepared for {list(members)} on {split}")
        return self._found[key]
