"""What the benchmarks of this folder add to a case of ``ensemw2s.kernels.bench``: goals, and facts for a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ensemw2s.kernels.bench.cases import Case

#: Ours on inputs that stay in the cache: how much of the time is arithmetic and not memory.
CACHED = "native, rows from cache"


@dataclass(frozen=True)
class Goal:
    """What a ratio, or a share of the read bandwidth, should reach."""

    name: str
    against: tuple[str, ...]
    """The ways that ours is compared with: the fastest of them counts. ``("read",)``: a share of the bandwidth."""
    safe: float
    stretch: float


@dataclass(frozen=True)
class LongCase(Case):
    """A case of the long benchmarks."""

    goals: Sequence[Goal] = ()
    read_bytes: int | None = None
    """What ``read`` reads, where that is not ``bytes_moved``."""
    tuned: frozenset[str] = frozenset()
    """Ways whose memory the allocator keeps, see :func:`memory.reused_memory`."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further columns of its row in a table: sizes, agreement with float64."""


def markdown_table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with these columns."""
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"
