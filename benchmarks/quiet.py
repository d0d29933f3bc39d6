"""CPU use of other processes, from ``/proc/stat``; None where there is none."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class Usage:
    """Seconds of all cores since some moment."""

    busy: float
    total: float
    own: float

    @classmethod
    def now(cls) -> Usage | None:
        """The counters now; None where there are none."""
        if not _STAT.exists():
            return None
        fields = [int(x) / _TICKS for x in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
        total, idle = sum(fields), fields[3] + fields[4]
        spent = os.times()
        return cls(total - idle, total, spent.user + spent.system)

    def others_since(self, before: Usage) -> float:
        """Share of all cores that other processes (and other machines on the host) had in between."""
        total = max(self.total - before.total, 1e-9)
        return max(0.0, (self.busy - before.busy) - (self.own - before.own)) / total


def wait_until_quiet(patience: float, *, limit: float = 0.05) -> bool:
    """Wait until others use less than ``limit`` of the cores for two seconds; whether that happened in time."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        before = Usage.now()
        time.sleep(2.0)
        after = Usage.now()
        if before is None or after is None or after.others_since(before) < limit:
            return True
    return False
