"""The Triton backend: CUDA and ROCm devices; the CPU too where Triton's interpreter is on (for tests)."""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ensemw2s.kernels import reference
from ensemw2s.kernels.gpu import vote as triton_vote
from ensemw2s.kernels.request import CombineRequest, Inputs, SampleRequest
from ensemw2s.kernels.result import CombineResult, joined

if TYPE_CHECKING:
    from ensemw2s.kernels.gpu.launch import Problem, Rows

_SCRATCH_ELEMENTS = 1 << 26  # float32 of whole rows that one launch may hold
_PROGRAMS = (1 << 31) - 1


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


AnyRequest = TypeVar("AnyRequest", CombineRequest, SampleRequest)


class TritonBackend:
    """Fused kernels for GPUs. float64 logits go to the reference on the same device.

    Results agree with float64 (``tests/kernels/triton_interpreted.py``), with ε = 2^-23:

    * log-probabilities of the product rule and of a lone expert, whose differences carry no error but float32's, to
      ``3e-6`` plus ``6ε`` relative at any temperature;
    * those of a mixture to ``3e-6 + 6ε·|log p|`` where ``p`` is the probability at temperature 1, times ``1/T`` at a
      temperature ``T < 1``: it divides the errors of the experts' normalisers, which are float32;
    * none above 0; a token whose logits lie more than ``3.4e38`` below others (the range of float32) is impossible, at
      temperatures above 1 too.

    Tokens are ordered alike wherever their log-probabilities differ by more than that.
    """

    name = "triton"

    @property
    def priority(self) -> int:
        """Above the reference; below it under the interpreter, which is for tests."""
        return -1 if _interpreting() else 50

    def unavailable(self, device: torch.device) -> str | None:
        """Why it cannot run on tensors of ``device``."""
        if device.type not in ("cuda", "cpu"):
            return "it needs a GPU"
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed"
        if device.type == "cpu":
            return None if _interpreting() else "it needs a GPU (or TRITON_INTERPRET=1, for tests)"
        return None if torch.cuda.is_available() else "there is no GPU"

    def combine(self, request: CombineRequest) -> CombineResult:
        """Combine the experts."""
        if request.result_dtype == torch.float64:
            return reference.combine(request)
        whole_rows = request.top_k is not None
        return joined([_combine(part) for part in _pieces(request, whole_rows)])

    def sample(self, request: SampleRequest) -> Tensor:
        """Draw a token for each row; −1 in undefined rows."""
        if request.result_dtype == torch.float64:
            return reference.sample(request)
        whole_rows = request.top_k is not None or request.top_p is not None
        if request.index is None:
            request = replace(request, index=torch.arange(request.rows, device=request.device))
        return torch.cat([_sample(part) for part in _pieces(request, whole_rows)])


