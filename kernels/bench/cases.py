"""Cases that compare the kernels with torch and numpy, and their measurement: what ``ew2s bench`` runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import ensemw2s._native as _native
from ensemw2s.kernels.bench import baselines
from ensemw2s.kernels.bench.timing import Run, Timing, timed, wall_clock
from ensemw2s.kernels.dispatch import available_backends, combine, sample
from ensemw2s.kernels.request import Rule

#: The way that only reads the bytes: shows the memory bandwidth.
READ = "read"
#: torch refuses to draw from more categories.
MULTINOMIAL_LIMIT = 2**24
_SHARE = 0.6  # of the available memory that a case may take
_EXPERTS = 3


@dataclass(frozen=True)
class Case:
    """One computation and the ways to do it, ours first."""

    group: str
    name: str
    size: str
    make: Callable[[], Mapping[str, Run]]
    """The ways by name; ``read``, where it is one of them, just reads the bytes that ours must read."""
    memory: int = 0
    """Bytes that it needs at its peak, about: inputs, and the largest of the ways; 0 is not known."""
    bytes_moved: int = 0
    """Bytes that must be read and written at least."""
    seconds: float = 3.0
    """How long it takes, about; longer only where three rounds do."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Ways that cannot do it, and why."""


@dataclass(frozen=True)
class Result:
    """Timings of one case."""

    case: Case
    timings: tuple[Timing, ...]
    """Ours first; empty where no size of the case fits into the memory."""
    note: str | None = None
    """Why the case is smaller than usual, or was not run."""

    @property
    def ours(self) -> Timing:
        """Our way."""
        return self.timings[0]

    @property
    def others(self) -> tuple[Timing, ...]:
        """The usual ways."""
        return tuple(timing for timing in self.timings[1:] if timing.name != READ)

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second at our median time; None without ``bytes_moved``."""
        return self.case.bytes_moved / self.ours.p50 if self.case.bytes_moved else None

    @property
    def read_share(self) -> float | None:
        """Share of the bandwidth that a plain sum over the same bytes reaches; None without ``read``."""
        read = next((timing for timing in self.timings if timing.name == READ), None)
        return None if read is None else self.ours.times_faster(read)


def benchmark(
    cases: Sequence[Sequence[Case]],
    *,
    available: Callable[[Case], int],
    device: torch.device | str = "cpu",
    rounds: int = 7,
    budget: float = 75.0,
    before: Callable[[Case], None] | None = None,
) -> Iterator[Result]:
    """Measure cases; yields their results as they come.

    Args:
        cases: each in falling sizes; the first that fits into 60 % of the available memory is measured.
        available: gives the bytes that are free for a case.
        device: where they run.
        rounds: of every case; its ways run in turn in each. A case is over after its ``seconds``, but not before 3.
        budget: seconds after which one round is enough, on a slow or busy machine.
        before: called with each case before it is measured.
    """
    begin = time.monotonic()
    for sizes in cases:
        free = available(sizes[0])
        case = next((case for case in sizes if case.memory <= _SHARE * free), None)
        if case is None:
            yield Result(sizes[-1], (), f"needs {_mib(sizes[-1].memory)}, and {_mib(free)} are free")
            continue
        if before is not None:
            before(case)
        note = None
        if case is not sizes[0]:
            note = f"{sizes[0].size} would need {_mib(sizes[0].memory)}, and {_mib(free)} are free"
        least = 3 if time.monotonic() - begin < budget else 1
        stopwatch = wall_clock(torch.device(device))
        timings = timed(case.make(), rounds=max(rounds, least), seconds=case.seconds, least=least, stopwatch=stopwatch)
        yield Result(case, tuple(timings), note)


def suite(device: torch.device | str = "cpu", *, quick: bool = False) -> list[list[Case]]:
    """All cases of this module for a device, each in falling sizes.

    The reference backend computes in float64 and is left out: it is a yardstick of correctness. The samplers and the
    weight update run on the CPU whatever the device.

    Args:
        device: of the logits.
        quick: smaller cases, and fewer.
    """
    place = torch.device(device)
    backend = next((name for name in available_backends(place) if name != "reference"), None)
    cases = [] if backend is None else combine_cases(place, backend, quick=quick)
    return [*cases, *sampler_cases(quick=quick)]


def combine_cases(device: torch.device, backend: str, *, quick: bool) -> list[list[Case]]:
    """Cases of ``combine`` and ``sample``: peaked random logits of three experts."""
    rows = (512, 64, 8) if device.type == "cuda" else (64, 16, 4)
    large, small = 151_936, 50_257
    wanted: list[tuple[str, Rule, torch.dtype, int]] = [
        ("combine", "mixture", torch.float32, large),
        ("combine", "mixture", torch.bfloat16, large),
        ("sample", "mixture", torch.float32, large),
    ]
    if quick:
        wanted = [(group, rule, dtype, small) for group, rule, dtype, _ in wanted]
    else:
        wanted[:0] = [
            ("combine", "mixture", torch.float32, small),
            ("combine", "mixture", torch.bfloat16, small),
        ]
        wanted[4:4] = [
            ("combine", "product", torch.float32, large),
            ("combine", "vote", torch.float32, large),
        ]
    return [[_logits_case(device, backend, n, *what) for n in rows] for what in wanted]


def random_logits(
    experts: int, rows: int, vocabulary: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Random logits, rising α and targets.

    Returns:
        K logits ``[N, V]`` of standard deviation 3; α float32 ``[K]``, summing to 1; targets int64 ``[N]``.
    """
    generator = torch.Generator().manual_seed(vocabulary)
    logits = [(torch.randn(rows, vocabulary, generator=generator) * 3).to(dtype).to(device) for _ in range(experts)]
    alphas = torch.arange(1.0, experts + 1, device=device) / sum(range(1, experts + 1))
    return logits, alphas, torch.randint(vocabulary, (rows,), generator=generator).to(device)


