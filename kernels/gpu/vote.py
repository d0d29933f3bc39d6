"""The vote rule from the experts' arg-maxes, in plain torch: at most K tokens have a share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SHARE_GRID = 2.0**20


@dataclass(slots=True)
class Votes:
    """The tokens that the active experts chose, in the order in which the rule prefers them."""

    ids: Tensor
    """int64 ``[K, N]``, most preferred first; a token that several experts chose is listed once for each."""
    log_probs: Tensor
    """float64 ``[K, N]``: log-probability at the temperature."""
    first: Tensor
    """bool ``[K, N]``: the first listing of its token."""
    counted: Tensor
    """bool ``[K, N]``: its share is not 0 in steps of 2^-20. What is not counted is ordered by the mixture alone."""


def count_votes(ids: Tensor, rank: Tensor, weights: Tensor, temperature: float) -> Votes:
    """Order the chosen tokens by share (in steps of 2^-20), then by the mixture, then by the lowest id.

    Args:
        ids: int64 ``[K, N]``, the arg-max of every active expert.
        rank: float ``[K, N]``, the mixture's value of these tokens.
        weights: float64 ``[K]``, positive, summing to 1.
        temperature: positive and finite.
    """
    same = ids[:, None] == ids[None]  # [K, K, N]
    share = (same * weights[None, :, None]).sum(dim=1)
    order = torch.argsort(ids, dim=0, stable=True)
    for key in (rank.to(torch.float64), (share * SHARE_GRID).round()):
        order = order.gather(0, torch.argsort(key.gather(0, order), dim=0, descending=True, stable=True))
    ids, share = ids.gather(0, order), share.gather(0, order)
    same = ids[:, None] == ids[None]
    earlier = torch.ones(len(ids), len(ids), dtype=torch.bool, device=ids.device).tril(-1)
    first = ~(same & earlier[:, :, None]).any(dim=1)
    log_share = share.log()
    top = log_share.amax(dim=0)
    limits = torch.finfo(torch.float64)
    tempered = (log_share - top) / min(max(temperature, limits.tiny), limits.max)
    norm = torch.logsumexp(torch.where(first, tempered, -math.inf), dim=0)
    return Votes(ids, tempered - norm, first, (share * SHARE_GRID).round() > 0)


def target_log_prob(votes: Votes, targets: Tensor) -> Tensor:
    """Log-probabilities float64 ``[N]`` of ``targets`` int64 ``[N]``; −inf where nobody chose it."""
    return torch.where(votes.ids == targets, votes.log_probs, -math.inf).amax(dim=0)


def whole_row(votes: Votes, vocabulary: int) -> Tensor:
    """Log-probabilities float32 ``[N, V]``."""
    rows = torch.full((votes.ids.shape[1], vocabulary), -math.inf, device=votes.ids.device)
    return rows.scatter_(1, votes.ids.T, votes.log_probs.T.to(torch.float32))


def most_probable(votes: Votes, by_mixture: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The chosen tokens, then the others in the order of the mixture.

    Args:
        votes: the ordered votes.
        by_mixture: int64 ``[N, m]``, the mixture's most probable tokens in falling order, ``m ≥ min(V, count)``.
        count: how many are wanted.

    Returns:
        ids int64 ``[N, count]`` and log-probabilities float32 ``[N, count]``.
    """
    chosen = votes.ids.T
    same = by_mixture[:, :, None] == chosen[:, None]
    others = ~(same & votes.counted.T[:, None]).any(dim=2)
    ids = torch.cat([chosen, by_mixture], dim=1)
    kept = torch.cat([(votes.first & votes.counted).T, others], dim=1)
    known = torch.where(same, votes.log_probs.T[:, None], -math.inf).amax(dim=2)
    log_probs = torch.cat([votes.log_probs.T, known], dim=1)
    order = torch.argsort(~kept, dim=1, stable=True)[:, :count]
    return ids.gather(1, order), log_probs.gather(1, order).to(torch.float32)


def draw(votes: Votes, uniforms: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """One token for each row: top-k, then top-p, then the inverse of the cumulative probabilities by id.

    Args:
        votes: the ordered votes.
        uniforms: float64 ``[N]`` in ``[0, 1)``.
        top_k: keep so many tokens (those that are not counted come last); None is off.
        top_p: keep the smallest set of at least this probability; None is off.
    """
    mass = torch.where(votes.first, votes.log_probs.exp(), 0.0)
    if top_k is not None:
        mass = torch.where(votes.first.cumsum(dim=0) <= top_k, mass, 0.0)
    if top_p is not None:
        mass = mass / mass.sum(dim=0)
        mass = torch.where(mass.cumsum(dim=0) - mass < top_p, mass, 0.0)
    ids, order = torch.sort(votes.ids, dim=0, stable=True)
    cumulative = mass.gather(0, order).cumsum(dim=0)
    past = (cumulative > uniforms * cumulative[-1]) & (mass.gather(0, order) > 0)
    return ids.gather(0, past.to(torch.int8).argmax(dim=0, keepdim=True))[0]
