"""Cases of ``kernels.combine`` on the CPU: against eager torch and ``torch.compile`` in two formulations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from setups import CACHED, Case, Goal, Run
from torch import Tensor

from ensemw2s import kernels
from ensemw2s.kernels.bench.cases import eager, read_once

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


def combine_cases(*, quick: bool) -> Iterator[Callable[[], Case]]:
    """Random logits of standard deviation 3, N = 64 rows; the shapes and types of the goals."""
    shapes = [(3, 50_257), (3, 151_936)] if quick else [(3, 50_257), (5, 50_257), (3, 151_936), (5, 151_936)]
    for dtype in (torch.float32, torch.bfloat16) if quick else _FORMATS:
        for experts, vocabulary in shapes:
            yield _maker(dtype, experts, vocabulary, compiled=not quick and dtype != torch.float16)
    yield lambda: _whole_row_case(torch.float32, 3, 151_936)
    if not quick:
        yield lambda: _whole_row_case(torch.bfloat16, 3, 151_936)
        yield lambda: _sample_case(3, 151_936)


def _maker(dtype: torch.dtype, experts: int, vocabulary: int, *, compiled: bool) -> Callable[[], Case]:
    return lambda: _combine_case(dtype, experts, vocabulary, compiled=compiled)


def _inputs(dtype: torch.dtype, experts: int, vocabulary: int) -> tuple[list[Tensor], Tensor, Tensor, int]:
    generator = torch.Generator().manual_seed(vocabulary + experts)
    logits = [(torch.randn(64, vocabulary, generator=generator) * 3).to(dtype) for _ in range(experts)]
    alphas = torch.arange(1.0, experts + 1) / sum(range(1, experts + 1))
    targets = torch.randint(vocabulary, (64,), generator=generator)
    return logits, alphas, targets, sum(part.numel() * part.element_size() for part in logits)


def _combine_case(dtype: torch.dtype, experts: int, vocabulary: int, *, compiled: bool) -> Case:
    logits, alphas, targets, size = _inputs(dtype, experts, vocabulary)
    weights, long, wide = alphas.tolist(), vocabulary > 100_000, dtype == torch.float32
    runs: dict[str, Run] = {
        "native": lambda: kernels.combine(logits, weights, targets=targets, backend="native"),
        "eager": lambda: eager(logits, alphas, targets),
        "eager, memory reused": lambda: eager(logits, alphas, targets),
        "read": read_once(logits),
        CACHED: _from_cache(logits, lambda parts: kernels.combine(parts, weights, targets=targets, backend="native")),
    }
    goals = [
        Goal("combine, against eager", ("eager",), 15 if wide else 25, 40 if wide else 60),
        Goal("combine, against eager with memory reused", ("eager, memory reused",), 8, 12),
    ]
    if wide and long:
        goals.append(Goal("combine float32, share of the read bandwidth", ("read",), 0.5, 0.75))
    if compiled:
        torch._dynamo.reset()  # else, after eight shapes, eager would run in disguise
        for name, formula in (("compile 1", eager), ("compile 2", two_sweeps)):
            runs[name] = _compiled(formula, logits, alphas, targets)
        goals.append(Goal("combine, against the better torch.compile", ("compile 1", "compile 2"), 2.5, 8))
    name = f"combine {_FORMATS[dtype]} K={experts} N=64 V={vocabulary}"
    return Case(name, "native", runs, size, goals, tuned=frozenset({"eager, memory reused"}))


def _compiled(formula: Callable[..., object], logits: list[Tensor], alphas: Tensor, targets: Tensor) -> Run:
    compiled = torch.compile(formula, dynamic=False)
    return lambda: compiled(logits, alphas, targets)


def _from_cache(logits: list[Tensor], run: Callable[[list[Tensor]], object]) -> Run:
    """The same work on one row of one expert, read again and again: what is left of the time is arithmetic."""
    row = logits[0][:1].clone().expand_as(logits[0])
    return lambda: run([row] * len(logits))


def _whole_row_case(dtype: torch.dtype, experts: int, vocabulary: int) -> Case:
    logits, alphas, targets, size = _inputs(dtype, experts, vocabulary)
    weights = alphas.tolist()
    runs: dict[str, Run] = {
        "native": lambda: kernels.combine(logits, weights, targets=targets, return_probs=True, backend="native"),
        "native, memory reused": lambda: kernels.combine(
            logits, weights, targets=targets, return_probs=True, backend="native"
        ),
        "eager": lambda: whole_row(logits, alphas, targets),
        "eager, memory reused": lambda: whole_row(logits, alphas, targets),
        "read": read_once(logits),
        CACHED: _from_cache(
            logits,
            lambda parts: kernels.combine(parts, weights, targets=targets, return_probs=True, backend="native"),
        ),
    }
    name = f"combine, whole rows, {_FORMATS[dtype]} K={experts} N=64 V={vocabulary}"
    goals = [Goal("combine with whole rows, against eager", ("eager",), 5, 10)]
    tuned = frozenset({"eager, memory reused", "native, memory reused"})
    return Case(name, "native", runs, size + 64 * vocabulary * 4, goals, size, tuned)


def _sample_case(experts: int, vocabulary: int) -> Case:
    logits, alphas, _, size = _inputs(torch.float32, experts, vocabulary)
    weights = alphas.tolist()

    def multinomial() -> Tensor:
        own = (torch.softmax(part.float(), dim=-1) for part in logits)
        mixed = sum(alpha * part for alpha, part in zip(alphas, own, strict=True))
        return torch.multinomial(mixed, 1)

    runs: dict[str, Run] = {
        "native": lambda: kernels.sample(logits, weights, seed=1, backend="native"),
        "softmax, mix, multinomial": multinomial,
        "native, top_k 50": lambda: kernels.sample(logits, weights, seed=1, top_k=50, backend="native"),
        "native, top_p 0.9": lambda: kernels.sample(logits, weights, seed=1, top_p=0.9, backend="native"),
        "read": read_once(logits),
    }
    return Case(f"sample float32 K={experts} N=64 V={vocabulary}", "native", runs, size)
