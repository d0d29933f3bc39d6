"""Drawing tokens from the combined distribution, in plain torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ensemw2s.kernels.philox import row_uniforms
from ensemw2s.kernels.reference import Combined, combine_block, most_probable, row_blocks, with_temperature
from ensemw2s.kernels.request import SampleRequest


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
    last = torch.searchsorted(
        cumulative, total
    )  # the last possible token: in float32 a uniform number may round up to 1
    return torch.minimum(tokens, last)[:, 0]
