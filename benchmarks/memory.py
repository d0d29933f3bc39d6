"""The allocator and the memory that a run needs, on Linux."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ensemw2s.kernels.bench.timing import Run

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
