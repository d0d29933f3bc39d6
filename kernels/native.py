"""The compiled backend for the CPU: reads float32, bfloat16 or float16 logits once, in place."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import ensemw2s._native as _native
from ensemw2s.kernels import reference
from ensemw2s.kernels.request import CombineRequest, Inputs, SampleRequest
from ensemw2s.kernels.result import CombineResult

_PLACES = (torch.float32, torch.bfloat16, torch.float16)


class Native:
    """The compiled kernels of ``csrc/``.

    Results agree with the reference (``tests/kernels/test_native.py``):

    * log-probabilities, none of them above 0, to ``2.5e-7`` relative plus ``2.5e-7`` (``1e-7`` up to 2048 tokens), at
      any temperature ``T`` down to ``1e-7``. Below, and for logits beyond ``1e7``, the rounding of float64 shows as it
      does in the reference: ``1e-15 / T`` times what enters a log-probability before temperature, ``1 + |log p|`` and
      for the product rule ``Σ ᾱ_k |l_k − max l_k|``;
    * arg-max and order of tokens wherever their log-probabilities differ by more than that; ties are the same;
    * the same tokens from :meth:`sample`, except where a row's uniform number falls on a boundary to within ``1e-12``.

    Equal arguments give equal bits with any number of threads, on AVX2, AVX-512 and arm64 alike; plain x86-64 differs
    in the last digits. Logits in float64 go to the reference.
    """

    name = "native"
    priority = 10

    def unavailable(self, device: torch.device) -> str | None:
        """Why it cannot run on tensors of ``device``."""
        return None if device.type == "cpu" else "it only reads memory of the CPU"

    def combine(self, request: CombineRequest) -> CombineResult:
        """Combine the experts."""
        if not _narrow(request):
            return reference.combine(request)
        rows, vocabulary, experts = request.rows, request.vocabulary, len(request.experts)
        target = extra = topk_ids = topk = log_probs = None
        if request.targets is not None:
            target, extra = _floats(rows), _floats(experts, rows)
        if request.top_k is not None:
            topk_ids, topk = _ids(rows, request.top_k), _floats(rows, request.top_k)
        if request.return_probs:
            log_probs = _floats(rows, vocabulary)
        result = CombineResult(
            argmax=_ids(rows),
            logprob=_floats(rows),
            expert_argmax=_ids(experts, rows),
            logsumexp=_floats(experts, rows),
            target_logprob=target,
            expert_target_logprob=extra,
            log_probs=log_probs,
            topk_ids=topk_ids,
            topk_logprob=topk,
        )
        places = {name: getattr(result, name) for name in result.__dataclass_fields__}
        _native.combine_into(
            [_array(expert) for expert in request.experts],
            list(request.weights),
            rule=request.rule,
            temperature=request.temperature,
            targets=None if request.targets is None else request.targets.contiguous().numpy(),
            results={name: place.numpy() for name, place in places.items() if place is not None},
        )
        return result

    def sample(self, request: SampleRequest) -> Tensor:
        """Draw a token for each row."""
        if not _narrow(request):
            return reference.sample(request)
        index = np.arange(request.rows) if request.index is None else request.index.numpy()
        tokens = _native.sample_tokens(
            [_array(expert) for expert in request.experts],
            list(request.weights),
            rule=request.rule,
            temperature=request.temperature,
            uniforms=reference.row_uniforms(request.seed, index.astype(np.int64)),
            top_k=request.top_k,
            top_p=request.top_p,
        )
        return torch.from_numpy(tokens)


def _narrow(inputs: Inputs) -> bool:
    return all(expert.dtype in _PLACES for expert in inputs.experts)


def _array(expert: Tensor) -> npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.int16]:
    """The tensor's memory as numpy sees it; bfloat16, which numpy does not know, as int16."""
    return (expert.view(torch.int16) if expert.dtype == torch.bfloat16 else expert).numpy()


def _floats(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32)


def _ids(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.int64)


BACKEND = Native()
