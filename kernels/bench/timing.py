"""Timing that all benchmarks share: ways to do one piece of work, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Run = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall-clock seconds of one way to do a piece of work: the 20th, 50th and 80th percentile over rounds."""

    name: str
    p20: float
    p50: float
    p80: float
    rounds: tuple[float, ...]

    def times_faster(self, other: Timing) -> float:
        """By how much this one is faster: the median over rounds, each of which ran both, of the ratio."""
        ratios = sorted(b / a for a, b in zip(self.rounds, other.rounds, strict=True))
        return ratios[len(ratios) // 2]


def timed(
    runs: Mapping[str, Run],
    *,
    rounds: int = 9,
    seconds: float = 20.0,
    least: int = 3,
    device: torch.device | None = None,
) -> list[Timing]:
    """Time several ways in turn, round after round, so that other work on the machine disturbs all alike.

    Args:
        runs: what to time, by name; each runs once before.
        rounds: number of rounds, at least ``least``.
        seconds: stop after this long, with at least ``least`` rounds.
        least: number of rounds that are always run.
        device: a GPU to wait for.
    """
    names = list(runs)
    found: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        runs[name]()
    begin = time.perf_counter()
    for number in range(rounds):
        if number >= least and time.perf_counter() - begin > seconds:
            break
        for name in names:
            _wait(device)
            start = time.perf_counter()
            runs[name]()
            _wait(device)
            found[name].append(time.perf_counter() - start)
    return [_timing(name, tuple(found[name])) for name in names]


def _timing(name: str, rounds: tuple[float, ...]) -> Timing:
    p20, p50, p80 = (_percentile(rounds, p) for p in (20, 50, 80))
    return Timing(name, p20, p50, p80, rounds)


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[round((len(ordered) - 1) * percent / 100)]
