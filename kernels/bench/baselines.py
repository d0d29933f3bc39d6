"""The kernels' work in plain torch and numpy: what benchmarks compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.kernels.bench.timing import Run

Ints = NDArray[np.int64]
Weights = NDArray[np.float64]


def eager(logits: Sequence[Tensor], alphas: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """``combine`` in plain torch: every expert's log-softmax, then their mixture.

    Args:
        logits: K tensors ``[N, V]``.
        alphas: float32 ``[K]``, summing to 1.
        targets: int64 ``[N]``.

    Returns:
        ``argmax``, ``logprob``, ``target_logprob``, ``expert_argmax``, ``logsumexp``, ``expert_target_logprob``.
    """
    wide, own = _log_softmax(logits)
    mixed = torch.logsumexp(torch.stack(own) + alphas.log()[:, None, None], dim=0)
    return _results(wide, own, mixed, targets)


def eager_product(logits: Sequence[Tensor], alphas: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """The same by the product rule: the weighted sum of log-softmaxes, normalised again."""
    wide, own = _log_softmax(logits)
    summed = sum(alpha * part for alpha, part in zip(alphas, own, strict=True))
    return _results(wide, own, torch.log_softmax(torch.as_tensor(summed), dim=-1), targets)


def eager_vote(logits: Sequence[Tensor], alphas: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """The same by the vote rule; equal shares go to the lowest token, not to the one that the mixture prefers."""
    wide, own = _log_softmax(logits)
    share = torch.zeros_like(own[0])
    for alpha, part in zip(alphas, own, strict=True):
        share.scatter_add_(1, part.argmax(dim=-1, keepdim=True), alpha.expand(len(part), 1))
    return _results(wide, own, share.log(), targets)


#: By rule.
EAGER: Mapping[str, Callable[[Sequence[Tensor], Tensor, Tensor], tuple[Tensor, ...]]] = {
    "mixture": eager,
    "product": eager_product,
    "vote": eager_vote,
}


def _log_softmax(logits: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    wide = [part.float() for part in logits]
    return wide, [torch.log_softmax(part, dim=-1) for part in wide]


def _results(wide: list[Tensor], own: list[Tensor], mixed: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
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


def multinomial(logits: Sequence[Tensor], alphas: Tensor) -> Tensor:
    """Draw a token for each row from the mixture, int64 ``[N]``."""
    own = (torch.softmax(part.float(), dim=-1) for part in logits)
    mixed = sum(alpha * part for alpha, part in zip(alphas, own, strict=True))
    return torch.multinomial(torch.as_tensor(mixed), 1)[:, 0]


def read_once(tensors: Sequence[Tensor]) -> Run:
    """Reads the tensors' bytes once, as fast as torch does: sums of rows, of two-byte numbers in pairs as float32."""
    flat = [part.reshape(-1) for part in tensors]
    whole = [part[: len(part) // 512 * 512] for part in flat]
    views = [(part.view(torch.float32) if part.element_size() == 2 else part).view(256, -1) for part in whole]
    return lambda: [part.sum(dim=1) for part in views]


def sorted_draws(weights: Weights, draws: int, rng: np.random.Generator) -> Ints:
    """Draws with replacement, in the order of the categories: sorted uniform numbers looked up in the sums."""
    cumulative = np.cumsum(weights)
    uniforms = rng.random(draws)
    uniforms.sort()
    found: Ints = np.searchsorted(cumulative, uniforms * cumulative[-1], side="right")
    return found


def keyed_draws(weights: Weights, draws: int, rng: np.random.Generator) -> Ints:
    """Draws without replacement: the smallest exponential keys."""
    keys = rng.standard_exponential(len(weights))
    keys /= weights
    found: Ints = np.argpartition(keys, draws)[:draws]
    return found


def update(
    weights: NDArray[np.floating], wrong: NDArray[np.bool_], alpha: float, offsets: Ints, scratch: NDArray[np.floating]
) -> NDArray[np.floating]:
    """The boosting update in place and the sums of segments, by the formula."""
    np.multiply(wrong, weights.dtype.type(alpha), out=scratch)
    np.exp(scratch, out=scratch)
    np.multiply(weights, scratch, out=weights)
    np.divide(weights, weights.sum(), out=weights)
    return np.add.reduceat(weights, offsets[:-1])
