"""What the launches of the Triton kernels share, with logits or without: weights, and what is known of the rows."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ensemw2s.kernels.request import Inputs

SMALLEST = 1.1754943508222875e-38  # weights and temperatures are kept in the range of normal float32 numbers
LARGEST = 3.0e38


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below ``n ≥ 1``."""
    return 1 << (n - 1).bit_length()


@dataclass(slots=True)
class Rows:
    """What is known of every row after the first pass; float32 unless said otherwise."""

    undefined: Tensor
    """bool ``[N]``."""
    argmax: Tensor
    """int64 ``[N]``, −1 in undefined rows; 0 elsewhere unless it was asked for."""
    value: Tensor
    """``[N]``: the value of the arg-max."""
    logprob: Tensor
    """``[N]``; of a mixture at temperature 1."""
    target_logprob: Tensor
    """``[N]``; of a mixture at temperature 1."""
    expert_argmax: Tensor
    logsumexp: Tensor
    expert_target: Tensor
    """``[K, N]``, in the problem's order."""
    shift: Tensor
    norm: Tensor
    """``[N]``: a token's log-probability is ``(value − shift) · inv_temp − norm``."""
    tile_max: Tensor
    """``[K, N, tiles]``."""
    mass: Tensor
    """``[N, tiles]``: weights ``exp((value − shift) · inv_temp)`` summed over each tile."""
    constants: dict[str, Any]
    """Arguments with which later kernels compute values."""

    def temper(self, inv_temp: float) -> None:
        """Bring a mixture's log-probabilities to the temperature of ``mass``; the arg-max has the weight 1."""
        self.norm = torch.where(self.undefined, math.nan, self.mass.sum(dim=1).clamp_min(1.0).log())
        self.logprob = -self.norm
        difference = (self.target_logprob - self.shift).clamp_max(0.0)
        self.target_logprob = (difference * inv_temp - self.norm).clamp_max(0.0)


@dataclass(slots=True)
class Weighted:
    """The weights of one launch. Experts with a part in the ensemble come first."""

    order: list[int]
    """The launch's expert ``i`` is the request's expert ``order[i]``."""
    weights: tuple[float, ...]
    log_weights: tuple[float, ...]
    product: bool
    inv_temp: float

    @property
    def active(self) -> int:
        """Number of experts with a part in the ensemble."""
        return len(self.log_weights)

    @property
    def device(self) -> torch.device:
        """Where everything is."""
        raise NotImplementedError

    @property
    def vocabulary(self) -> int:
        """V."""
        raise NotImplementedError

    @property
    def block(self) -> int:
        """Tokens in a tile."""
        raise NotImplementedError

    @property
    def tiles(self) -> int:
        """Tiles in a row."""
        return -(-self.vocabulary // self.block)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """An uninitialised tensor on the launch's device."""
        return torch.empty(shape, dtype=dtype, device=self.device)

    def restored(self, by_expert: Tensor) -> Tensor:
        """``[K, …]`` in the request's order of experts, where ``by_expert`` is in the launch's."""
        if self.order == sorted(self.order):
            return by_expert
        return by_expert.index_select(0, torch.tensor(self.order, device=by_expert.device).argsort())


@functools.lru_cache(maxsize=64)
def weights_on(device: torch.device, weights: tuple[float, ...]) -> Tensor:
    """Weights as a float64 tensor: a number given to a kernel would be float32. Kept, since few weights are in use."""
    return torch.tensor(weights, dtype=torch.float64, device=device)


def weighting_of(request: Inputs) -> dict[str, Any]:
    """The fields of :class:`Weighted` for a request."""
    weights = [request.weights[k] for k in request.active]
    return {
        "order": request.active + [k for k, weight in enumerate(request.weights) if weight == 0.0],
        "weights": tuple(max(w, SMALLEST) for w in weights),
        "log_weights": tuple(math.log(w) for w in weights),
        "product": request.rule == "product" or len(weights) == 1,
        "inv_temp": 1.0 if request.rule == "vote" else min(max(1.0 / request.temperature, SMALLEST), LARGEST),
    }
