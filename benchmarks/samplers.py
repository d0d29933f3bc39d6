"""Cases of the weighted samplers, and of the weight update with its segment sums, against numpy and torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from case import Goal, LongCase
from numpy.typing import NDArray

import ensemw2s._native as _native
from ensemw2s.kernels.bench import baselines
from ensemw2s.kernels.bench.cases import MULTINOMIAL_LIMIT, READ, boosted_weights
from ensemw2s.kernels.bench.timing import Run

Weights = NDArray[np.float64]
SEGMENT = 1000  # tokens


def sampler_cases(*, quick: bool) -> Iterator[LongCase]:
    """As many draws as weights, at most 1e7."""
    for size in (1_000_000,) if quick else (1_000_000, 10_000_000, 50_000_000):
        yield _iid_case(size)
        yield _without_replacement_case(size)
    if not quick:
        yield _iid_case(100_000_000, mapped=True)


def update_cases(*, quick: bool) -> Iterator[LongCase]:
    """One update and the sums of all segments."""
    for dtype in (np.float64, np.float32):
        for known in (False, True):
            yield _update_case(5_000_000 if quick else 50_000_000, dtype, known=known)


def _mapped(weights: Weights) -> Weights:
    """The same weights as a memory-mapped file, which is gone when its process ends."""
    with tempfile.TemporaryFile() as file:
        weights.tofile(file)
        return np.memmap(file, dtype=weights.dtype, mode="c")


def _iid_case(size: int, *, mapped: bool = False) -> LongCase:
    draws = min(size, 10_000_000)
    goals = [
        Goal("iid draws, against numpy choice", ("numpy choice",), 100, 200),
        Goal("iid draws, against numpy sorted uniforms", ("numpy sorted uniforms",), 5, 8),
    ]
    return LongCase(
        "samplers",
        f"{draws:.0e} draws",
        f"of {size:.0e} weights{', memory-mapped' if mapped else ''}",
        partial(_iid_ways, size, draws, mapped),
        bytes_moved=size * 8 + draws * 8,
        goals=goals if size >= 10_000_000 else (),
        read_bytes=size * 8,
        skipped={} if size <= MULTINOMIAL_LIMIT else {"torch.multinomial": "refuses more than 2^24 categories"},
    )


def _iid_ways(size: int, draws: int, mapped: bool) -> dict[str, Run]:
    weights = _mapped(boosted_weights(size)) if mapped else boosted_weights(size)
    probabilities = weights / weights.sum()
    rng = np.random.default_rng(1)
    table = _native.WeightedSampler(weights)
    table.sample(1, 0)  # the table is made at the first draw
    tensor = torch.from_numpy(weights)
    runs: dict[str, Run] = {
        "native, sorted": lambda: _native.WeightedSampler(weights).sample(draws, 3, sorted=True),
        "native, in order of drawing": lambda: _native.WeightedSampler(weights).sample(draws, 3),
        "native, table kept": lambda: table.sample(draws, 3),
        "numpy choice": lambda: rng.choice(size, draws, p=probabilities),
        "numpy sorted uniforms": lambda: baselines.sorted_draws(weights, draws, rng),
        READ: baselines.read_once([tensor]),
    }
    if size <= MULTINOMIAL_LIMIT:
        runs["torch.multinomial"] = lambda: torch.multinomial(tensor, draws, replacement=True)
    return runs


def _without_replacement_case(size: int) -> LongCase:
    draws = size // 10
    goals = [
        Goal("draws without replacement, against numpy choice", ("numpy choice",), 30, 60),
        Goal("draws without replacement, against numpy keys", ("numpy keys, argpartition",), 2, 4),
    ]
    return LongCase(
        "samplers",
        f"{draws:.0e} draws without replacement",
        f"of {size:.0e} weights",
        partial(_without_replacement_ways, size, draws),
        bytes_moved=size * 8 + draws * 8,
        goals=goals if size >= 10_000_000 else (),
        read_bytes=size * 8,
    )


def _without_replacement_ways(size: int, draws: int) -> dict[str, Run]:
    weights = boosted_weights(size)
    probabilities = weights / weights.sum()
    rng = np.random.default_rng(2)
    sampler = _native.WeightedSampler(weights)
    return {
        "native": lambda: sampler.sample(draws, 3, replacement=False),
        "numpy choice": lambda: rng.choice(size, draws, replace=False, p=probabilities),
        "numpy keys, argpartition": lambda: baselines.keyed_draws(weights, draws, rng),
        READ: baselines.read_once([torch.from_numpy(weights)]),
    }


def _update_case(size: int, dtype: type[np.floating], *, known: bool) -> LongCase:
    """``known``: the sum to divide by is there before the weights are read."""
    name, wide, item = np.dtype(dtype).name, dtype is np.float64, np.dtype(dtype).itemsize
    against = ("numpy, in place", "numpy, in place, masked", *(["numpy, in place, sum known"] if known else []))
    goals = [Goal("weight update and segment sums, against numpy", against, 5 if wide else 4, 8 if wide else 6)]
    return LongCase(
        "updates",
        "update",
        f"of {size:.0e} weights {name}, {size // SEGMENT} segments{', sum known' if known else ''}",
        partial(_update_ways, size, dtype, known),
        # weights are read and written; where the sum is not known, they and `wrong` are read once more for it
        bytes_moved=size * (2 * item + 1 if known else 3 * item + 2),
        goals=goals if size >= 50_000_000 else (),
        read_bytes=size * item,
    )


def _update_ways(size: int, dtype: type[np.floating], known: bool) -> dict[str, Run]:
    """The boosting loop has the sum from the weighted error. Here it is the last update's, so that the weights are the
    distribution up to a factor that is known."""
    rng = np.random.default_rng(3)
    wrong = rng.random(size) < 0.3
    offsets = np.arange(0, size + 1, SEGMENT, dtype=np.int64)
    ours, formula, masked, lazy = (np.full(size, 1.0 / size, dtype=dtype) for _ in range(4))
    scratch = np.empty(size, dtype=dtype)
    alpha, factor = 0.01, dtype(np.exp(0.01))
    total = {"native": 1.0, "numpy": 1.0}

    def native() -> object:
        return _native.boost_update(ours, wrong, alpha, offsets=offsets)["segment_sums"]

    def native_known() -> object:
        result = _native.boost_update(ours, wrong, alpha, total=total["native"], offsets=offsets)
        total["native"] = result["sum"]
        return result["segment_sums"]

    def by_mask() -> object:
        np.multiply(masked, factor, out=masked, where=wrong)
        np.divide(masked, masked.sum(), out=masked)
        return np.add.reduceat(masked, offsets[:-1])

    def by_formula_known() -> object:
        np.multiply(wrong, dtype(alpha), out=scratch)
        np.exp(scratch, out=scratch)
        np.divide(scratch, dtype(total["numpy"]), out=scratch)
        np.multiply(lazy, scratch, out=lazy)
        sums = np.add.reduceat(lazy, offsets[:-1])
        total["numpy"] = float(sums.sum())
        return sums

    runs: dict[str, Run] = {
        "native": native_known if known else native,
        "numpy, in place": lambda: baselines.update(formula, wrong, alpha, offsets, scratch),
        "numpy, in place, masked": by_mask,
    }
    if known:
        runs["numpy, in place, sum known"] = by_formula_known
    return {**runs, READ: baselines.read_once([torch.from_numpy(ours)])}