def _pieces(request: AnyRequest, whole_rows: bool) -> list[AnyRequest]:
    """Blocks of rows that bound the scratch memory and the number of programs; one piece in all usual cases."""
    most = _PROGRAMS // (len(request.experts) * request.vocabulary)  # more than enough: a tile has many tokens
    if whole_rows:
        most = min(most, _SCRATCH_ELEMENTS // request.vocabulary)
    if request.rows <= max(most, 1):
        return [request]
    pieces = []
    for start in range(0, request.rows, max(most, 1)):
        rows = slice(start, start + max(most, 1))
        changed: dict[str, Any] = {"experts": tuple(x[rows] for x in request.experts)}
        for name in ("targets", "index"):
            if getattr(request, name, None) is not None:
                changed[name] = getattr(request, name)[rows]
        pieces.append(replace(request, **changed))
    return pieces


def _combine(request: CombineRequest) -> CombineResult:
    from ensemw2s.kernels.gpu import launch

    problem, vote = launch.prepare(request), request.rule == "vote"
    rows = problem.first_pass(request.targets, best=not vote)
    if not problem.product and request.temperature != 1.0 and not vote:
        problem.normalise(rows)
    has_targets = request.targets is not None
    result = CombineResult(
        argmax=rows.argmax.clamp_min(0),
        logprob=rows.logprob,
        expert_argmax=problem.restored(rows.expert_argmax),
        logsumexp=problem.restored(rows.logsumexp),
        target_logprob=rows.target_logprob if has_targets else None,
        expert_target_logprob=problem.restored(rows.expert_target) if has_targets else None,
    )
    if vote:
        return _with_votes(request, problem, rows, result)
    if request.top_k is not None:
        ids, rank = problem.select(rows, request.top_k)
        result = replace(result, topk_ids=ids, topk_logprob=_log_probs_of(rank, problem, rows))
    if request.return_probs:
        result = replace(result, log_probs=problem.second_pass(rows, "log_probs")[0])
    return result


def _log_probs_of(rank: Tensor, problem: Problem, rows: Rows) -> Tensor:
    """Log-probabilities ``[N, k]`` of tokens of these ranks."""
    norm = rows.norm[:, None]
    if problem.product and problem.active > 1:
        out = rank + norm * 0.0 if problem.inv_temp == 1.0 else rank * problem.inv_temp - norm
    else:
        out = (rank - rows.shift[:, None]) * problem.inv_temp - norm
    return out.clamp_max(0.0)


def _votes(request: Inputs, problem: Problem, rows: Rows) -> triton_vote.Votes:
    """The active experts' choices, ordered by the rule; ties between shares by the mixture."""
    ids = rows.expert_argmax[: problem.active]
    rank = torch.zeros(ids.shape, dtype=torch.float64, device=ids.device)
    if problem.active > 1:
        parts = []
        for k in range(problem.active):
            parts.append(problem.logits_at(k, ids) - rows.constants["centre"][k] + rows.constants["offset"][k])
        rank = torch.logsumexp(torch.stack(parts), dim=0).to(torch.float32)
    weights = [request.weights[k] for k in request.active]
    shares = torch.tensor(weights, dtype=torch.float64, device=ids.device)
    return triton_vote.count_votes(ids, rank, shares, request.temperature)


def _with_votes(request: CombineRequest, problem: Problem, rows: Rows, result: CombineResult) -> CombineResult:
    votes, undefined = _votes(request, problem, rows), rows.undefined

    def known(log_probs: Tensor) -> Tensor:
        column = undefined.reshape(-1, *[1] * (log_probs.ndim - 1))
        return log_probs.to(torch.float32).masked_fill_(column, math.nan)

    result = replace(result, argmax=votes.ids[0].masked_fill(undefined, 0), logprob=known(votes.log_probs[0].clone()))
    if request.targets is not None:
        result = replace(result, target_logprob=known(triton_vote.target_log_prob(votes, request.targets)))
    if request.return_probs:
        result = replace(result, log_probs=known(triton_vote.whole_row(votes, request.vocabulary)))
    if request.top_k is not None:
        by_mixture, _ = problem.select(rows, request.top_k)
        ids, log_probs = triton_vote.most_probable(votes, by_mixture, request.top_k)
        ids = torch.where(undefined[:, None], by_mixture, ids)
        result = replace(result, topk_ids=ids, topk_logprob=known(log_probs))
    return result


def _sample(request: SampleRequest) -> Tensor:
    from ensemw2s.kernels.gpu import launch

    if request.index is None:
        raise ValueError("a sample request without index reached the Triton kernels")
    problem, index = launch.prepare(request), request.index.contiguous()
    if request.rule == "vote":
        rows = problem.first_pass(best=False)
        votes = _votes(request, problem, rows)
        uniforms = problem.uniforms(request.seed, index)
        tokens = triton_vote.draw(votes, uniforms, request.top_k, request.top_p)
        return torch.where(rows.undefined, -1, tokens)
    if request.top_k is not None or request.top_p is not None:
        rows = problem.first_pass(best=False, experts=False)
        return problem.select(rows, request.top_k, request.top_p, request.seed, index)[0]
    tempered = not problem.product and request.temperature != 1.0
    rows = problem.first_pass(best=tempered, experts=False, mass=not tempered)
    if tempered:
        problem.normalise(rows)
    return problem.draw(rows, request.seed, index)


BACKEND = TritonBackend()
