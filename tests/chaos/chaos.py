"""Breaks runs on purpose and checks that nothing is lost: kills, a full disk, damage, links, clocks, two starts.

Every fault happens to the real command line in a process of its own. Afterwards the same command must finish with the
numbers of a run that was left alone, or refuse in words; nothing outside may change. Ends with 1 on any loss.

    python -P tests/chaos/chaos.py [--share 0.1] [--only KIND] [--seed N]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from faults import TARGETS, Bench, Fault, LossError, Target, damages, interruptions, links, others
from worker import Worker


def targets_of(share: float) -> tuple[Target, ...]:
    """The commands that faults happen to."""
    return TARGETS if share >= 0.2 else TARGETS[:4]


def all_faults(bench: Bench, share: float) -> Iterator[Fault]:
    """All faults, or a share of each kind."""
    targets = targets_of(share)
    yield from others(bench, targets, share)
    yield from links(bench, share)
    yield from interruptions(bench, targets, share)
    yield from damages(bench, share)


def main() -> int:
    """Run the faults; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--share", type=float, default=1.0, help="of all faults; below a fifth the slow commands are left out"
    )
    parser.add_argument("--only", help="faults of a kind, or with this in their name")
    parser.add_argument("--seed", type=int, default=0, help="decides where faults happen")
    options = parser.parse_args()
    started = time.monotonic()
    ended: Counter[tuple[str, str]] = Counter()
    losses: list[str] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        worker = Worker(Path(folder))
        bench = Bench(worker, Path(folder), random.Random(options.seed))
        bench.prepare(targets_of(options.share))
        for fault in all_faults(bench, options.share):
            if options.only and options.only not in (fault.kind, fault.name) and options.only not in fault.name:
                continue
            try:
                ended[fault.kind, fault.happen(bench)] += 1
            except LossError as loss:
                ended[fault.kind, "LOST"] += 1
                losses.append(f"{fault.kind}: {fault.name}: {loss}")
                print(f"LOST  {losses[-1]}", flush=True)
        worker.close()
    print(f"\n{'fault':<14} {'outcome':<30} {'count':>5}")
    for (kind, how), count in sorted(ended.items()):
        print(f"{kind:<14} {how:<30} {count:>5}")
    print(
        f"{sum(ended.values())} faults, {len(losses)} losses, {time.monotonic() - started:.0f} s, seed {options.seed}"
    )
    return 1 if losses or not ended else 0


if __name__ == "__main__":
    sys.exit(main())
