"""Cases of the weighted samplers, and of the weight update with its segment sums, against numpy and torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from setups import Case, Goal, Run

from ensemw2s import _native

_MULTINOMIAL_LIMIT = 2**24
Weights = NDArray[np.float64]


def sampler_cases(*, quick: bool) -> Iterator[Callable[[], Case]]:
    """Weights as a few rounds of boosting leave them: log-normal. As many draws as weights, at most 1e7."""
    for size in (1_000_000,) if quick else (1_000_000, 10_000_000, 50_000_000):
        yield partial(_iid_case, size)
        yield partial(_without_replacement_case, size)
    if not quick:
        yield partial(_iid_case, 100_000_000, mapped=True)


def update_cases(*, quick: bool) -> Iterator[Callable[[], Case]]:
    """One update and the sums of all segments (texts of 1000 tokens)."""
    for dtype in (np.float64, np.float32):
        for known in (False, True):
            yield partial(_update_case, 5_000_000 if quick else 50_000_000, dtype, known=known)


def _weights(size: int) -> Weights:
    return np.random.default_rng(0).lognormal(0.0, 1.0, size)


def _numpy_sorted(weights: Weights, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    cumulative = np.cumsum(weights)
    uniforms = rng.random(draws)
    uniforms.sort()
    return np.searchsorted(cumulative, uniforms * cumulative[-1], side="right")


def _mapped(weights: Weights) -> Weights:
    """The same weights as a memory-mapped file, which is gone when its process ends."""
    with tempfile.TemporaryFile() as file:
        weights.tofile(file)
        return np.memmap(file, dtype=weights.dtype, mode="c")


def _iid_case(size: int, *, mapped: bool = False) -> Case:
    weights, draws = _mapped(_weights(size)) if mapped else _weights(size), min(size, 10_000_000)
    probabilities = weights / weights.sum()
    rng = np.random.default_rng(1)
    table = _native.WeightedSampler(weights)
    table.sample(1, 0)  # the table is made at the first draw
    runs: dict[str, Run] = {
        "native, sorted": lambda: _native.WeightedSampler(weights).sample(draws, 3, sorted=True),
        "native, in order of drawing": lambda: _native.WeightedSampler(weights).sample(draws, 3),
        "native, table kept": lambda: table.sample(draws, 3),
        "numpy choice": lambda: rng.choice(size, draws, p=probabilities),
        "numpy sorted uniforms": lambda: _numpy_sorted(weights, draws, rng),
        "read": _read(weights),
    }
    skipped = {}
    if size <= _MULTINOMIAL_LIMIT:
        tensor = torch.from_numpy(weights)
        runs["torch.multinomial"] = lambda: torch.multinomial(tensor, draws, replacement=True)
    else:
        skipped["torch.multinomial"] = "refuses more than 2^24 categories"
    goals = []
    if size >= 10_000_000:
        goals = [
            Goal("iid draws, against numpy choice", ("numpy choice",), 100, 200),
            Goal("iid draws, against numpy sorted uniforms", ("numpy sorted uniforms",), 5, 8),
        ]
    name = f"{draws:.0e} draws of {size:.0e} weights{', memory-mapped' if mapped else ''}"
    return Case(name, "native, sorted", runs, size * 8 + draws * 8, goals, size * 8, skipped=skipped)


def _numpy_keys(weights: Weights, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    keys = rng.standard_exponential(len(weights))
    keys /= weights
    return np.argpartition(keys, draws)[:draws]


def _without_replacement_case(size: int) -> Case:
    weights, draws = _weights(size), size // 10
    probabilities = weights / weights.sum()
    rng = np.random.default_rng(2)
    sampler = _native.WeightedSampler(weights)
    runs: dict[str, Run] = {
        "native": lambda: sampler.sample(draws, 3, replacement=False),
        "numpy choice": lambda: rng.choice(size, draws, replace=False, p=probabilities),
        "numpy keys, argpartition": lambda: _numpy_keys(weights, draws, rng),
        "read": _read(weights),
    }
    goals = []
    if size >= 10_000_000:
        goals = [
            Goal("draws without replacement, against numpy choice", ("numpy choice",), 30, 60),
            Goal("draws without replacement, against numpy keys", ("numpy keys, argpartition",), 2, 4),
        ]
    name = f"{draws:.0e} draws without replacement of {size:.0e} weights"
    return Case(name, "native", runs, size * 8 + draws * 8, goals, size * 8)


def _update_case(size: int, dtype: type[np.floating], *, known: bool) -> Case:
    """``known``: the sum to divide by is there before the weights are read.

    The boosting loop has it from the weighted error. Here it is the last update's, so that the weights are the
    distribution up to a factor that is known.
    """
    rng = np.random.default_rng(3)
    wrong = rng.random(size) < 0.3
    offsets = np.arange(0, size + 1, 1000, dtype=np.int64)
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

    def by_formula() -> object:
        np.multiply(wrong, dtype(alpha), out=scratch)
        np.exp(scratch, out=scratch)
        np.multiply(formula, scratch, out=formula)
        np.divide(formula, formula.sum(), out=formula)
        return np.add.reduceat(formula, offsets[:-1])

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
        "numpy, in place": by_formula,
        "numpy, in place, masked": by_mask,
    }
    if known:
        runs["numpy, in place, sum known"] = by_formula_known
    runs["read"] = _read(ours)
    name, wide = np.dtype(dtype).name, dtype is np.float64
    against = tuple(way for way in runs if way.startswith("numpy"))
    goals = (
        [Goal("weight update and segment sums, against numpy", against, 5 if wide else 4, 8 if wide else 6)]
        if size >= 50_000_000
        else []
    )
    title = f"update of {size:.0e} weights {name}, {len(offsets) - 1} segments{', sum known' if known else ''}"
    # weights are read and written; where the sum is not known, they and `wrong` are read once more for it
    item = np.dtype(dtype).itemsize
    moved = size * (2 * item + 1 if known else 3 * item + 2)
    return Case(title, "native", runs, moved, goals, size * item)


def _read(values: NDArray[np.floating]) -> Run:
    tensor = torch.from_numpy(values)[: len(values) // 256 * 256].view(256, -1)
    return lambda: tensor.sum(dim=1)
