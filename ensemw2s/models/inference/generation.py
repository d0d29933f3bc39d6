"""What decoding gives: an answer's tokens and how sure the ensemble is of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.errors import RunFailedError
from ensemw2s.kernels import CombineResult, sample


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
    rivals: NDArray[np.float32] | None = None
    """``[m (+ 1)]``: log-probability of the best other token at each step, from the same distribution as ``logprobs``;
    None where no candidates were asked for."""
    topk_ids: NDArray[np.int32] | None = None
    """The most probable tokens at each step by the rule, falling, ``[m (+ 1), k]``; None where not asked for."""
    topk_logprob: NDArray[np.float32] | None = None
    """Their log-probabilities."""


def candidates_for_rivals(keep_top_k: int | None) -> int | None:
    """How many candidates are needed to keep ``keep_top_k`` of them and to know the best token but the chosen one."""
    return None if keep_top_k is None else max(keep_top_k, 2)  # a rival is the second at the latest


def rivals_of(result: CombineResult, chosen: Tensor) -> Tensor | None:
    """Log-probability ``[N]`` of the best token other than ``chosen`` int64 ``[N]``; None without candidates."""
    if result.topk_ids is None or result.topk_logprob is None:
        return None
    return result.topk_logprob.masked_fill(result.topk_ids == chosen[:, None], -torch.inf).amax(dim=1)


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
