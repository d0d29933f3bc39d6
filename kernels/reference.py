"""``combine`` and ``sample`` in plain torch: the reference of the other backends, clear rather than fast.

Everything is computed in float64 (float32 on devices without it), a block of rows at a time, so that memory does not
grow with the number of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import ensemw2s._native as _native
from ensemw2s.kernels.request import CombineRequest, Inputs, SampleRequest
from ensemw2s.kernels.result import CombineResult, joined

_BLOCK_ELEMENTS = 1 << 21
_SHARE_GRID = 2.0**20
_RANK_GRID = 2.0**40
_SAMPLE_TAG = 0x53414D50  # "SAMP" in the last counter word: keeps token draws apart from other uses of one seed
_APART = 8.0  # differences of logits at both ends of float64, divided by this, neither overflow nor lose a digit


@dataclass(slots=True)
class Combined:
    """The combined distribution of a block of rows, before temperature."""

    log_probs: Tensor
    """``[N, V]`` in the accumulation type; 0 in undefined rows."""
    rank: Tensor
    """``[N, V]``: what tokens are ordered by, where ``shares`` does not decide."""
    shares: Tensor | None
    """``[N, V]``: the rounded shares of the vote rule, by which tokens are ordered first; None for other rules."""
    undefined: Tensor
    """bool ``[N]``."""
    expert_argmax: Tensor
    """int64 ``[K, N]``."""
    largest: Tensor
    """``[K, N]``: each expert's largest logit."""
    log_mass: Tensor
    """``[K, N]``: ``log Σ exp(l − largest)``; apart from ``largest``, beside which it can be too small to show."""