def _logits_case(
    device: torch.device, backend: str, rows: int, group: str, rule: Rule, dtype: torch.dtype, vocabulary: int
) -> Case:
    def ways() -> dict[str, Run]:
        logits, alphas, targets = random_logits(_EXPERTS, rows, vocabulary, dtype, device)
        weights, read = alphas.tolist(), baselines.read_once(logits)
        if group == "sample":
            return {
                backend: lambda: sample(logits, weights, seed=1, backend=backend),
                "torch.multinomial": lambda: baselines.multinomial(logits, alphas),
                READ: read,
            }
        return {
            backend: lambda: combine(logits, weights, rule=rule, targets=targets, backend=backend),
            "torch, eager": lambda: baselines.EAGER[rule](logits, alphas, targets),
            READ: read,
        }

    numbers, name = _EXPERTS * rows * vocabulary, str(dtype).removeprefix("torch.")
    size = numbers * dtype.itemsize
    return Case(
        group,
        f"{group}, {name}" if group == "sample" else f"{group}, {rule}, {name}",
        f"K={_EXPERTS} N={rows} V={vocabulary}",
        ways,
        memory=size + numbers * (15 if dtype == torch.float32 else 20),  # eager torch's high-water mark, as measured
        bytes_moved=size,
    )


def sampler_cases(*, quick: bool) -> list[list[Case]]:
    """Cases of the weighted samplers and of the weight update; weights as a few rounds of boosting leave them."""
    sizes = (1_000_000,) if quick else (4_000_000, 1_000_000)
    updates = (5_000_000,) if quick else (20_000_000, 5_000_000)
    return [
        [_draws_case(size) for size in sizes],
        [_subset_case(size) for size in sizes],
        [_update_case(size) for size in updates],
    ]


def boosted_weights(size: int) -> NDArray[np.float64]:
    """Weights as a few rounds of boosting leave them: log-normal. float64 ``[size]``."""
    return np.random.default_rng(0).lognormal(0.0, 1.0, size)


def _draws_case(size: int) -> Case:
    def ways() -> dict[str, Run]:
        weights, rng = boosted_weights(size), np.random.default_rng(1)
        probabilities = weights / weights.sum()
        runs: dict[str, Run] = {
            "native": lambda: _native.WeightedSampler(weights).sample(size, 3, sorted=True),
            "numpy choice": lambda: rng.choice(size, size, p=probabilities),
            "numpy searchsorted": lambda: baselines.sorted_draws(weights, size, rng),
        }
        if size <= MULTINOMIAL_LIMIT:
            tensor = torch.from_numpy(weights)
            runs["torch.multinomial"] = lambda: torch.multinomial(tensor, size, replacement=True)
        return runs

    text = f"{_millions(size)} of {_millions(size)} weights"
    skipped = {"torch.multinomial": "refuses more than 2^24"} if size > MULTINOMIAL_LIMIT else {}
    return Case(
        "samplers", "draws with replacement", text, ways, memory=size * 64, seconds=size * 2.5e-6, skipped=skipped
    )


def _subset_case(size: int) -> Case:
    draws = size // 10

    def ways() -> dict[str, Run]:
        weights, rng = boosted_weights(size), np.random.default_rng(2)
        probabilities = weights / weights.sum()
        return {
            "native": lambda: _native.WeightedSampler(weights).sample(draws, 3, replacement=False),
            "numpy choice": lambda: rng.choice(size, draws, replace=False, p=probabilities),
            "numpy argpartition": lambda: baselines.keyed_draws(weights, draws, rng),
        }

    text = f"{_millions(draws)} of {_millions(size)} weights"
    return Case("samplers", "draws without replacement", text, ways, memory=size * 64)


def _update_case(size: int) -> Case:
    def ways() -> dict[str, Run]:
        wrong = np.random.default_rng(3).random(size) < 0.3
        offsets = np.arange(0, size + 1, 1000, dtype=np.int64)
        ours, theirs, scratch = (np.full(size, 1.0 / size) for _ in range(3))

        def native() -> object:
            _native.boost_update(ours, wrong, 0.01)
            return _native.segment_sum(ours, offsets)

        return {"native": native, "numpy, in place": lambda: baselines.update(theirs, wrong, 0.01, offsets, scratch)}

    moved = size * 34  # weights are read for their total, written, and read again for the sums
    text = f"{_millions(size)} weights, float64"
    return Case("updates", "weight update, segment sums", text, ways, memory=moved, bytes_moved=moved)


def _millions(count: int) -> str:
    return f"{count / 1e6:g} M"


def _mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"
