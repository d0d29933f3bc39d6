"""Timing that all benchmarks share: the ways of a case run in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Run = Callable[[], object]
Stopwatch = Callable[[Run], float]
"""Runs once; gives the seconds that it took."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall-clock seconds of one way to do a piece of work: the 20th, 50th and 80th percentile over rounds."""

    name: str
    p20: float
    p50: float
    p80: float
    rounds: tuple[float, ...]

    def times_faster(self, other: Timing) -> float:
        """Speed-up over ``other``: the median over rounds of the ratio of their times."""
        ratios = sorted(b / a for a, b in zip(self.rounds, other.rounds, strict=True))
        return ratios[len(ratios) // 2]


def wall_clock(device: torch.device | None = None) -> Stopwatch:
    """Seconds from call to return; on a GPU until its work is done."""

    def seconds(run: Run) -> float:
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        return time.perf_counter() - start

    return seconds


def timed(
    runs: Mapping[str, Run],
    *,
    rounds: int = 9,
    seconds: float = 20.0,
    least: int = 3,
    stopwatch: Stopwatch | None = None,
) -> list[Timing]:
    """Time several ways in turn, round after round, so that other work on the machine disturbs all alike.

    Args:
        runs: what to time, by name; each runs once before.
        rounds: number of rounds, at least ``least``.
        seconds: stop after this long, with at least ``least`` rounds.
        least: number of rounds that are always run.
        stopwatch: default :func:`wall_clock` of the CPU.
    """
    stopwatch = stopwatch or wall_clock()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    begin = time.perf_counter()
    for number in range(rounds):
        if number >= least and time.perf_counter() - begin > seconds:
            break
        for name, run in runs.items():
            found[name].append(stopwatch(run))
    return [_timing(name, tuple(times)) for name, times in found.items()]


def _timing(name: str, rounds: tuple[float, ...]) -> Timing:
    p20, p50, p80 = (_percentile(rounds, p) for p in (20, 50, 80))
    return Timing(name, p20, p50, p80, rounds)


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[round((len(ordered) - 1) * percent / 100)]
