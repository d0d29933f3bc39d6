"""What is measured: one factory of cases, used for time and for memory.

A case is one piece of work with several ways to do it, of which one is ours. All of them run on the same data, in turn.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

Run = Callable[[], object]

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


@dataclass
class Case:
    """One piece of work."""

    name: str
    ours: str
    runs: dict[str, Run]
    """The ways to do it, by name; ``read`` just reads the bytes."""
    bytes_moved: int
    """The least number of bytes that must move: the roofline."""
    goals: list[Goal] = field(default_factory=list)
    read_bytes: int | None = None
    """What ``read`` reads, where that is not ``bytes_moved``."""
    tuned: frozenset[str] = frozenset()
    """Runs whose memory the allocator keeps, see :func:`reused_memory`."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Ways that cannot do it, and why."""


def cases(*, quick: bool, only: str | None) -> Iterator[Callable[[], Case]]:
    """Makers of the cases, so that one case's data are gone before the next one's are made."""
    from combine import combine_cases
    from samplers import sampler_cases, update_cases

    makers = {"combine": combine_cases, "samplers": sampler_cases, "updates": update_cases}
    for name, maker in makers.items():
        if only in (None, name):
            yield from maker(quick=quick)


_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # of mallopt, see malloc.h


@contextmanager
def reused_memory() -> Iterator[bool]:
    """While inside, glibc's allocator keeps freed memory instead of giving it back; yields whether it does.

    By default a large buffer comes fresh from the system each time, and its page faults cost more than the work.
    Afterwards the allocator is not quite what it was: its thresholds no longer adapt. So a process measures the plain
    ways first.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        yield False
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield True
    finally:
        libc.mallopt(_MMAP_MAX, 65536)
        libc.mallopt(_TRIM_THRESHOLD, 128 * 1024)
        libc.malloc_trim(0)


def extra_memory(run: Run) -> int | None:
    """Bytes of memory that a run needs at its peak beyond what is resident before it; None where Linux does not say."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    run()
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)  # what the allocator kept of the first run would hide the second one's
    try:
        clear.write_text("5")  # resets the high-water mark
        before = _status(status, "VmRSS")
    except OSError:
        return None
    result = run()
    peak = _status(status, "VmHWM")
    del result
    return max(0, peak - before)


def _status(status: Path, key: str) -> int:
    for line in status.read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{status} has no {key}")
