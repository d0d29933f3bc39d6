"""Cases of ``kernels.combine_from_hidden`` on the CPU: logits made and combined a tile of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from setups import Case, Run
from torch import Tensor

from ensemw2s import kernels
from ensemw2s.kernels.bench.cases import eager


def head_cases(*, quick: bool) -> Iterator[Callable[[], Case]]:
    """The shapes of three models of 135M parameters."""
    yield lambda: _case(3, 256 if quick else 1024, 576, 49_152)


def _case(experts: int, rows: int, width: int, vocabulary: int) -> Case:
    generator = torch.Generator().manual_seed(0)
    hidden = [torch.randn(rows, width, generator=generator) for _ in range(experts)]
    heads = [torch.randn(vocabulary, width, generator=generator) * 0.1 for _ in range(experts)]
    alphas = torch.full((experts,), 1 / experts)
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    weights = alphas.tolist()

    def logits() -> list[Tensor]:
        return [part @ head.T for part, head in zip(hidden, heads, strict=True)]

    runs: dict[str, Run] = {
        "tiles, native": lambda: kernels.combine_from_hidden(hidden, heads, weights, targets=targets, backend="native"),
        "all logits, native": lambda: kernels.combine(logits(), weights, targets=targets, backend="native"),
        "all logits, eager": lambda: eager(logits(), alphas, targets),
        "all logits alone": logits,
        "read": lambda: [head.sum(dim=1) for head in heads],
    }
    size = experts * width * 4 * (vocabulary + rows)
    name = f"combine from hidden states, float32 K={experts} N={rows} H={width} V={vocabulary}"
    return Case(name, "tiles, native", runs, size)