def row_blocks(inputs: Inputs) -> list[slice]:
    """Blocks of rows that bound the size of temporaries; one empty block where there are no rows."""
    size = max(1, _BLOCK_ELEMENTS // inputs.vocabulary)
    return [slice(start, min(start + size, inputs.rows)) for start in range(0, max(inputs.rows, 1), size)]


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 where a device does not have it."""
    return torch.float32 if device.type == "mps" else torch.float64


def combine_block(inputs: Inputs, rows: slice) -> Combined:
    """Combine a block of rows; the formulas are those of :func:`ensemw2s.kernels.combine`."""
    dtype = accumulation_dtype(inputs.device)
    argmaxes, peaks, masses = [], [], []
    mixture: Tensor | None = None
    product: Tensor | None = None
    undefined = torch.zeros(rows.stop - rows.start, dtype=torch.bool, device=inputs.device)
    for expert, weight in zip(inputs.experts, inputs.weights, strict=True):
        raw = expert[rows]
        wide = raw.to(dtype)
        peak = wide.amax(dim=1)
        bad = ~torch.isfinite(peak)
        centred = torch.where(bad[:, None], 0.0, wide - peak[:, None])
        mass = torch.logsumexp(centred, dim=1)
        peaks.append(peak)
        masses.append(mass)
        argmaxes.append(torch.where(bad, 0, raw.argmax(dim=1)))
        if weight > 0.0:
            undefined |= bad
            if inputs.rule == "product":
                part = weight * (wide / _APART - peak[:, None] / _APART)
                product = part if product is None else product + part
            else:
                part = centred - mass[:, None] + math.log(weight)
                mixture = part if mixture is None else torch.logaddexp(mixture, part)
    expert_argmax = torch.stack(argmaxes)
    if product is not None:
        highest = product.amax(dim=1)
        undefined |= ~torch.isfinite(highest)
        log_probs = torch.log_softmax((product - highest[:, None]) * _APART, dim=1)
    elif mixture is not None:
        log_probs = mixture
    else:
        raise ValueError("no expert has a positive weight")
    log_probs = torch.where(undefined[:, None], 0.0, log_probs.clamp(max=0.0))
    rank = _rank(inputs, rows, log_probs, undefined)
    shares = None
    if inputs.rule == "vote":
        votes = _shares(inputs, expert_argmax, dtype)
        log_probs = torch.where(undefined[:, None], 0.0, votes.log())
        shares = torch.where(undefined[:, None], 0.0, (votes * _SHARE_GRID).round())
    return Combined(log_probs, rank, shares, undefined, expert_argmax, torch.stack(peaks), torch.stack(masses))


def _rank(inputs: Inputs, rows: slice, log_probs: Tensor, undefined: Tensor) -> Tensor:
    """Sort key of tokens: the logits of a lone expert, else the log-probabilities in the precision of the result.

    The vectorised and the scalar code of one torch operation differ in the last bit, so tokens with equal logits would
    not be tied at full precision.
    """
    active = inputs.active
    if len(active) == 1:
        return torch.where(undefined[:, None], 0.0, inputs.experts[active[0]][rows])
    if inputs.result_dtype == torch.float32 or log_probs.dtype == torch.float32:
        return log_probs.to(torch.float32)
    return (log_probs * _RANK_GRID).round()


def _shares(inputs: Inputs, expert_argmax: Tensor, dtype: torch.dtype) -> Tensor:
    votes = torch.zeros(expert_argmax.shape[1], inputs.vocabulary, dtype=dtype, device=inputs.device)
    for k in inputs.active:
        chosen = expert_argmax[k][:, None]
        votes.scatter_add_(1, chosen, torch.full_like(chosen, 1, dtype=dtype) * inputs.weights[k])
    return votes


def best(block: Combined) -> Tensor:
    """The most probable token of each row, int64 ``[N]``; 0 in undefined rows."""
    if block.shares is None:
        return block.rank.argmax(dim=1)
    first = block.shares == block.shares.max(dim=1, keepdim=True).values
    lowest = torch.finfo(block.rank.dtype).min
    # a chosen token cannot have rank −inf, but clamping keeps it above the tokens that are not candidates
    return torch.where(first, block.rank.clamp(min=lowest), -math.inf).argmax(dim=1)


def most_probable(block: Combined, count: int) -> Tensor:
    """The ``count`` most probable tokens of each row in falling order, ties to the lowest id: int64 ``[N, count]``."""
    if block.shares is not None:
        by_rank = torch.sort(block.rank, dim=1, descending=True, stable=True).indices
        by_share = torch.sort(block.shares.gather(1, by_rank), dim=1, descending=True, stable=True).indices
        return by_rank.gather(1, by_share)[:, :count]
    values, ids = torch.topk(block.rank, count, dim=1)
    ids = ids.sort(dim=1).values  # by id first, then stably by value
    order = torch.sort(block.rank.gather(1, ids), dim=1, descending=True, stable=True).indices
    ids = ids.gather(1, order)
    if count < block.rank.shape[1]:  # torch.topk leaves open which of the tokens tied for the last place it takes
        crowded = (block.rank >= values[:, -1:]).sum(dim=1) > count
        if bool(crowded.any()):
            ids[crowded] = torch.sort(block.rank[crowded], dim=1, descending=True, stable=True).indices[:, :count]
    return ids


def with_temperature(log_probs: Tensor, temperature: float) -> Tensor:
    """``log_softmax(log_probs / temperature)``, shifted first so that no temperature overflows."""
    if temperature == 1.0:
        return log_probs
    if log_probs.dtype == torch.float32:
        limits = torch.finfo(torch.float32)
        temperature = min(max(temperature, limits.tiny), limits.max)
    shifted = log_probs - log_probs.max(dim=1, keepdim=True).values
    return torch.log_softmax(shifted / temperature, dim=1)


def combine(request: CombineRequest) -> CombineResult:
    """Implement :func:`ensemw2s.kernels.combine` for checked arguments."""
    return joined([_combine_rows(request, rows) for rows in row_blocks(request)])


def _combine_rows(request: CombineRequest, rows: slice) -> CombineResult:
    block = combine_block(request, rows)
    out = request.result_dtype
    log_probs = with_temperature(block.log_probs, request.temperature)
    log_probs = torch.where(block.undefined[:, None], math.nan, log_probs)
    argmax = best(block)
    target = expert_target = topk_ids = topk = None
    if request.targets is not None:
        column = request.targets[rows, None]
        target = log_probs.gather(1, column)[:, 0].to(out)
        given = torch.stack([expert[rows].gather(1, column)[:, 0] for expert in request.experts]).to(log_probs.dtype)
        known = torch.isfinite(block.largest)
        expert_target = torch.where(known, given - block.largest - block.log_mass, math.nan).to(out)
    if request.top_k is not None:
        topk_ids = most_probable(block, request.top_k)
        topk = log_probs.gather(1, topk_ids).to(out)
    return CombineResult(
        argmax=argmax,
        logprob=log_probs.gather(1, argmax[:, None])[:, 0].to(out),
        expert_argmax=block.expert_argmax,
        logsumexp=torch.where(torch.isfinite(block.largest), block.largest + block.log_mass, block.largest).to(out),
        target_logprob=target,
        expert_target_logprob=expert_target,
        log_probs=log_probs.to(out) if request.return_probs else None,
        topk_ids=topk_ids,
        topk_logprob=topk,
    )


def row_uniforms(seed: int, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """One uniform number for each row, a function of ``(seed, index[r])`` alone.

    A block of Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011) with the counter ``(index low, index high, 0,
    "SAMP")`` and the key ``(seed low, seed high)``: its first two words are a 64-bit integer (low word first), whose
    upper 53 bits are the number.

    Args:
        seed: in ``[0, 2**64)``.
        index: int64 ``[N]``; negative values are taken as their 64-bit pattern.

    Returns:
        float64 ``[N]`` in ``[0, 1)``, multiples of ``2**-53``.
    """
    bits, mask, half = index.astype(np.uint64), np.uint64(0xFFFFFFFF), np.uint64(32)
    counter = np.zeros((bits.shape[0], 4), dtype=np.uint32)
    counter[:, 0], counter[:, 1], counter[:, 3] = bits & mask, bits >> half, _SAMPLE_TAG
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], dtype=np.uint32)
    block = _native.philox4x32(counter, key).astype(np.uint64)
    whole = block[:, 0] | (block[:, 1] << half)
    return (whole >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample(request: SampleRequest) -> Tensor:
    """Implement :func:`ensemw2s.kernels.sample` for checked arguments; −1 in undefined rows."""
    index = np.arange(request.rows) if request.index is None else request.index.cpu().numpy()
    uniforms = torch.from_numpy(row_uniforms(request.seed, index.astype(np.int64)))
    drawn = []
    for rows in row_blocks(request):
        block = combine_block(request, rows)
        probabilities = kept_probabilities(block, request)
        tokens = invert(probabilities, uniforms[rows].to(device=request.device, dtype=probabilities.dtype))
        drawn.append(torch.where(block.undefined, -1, tokens))
    return torch.cat(drawn)


def kept_probabilities(block: Combined, request: SampleRequest) -> Tensor:
    """Probabilities ``[N, V]`` after temperature and truncation, not normalised; 0 for tokens that are left out."""
    probabilities = with_temperature(block.log_probs, request.temperature).exp()
    if request.top_k is None and request.top_p is None:
        return probabilities
    vocabulary = probabilities.shape[1]
    order = most_probable(block, vocabulary if request.top_k is None else request.top_k)
    chosen = probabilities.gather(1, order)
    if request.top_p is not None:
        chosen = chosen / chosen.sum(dim=1, keepdim=True)
        before = chosen.cumsum(dim=1) - chosen  # a token stays while those before it do not suffice; the first always
        chosen = torch.where(before < request.top_p, chosen, 0.0)
    return torch.zeros_like(probabilities).scatter_(1, order, chosen)


def invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The first token whose cumulative probability exceeds ``uniform · total``, int64 ``[N]``; its own is not 0."""
    cumulative = probabilities.cumsum(dim=1)
    total = cumulative[:, -1:].contiguous()
    tokens = torch.searchsorted(cumulative, uniforms[:, None] * total, right=True)
    last = torch.searchsorted(cumulative, total)  # the last possible token: in float32 a uniform may round up to 1
    return torch.minimum(tokens, last)[:, 0]
