"""Decoded answers: tokens, their log-probabilities and candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.config.method import DecodingConfig
from ensemw2s.errors import RunFailedError
from ensemw2s.kernels import CombineResult, sample
from ensemw2s.models.loading.load import LoadedModel

Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Generation:
    """One decoded answer; log-probabilities are the ensemble's own, natural, without temperature or truncation."""

    token_ids: NDArray[np.int32]
    """``[m]``, without end-of-sequence."""
    logprobs: NDArray[np.float32]
    """``[m]``, or ``[m + 1]`` with that of end-of-sequence if the answer ended. With ``vote`` the mixture's: a share of
    votes does not say how probable a token is."""
    ended: bool
    """Whether end-of-sequence came, rather than the largest length."""
    runner_up: NDArray[np.float32] | None = None
    """``[m (+ 1)]``: log-probability of the best other token at each step, from the same distribution as ``logprobs``;
    None where no candidates were asked for."""
    topk_ids: NDArray[np.int32] | None = None
    """The most probable tokens at each step by the rule, falling, ``[m (+ 1), k]``; None where not asked for."""
    topk_logprob: NDArray[np.float32] | None = None
    """Their log-probabilities."""

    @property
    def confidence(self) -> float:
        """Geometric mean probability of the tokens, end-of-sequence left out; 0 for an empty answer."""
        logprobs = np.asarray(self.logprobs, dtype=np.float64)[: len(self.token_ids)]
        return float(np.exp(logprobs.mean())) if logprobs.size else 0.0

    @property
    def margin(self) -> float:
        """Mean log-probability of the tokens less that of the best other one, in nats; 0 for an empty answer.

        Raises:
            ValueError: the answer was decoded without candidates.
        """
        m = len(self.token_ids)
        if self.runner_up is None and len(self.logprobs):
            raise ValueError("the margin needs an answer that was decoded with keep_top_k")
        if m == 0 or self.runner_up is None:
            return 0.0
        difference = np.asarray(self.logprobs[:m], dtype=np.float64) - self.runner_up[:m]
        finite = difference[np.isfinite(difference)]  # a token that is certain has no runner-up
        return float(finite.mean()) if finite.size else 0.0


@dataclass(slots=True)
class Decoder:
    """The experts and settings of decoding, the same for all batches."""

    models: list[LoadedModel]
    alphas: list[float]
    decoding: DecodingConfig
    rule: str
    end_ids: NDArray[np.int64]
    seed: int
    backend: str
    keep_top_k: int | None

    def decode(self, numbers: Ints, prompts: list[Ints], limits: Ints) -> list[Generation]:
        """Decode the prompts of one batch.

        Args:
            numbers: int ``[B]``, their places among all prompts.
            prompts: their tokens.
            limits: int ``[B]``, the largest length of each answer.
        """
        raise NotImplementedError


def candidates_needed(keep_top_k: int | None) -> int | None:
    """Number of candidates that keeps ``keep_top_k`` of them and tells the best token but the chosen one."""
    return None if keep_top_k is None else max(keep_top_k, 2)  # a runner-up is the second at the latest


def step_outputs(
    chosen: Tensor, result: CombineResult, sure: CombineResult, keep_top_k: int | None
) -> list[NDArray[Any] | None]:
    """Fields that :func:`generations` keeps of N steps besides the tokens.

    Args:
        chosen: int64 ``[N]``, the tokens.
        result: of the rule, with :func:`candidates_needed`.
        sure: of the distribution that says how sure the ensemble is, with its candidates.
        keep_top_k: candidates.

    Returns:
        Log-probabilities ``[N]``, the runners-up's ``[N]``, candidates ``[N, k]`` and their log-probabilities; None
        without candidates.
    """
    logprob = sure.logprob if sure.target_logprob is None else sure.target_logprob
    if sure.topk_ids is None or sure.topk_logprob is None or result.topk_ids is None or result.topk_logprob is None:
        return [logprob.cpu().numpy(), None, None, None]
    runner_up = sure.topk_logprob.masked_fill(sure.topk_ids == chosen[:, None], -torch.inf).amax(dim=1)
    ids = result.topk_ids[:, :keep_top_k].to(torch.int32)
    return [part.cpu().numpy() for part in (logprob, runner_up, ids, result.topk_logprob[:, :keep_top_k])]


def generations(
    owner: NDArray[np.int64], tokens: NDArray[np.int64], kept: Sequence[NDArray[Any] | None], end_ids: NDArray[np.int64]
) -> list[Generation]:
    """Answers from all their tokens.

    Args:
        owner: ``[T]``, to which answer, from 0, each token belongs; those of one answer are in order. None is empty.
        tokens: ``[T]``, end-of-sequence included.
        kept: :func:`step_outputs` of the tokens.
        end_ids: the tokens that end an answer.
    """
    order, ends = np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner))[:-1]
    parts = [[None] * (len(ends) + 1) if part is None else np.split(part[order], ends) for part in kept]
    out = []
    for own, logprobs, *others in zip(np.split(tokens[order], ends), *parts, strict=True):
        ended = bool(own[-1] in end_ids)
        out.append(Generation(own[: len(own) - ended].astype(np.int32), logprobs, ended, *others))
    return out


def draw_tokens(logits: Sequence[Tensor], alphas: Sequence[float], **how: Any) -> Tensor:
    """A token for each row, int64 ``[N]``; ``how`` are the keywords of :func:`ensemw2s.kernels.sample`.

    Raises:
        RunFailedError: logits are not finite.
    """
    try:
        return sample(logits, alphas, **how)
    except ValueError as error:
        if all(bool(torch.isfinite(part).all()) for part in logits):
            raise
        raise not_finite() from error


def not_finite() -> RunFailedError:
    """The error for logits that hold NaN or infinity."""
    return RunFailedError(
        "Decoding: an expert's logits are not finite.",
        hint="Its weights are damaged or its dtype overflows; try dtype: float32 or bfloat16.",
    )
