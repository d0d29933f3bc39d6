"""Result of :func:`ensemw2s.kernels.combine`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

_BY_EXPERT = frozenset({"expert_argmax", "logsumexp", "expert_target_logprob"})


@dataclass(frozen=True, slots=True)
class CombineResult:
    """The combined distribution of ``K`` experts at ``N`` positions over ``V`` tokens, natural logarithms throughout.

    Floating-point fields are float32 (float64 where the logits are float64), index fields int64, all on the logits'
    device. ``temperature`` is applied in the fields about the ensemble and in none of those about single experts.

    A row is *undefined* for an expert when its logits hold NaN or +inf, or are all −inf. It is undefined for the
    ensemble when it is for an expert with a positive weight, or (``rule="product"``) when no token is possible for all
    experts. There every log-probability is NaN, the arg-max is 0 and the top-k ids are ``0 … k−1``.
    """

    argmax: Tensor
    """int64 ``[N]``: the ensemble's most probable token."""
    logprob: Tensor
    """``[N]``: the ensemble's log-probability of ``argmax``."""
    expert_argmax: Tensor
    """int64 ``[K, N]``: every expert's own most probable token, experts of weight 0 included."""
    logsumexp: Tensor
    """``[K, N]``: log-sum-exp of the logits; NaN, +inf or −inf in undefined rows, by the usual arithmetic."""
    target_logprob: Tensor | None = None
    """``[N]``: the ensemble's log-probability of ``targets``; None without targets."""
    expert_target_logprob: Tensor | None = None
    """``[K, N]``: every expert's log-probability of ``targets``; None without targets."""
    log_probs: Tensor | None = None
    """``[N, V]``: the whole combined distribution; None unless ``return_probs``."""
    topk_ids: Tensor | None = None
    """int64 ``[N, k]``, ``k = min(top_k, V)``: the most probable tokens in falling order; None without ``top_k``."""
    topk_logprob: Tensor | None = None
    """``[N, k]``: the ensemble's log-probabilities of ``topk_ids``."""


def joined(parts: Sequence[CombineResult]) -> CombineResult:
    """The result of all rows from those of consecutive blocks of rows; at least one, all with the same fields."""
    if len(parts) == 1:
        return parts[0]
    whole: dict[str, Tensor] = {}
    for field in fields(CombineResult):
        tensors = [value for part in parts if (value := getattr(part, field.name)) is not None]
        if tensors:
            whole[field.name] = torch.cat(tensors, dim=1 if field.name in _BY_EXPERT else 0)
    return CombineResult(**whole)
