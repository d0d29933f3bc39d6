"""A short comparison of the backends with plain torch on this machine, and the timing that all benchmarks share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ensemw2s.kernels.dispatch import available_backends, combine

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


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One line of the table of :func:`benchmark`."""

    dtype: str
    experts: int
    rows: int
    vocabulary: int
    timing: Timing
    bandwidth: float
    """Bytes of logits per second of the median."""
    read_share: float
    """That as a share of what a plain sum over the same bytes reaches in the same run."""
    speedup: float
    """Against eager torch."""


def eager(logits: Sequence[Tensor], alphas: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """What ``combine`` gives, as one would write it in torch: every expert's log-softmax, then their mixture.

    Args:
        logits: K tensors ``[N, V]``.
        alphas: float32 ``[K]``, summing to 1.
        targets: int64 ``[N]``.

    Returns:
        ``argmax``, ``logprob``, ``target_logprob``, ``expert_argmax``, ``logsumexp``, ``expert_target_logprob``.
    """
    wide = [part.float() for part in logits]
    own = [torch.log_softmax(part, dim=-1) for part in wide]
    mixed = torch.logsumexp(torch.stack(own) + alphas.log()[:, None, None], dim=0)
    column = targets[:, None]
    logprob, argmax = mixed.max(dim=-1)
    return (
        argmax,
        logprob,
        mixed.gather(-1, column)[:, 0],
        torch.stack([part.argmax(dim=-1) for part in wide]),
        torch.stack([torch.logsumexp(part, dim=-1) for part in wide]),
        torch.stack([part.gather(-1, column)[:, 0] for part in own]),
    )


def timed(
    runs: Mapping[str, Run], *, rounds: int = 9, seconds: float = 20.0, device: torch.device | None = None
) -> list[Timing]:
    """Time several ways in turn, round after round, so that other work on the machine disturbs all alike.

    Args:
        runs: what to time, by name; each runs once before.
        rounds: number of rounds, at least 3.
        seconds: stop after this long, with at least 3 rounds.
        device: a GPU to wait for.
    """
    names = list(runs)
    found: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        runs[name]()
    begin = time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - begin > seconds:
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


def benchmark(
    *,
    device: torch.device | str = "cpu",
    shapes: Sequence[tuple[int, int, int]] = ((3, 64, 50_257), (3, 64, 151_936)),
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
    rounds: int = 7,
) -> Iterator[BenchRow]:
    """Compare the backends for a device with eager torch; yields the rows of each shape as they come.

    The reference computes in float64 and is left out: it is a yardstick of correctness.

    Args:
        device: where to run.
        shapes: ``(K, N, V)`` each.
        dtypes: of the logits.
        rounds: of every shape.
    """
    place = torch.device(device)
    backends = [name for name in available_backends(place) if name != "reference"]
    for dtype in dtypes:
        for experts, rows, vocabulary in shapes:
            logits = [(torch.randn(rows, vocabulary, device=place) * 3).to(dtype) for _ in range(experts)]
            alphas = torch.full((experts,), 1.0 / experts, device=place)
            targets = torch.randint(vocabulary, (rows,), device=place)
            runs: dict[str, Run] = {"read": read_once(logits), "eager": _eager_run(logits, alphas, targets)}
            for name in backends:
                runs[name] = _backend_run(name, logits, alphas, targets)
            timings = {t.name: t for t in timed(runs, rounds=rounds, device=place)}
            size = sum(part.numel() * part.element_size() for part in logits)
            for name in ("eager", *backends):
                timing = timings[name]
                yield BenchRow(
                    dtype=str(dtype).removeprefix("torch."),
                    experts=experts,
                    rows=rows,
                    vocabulary=vocabulary,
                    timing=timing,
                    bandwidth=size / timing.p50,
                    read_share=timing.times_faster(timings["read"]),
                    speedup=timing.times_faster(timings["eager"]),
                )


def read_once(logits: Sequence[Tensor]) -> Run:
    """Reads the logits' bytes once, as fast as torch does: sums of rows, of two-byte numbers in pairs as float32."""
    flat = [part.reshape(-1) for part in logits]
    whole = [part[: len(part) // 256 * 256] for part in flat]
    views = [part.view(torch.float32).view(128 if part.element_size() == 2 else 256, -1) for part in whole]
    return lambda: [part.sum(dim=1) for part in views]


def _eager_run(logits: Sequence[Tensor], alphas: Tensor, targets: Tensor) -> Run:
    return lambda: eager(logits, alphas, targets)


def _backend_run(name: str, logits: Sequence[Tensor], alphas: Tensor, targets: Tensor) -> Run:
    weights = alphas.tolist()
    return lambda: combine(logits, weights, targets=targets, backend=name)


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[round((len(ordered) - 1) * percent / 100)]
