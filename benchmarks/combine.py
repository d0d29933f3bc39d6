"""Cases of ``kernels.combine`` on the CPU: against eager torch and ``torch.compile`` in two formulations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from case import CACHED, Goal, LongCase
from torch import Tensor

from ensemw2s.kernels import combine, sample
from ensemw2s.kernels.bench.baselines import eager, multinomial, read_once
from ensemw2s.kernels.bench.cases import READ, random_logits
from ensemw2s.kernels.bench.timing import Run

ROWS = 64

_FORMATS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def two_sweeps(logits: Sequence[Tensor], alphas: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """The other formulation: log-sum-exps first, then one sweep that mixes probabilities and finds the largest."""
    wide = [part.float() for part in logits]
    norms = [torch.logsumexp(part, dim=-1) for part in wide]
    mixed = sum(alpha * torch.exp(part - norm[:, None]) for alpha, part, norm in zip(alphas, wide, norms, strict=True))
    column = targets[:, None]
    best, argmax = mixed.max(dim=-1)
    return (
        argmax,
        best.log(),
        mixed.gather(-1, column)[:, 0].log(),
        torch.stack([part.argmax(dim=-1) for part in wide]),
        torch.stack(norms),
        torch.stack([(part.gather(-1, column)[:, 0] - norm) for part, norm in zip(wide, norms, strict=True)]),
    )


def whole_row(logits: Sequence[Tensor], alphas: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Eager torch with the whole combined distribution among the results."""
    own = [torch.log_softmax(part.float(), dim=-1) for part in logits]
    mixed = torch.logsumexp(torch.stack(own) + alphas.log()[:, None, None], dim=0)
    return mixed, mixed.argmax(dim=-1), mixed.gather(-1, targets[:, None])


def combine_cases(*, quick: bool) -> Iterator[LongCase]:
    """Random logits of standard deviation 3, N = 64 rows; the shapes and types of the goals."""
    shapes = [(3, 50_257), (3, 151_936)] if quick else [(3, 50_257), (5, 50_257), (3, 151_936), (5, 151_936)]
    for dtype in (torch.float32, torch.bfloat16) if quick else _FORMATS:
        for experts, vocabulary in shapes:
            yield _combine_case(dtype, experts, vocabulary, compiled=not quick and dtype != torch.float16)
    yield _whole_row_case(torch.float32, 3, 151_936)
    if not quick:
        yield _whole_row_case(torch.bfloat16, 3, 151_936)
        yield _sample_case(3, 151_936)


def _size(dtype: torch.dtype, experts: int, vocabulary: int) -> tuple[str, int]:
    """The shape in words, and the bytes of the logits."""
    return f"K={experts} N={ROWS} V={vocabulary}", experts * ROWS * vocabulary * dtype.itemsize


def _combine_case(dtype: torch.dtype, experts: int, vocabulary: int, *, compiled: bool) -> LongCase:
    text, size = _size(dtype, experts, vocabulary)
    wide = dtype == torch.float32
    goals = [
        Goal("combine, against eager", ("eager",), 15 if wide else 25, 40 if wide else 60),
        Goal("combine, against eager with memory reused", ("eager, memory reused",), 8, 12),
    ]
    if wide and vocabulary > 100_000:
        goals.append(Goal("combine float32, share of the read bandwidth", (READ,), 0.5, 0.75))
    if compiled:
        goals.append(Goal("combine, against the better torch.compile", ("compile 1", "compile 2"), 2.5, 8))
    return LongCase(
        "combine",
        f"combine {_FORMATS[dtype]}",
        text,
        partial(_combine_ways, dtype, experts, vocabulary, compiled=compiled),
        bytes_moved=size,
        goals=goals,
        tuned=frozenset({"eager, memory reused"}),
    )


def _combine_ways(dtype: torch.dtype, experts: int, vocabulary: int, *, compiled: bool) -> dict[str, Run]:
    logits, alphas, targets = random_logits(experts, ROWS, vocabulary, dtype)
    native = partial(combine, alphas=alphas.tolist(), targets=targets, backend="native")
    runs: dict[str, Run] = {
        "native": lambda: native(logits),
        "eager": lambda: eager(logits, alphas, targets),
        "eager, memory reused": lambda: eager(logits, alphas, targets),
        READ: read_once(logits),
        CACHED: _from_cache(logits, native),
    }
    if compiled:
        torch._dynamo.reset()  # else, after eight shapes, eager would run in disguise
        for name, formula in (("compile 1", eager), ("compile 2", two_sweeps)):
            runs[name] = partial(torch.compile(formula, dynamic=False), logits, alphas, targets)
    return runs


def _from_cache(logits: list[Tensor], run: Callable[[list[Tensor]], object]) -> Run:
    """The same work on one row of one expert, read again and again: what is left of the time is arithmetic."""
    row = logits[0][:1].clone().expand_as(logits[0])
    return lambda: run([row] * len(logits))


def _whole_row_case(dtype: torch.dtype, experts: int, vocabulary: int) -> LongCase:
    text, size = _size(dtype, experts, vocabulary)
    return LongCase(
        "combine",
        f"combine, whole rows, {_FORMATS[dtype]}",
        text,
        partial(_whole_row_ways, dtype, experts, vocabulary),
        bytes_moved=size + ROWS * vocabulary * 4,
        goals=[Goal("combine with whole rows, against eager", ("eager",), 5, 10)],
        read_bytes=size,
        tuned=frozenset({"eager, memory reused", "native, memory reused"}),
    )


def _whole_row_ways(dtype: torch.dtype, experts: int, vocabulary: int) -> dict[str, Run]:
    logits, alphas, targets = random_logits(experts, ROWS, vocabulary, dtype)
    native = partial(combine, alphas=alphas.tolist(), targets=targets, return_probs=True, backend="native")
    return {
        "native": lambda: native(logits),
        "native, memory reused": lambda: native(logits),
        "eager": lambda: whole_row(logits, alphas, targets),
        "eager, memory reused": lambda: whole_row(logits, alphas, targets),
        READ: read_once(logits),
        CACHED: _from_cache(logits, native),
    }


def _sample_case(experts: int, vocabulary: int) -> LongCase:
    text, size = _size(torch.float32, experts, vocabulary)
    return LongCase("combine", "sample float32", text, partial(_sample_ways, experts, vocabulary), bytes_moved=size)


def _sample_ways(experts: int, vocabulary: int) -> dict[str, Run]:
    logits, alphas, _ = random_logits(experts, ROWS, vocabulary, torch.float32)
    native = partial(sample, logits, alphas.tolist(), seed=1, backend="native")
    return {
        "native": native,
        "softmax, mix, multinomial": lambda: multinomial(logits, alphas),
        "native, top_k 50": partial(native, top_k=50),
        "native, top_p 0.9": partial(native, top_p=0.9),
        READ: read_once(logits),
    }
