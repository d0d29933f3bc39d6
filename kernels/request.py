"""The checked arguments of :func:`~ensemw2s.kernels.combine` and :func:`~ensemw2s.kernels.sample`.

Backends receive these and need not check anything again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ensemw2s.kernels.arguments import plain_tensor, real_number, whole_number

Rule = Literal["mixture", "product", "vote"]
Logits = Tensor | Sequence[Tensor]
Alphas = Tensor | Sequence[float]

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_FLOATS_TEXT = "float32, bfloat16, float16 or float64"
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Arguments of both functions."""

    experts: tuple[Tensor, ...]
    """K tensors ``[N, V]`` on one device, floating point, any strides."""
    weights: tuple[float, ...]
    """K normalised weights ᾱ, summing to 1; an expert with 0 has no part in the ensemble."""
    rule: Rule
    """How the experts are combined."""
    temperature: float
    """Positive and finite; divides the combined log-probabilities, which are then normalised again."""

    @property
    def rows(self) -> int:
        """Number of positions ``N``."""
        return self.experts[0].shape[0]

    @property
    def vocabulary(self) -> int:
        """Number of tokens ``V``."""
        return self.experts[0].shape[1]

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.experts[0].device

    @property
    def active(self) -> list[int]:
        """The experts with a part in the ensemble, in order."""
        return [k for k, weight in enumerate(self.weights) if weight > 0.0]

    @property
    def result_dtype(self) -> torch.dtype:
        """The floating-point type of results."""
        return torch.float64 if any(x.dtype == torch.float64 for x in self.experts) else torch.float32


@dataclass(frozen=True, slots=True)
class CombineRequest(Inputs):
    """Checked arguments of ``combine``."""

    targets: Tensor | None = None
    """int64 ``[N]`` in ``[0, V)``."""
    return_probs: bool = False
    """Whether the whole distribution is asked for."""
    top_k: int | None = None
    """How many of the most probable tokens are asked for, at most ``V``."""


@dataclass(frozen=True, slots=True)
class SampleRequest(Inputs):
    """Checked arguments of ``sample``."""

    seed: int = 0
    """In ``[0, 2**64)``."""
    index: Tensor | None = None
    """int64 ``[N]``; None is ``0 … N−1``."""
    top_k: int | None = None
    """Only the most probable tokens, fewer than ``V``; None is off."""
    top_p: float | None = None
    """The smallest set of most probable tokens with at least this probability, below 1; None is off."""


def _checked_experts(logits: Logits) -> tuple[Tensor, ...]:
    """Split the logits into K tensors ``[N, V]`` and check that they fit together."""
    if isinstance(logits, Tensor):
        whole = plain_tensor(logits, "logits", _FLOATS, _FLOATS_TEXT)
        if whole.ndim != 3:
            raise ValueError(
                f"logits must be [K, N, V], or K tensors [N, V]; got one tensor of shape {tuple(whole.shape)}"
            )
        experts = tuple(whole.unbind(0))
    elif isinstance(logits, list | tuple):
        experts = tuple(plain_tensor(x, f"logits of expert {k}", _FLOATS, _FLOATS_TEXT) for k, x in enumerate(logits))
    else:
        raise TypeError(f"logits are {type(logits).__name__}; expected a tensor [K, N, V], or a list of K tensors")
    if not experts:
        raise ValueError("logits hold no expert (K = 0)")
    for k, expert in enumerate(experts):
        if expert.ndim != 2 or expert.shape != experts[0].shape:
            first = tuple(experts[0].shape)
            raise ValueError(f"logits of expert {k} have shape {tuple(expert.shape)}; all must be [N, V] like {first}")
        if expert.device != experts[0].device:
            raise ValueError(f"logits of expert {k} are on {expert.device}, those of expert 0 on {experts[0].device}")
    if experts[0].shape[1] == 0:
        raise ValueError("logits have no tokens (V = 0)")
    return experts


def _normalised_weights(alphas: Alphas, experts: int) -> tuple[float, ...]:
    """Divide the expert weights by their sum.

    Raises:
        ValueError: a weight is negative, NaN or infinite, all are 0, or there are not ``experts`` of them.
        TypeError: they are no numbers.
    """
    if isinstance(alphas, Tensor):
        alphas = plain_tensor(alphas, "alphas", (*_FLOATS, *_INTEGERS), "numbers").reshape(-1).tolist()
    if not isinstance(alphas, Iterable) or isinstance(alphas, str | bytes | bytearray):
        raise TypeError(f"alphas are {type(alphas).__name__}; expected {experts} numbers")
    values = [real_number(a, f"alphas[{k}]", "a finite number that is not negative") for k, a in enumerate(alphas)]
    if len(values) != experts:
        raise ValueError(f"{len(values)} alphas for {experts} experts")
    for k, value in enumerate(values):
        if not math.isfinite(value) or value < 0.0:
            raise ValueError(f"alphas[{k}] is {value}; expert weights must be finite and not negative")
    largest = max(values)
    if largest == 0.0:
        raise ValueError("all alphas are 0; at least one expert must have a positive weight")
    scaled = [value / largest for value in values]  # the sum of huge weights would overflow
    total = math.fsum(scaled)
    return tuple(value / total for value in scaled)


def _checked_rule(rule: str) -> Rule:
    """The rule, if there is one of that name."""
    for known in get_args(Rule):
        if isinstance(rule, str) and rule == known:
            return known  # type: ignore[no-any-return]
    raise ValueError(f"unknown rule {rule!r}; expected one of {', '.join(get_args(Rule))}")


def _checked_temperature(temperature: float) -> float:
    """The temperature, if it is positive and finite."""
    value = real_number(temperature, "temperature", "a positive number")
    if not math.isfinite(value) or value <= 0.0:
        raise ValueError(f"temperature is {temperature}; it must be positive and finite (use the arg-max for 0)")
    return value


def _checked_top_k(top_k: int | None, vocabulary: int) -> int | None:
    """``min(top_k, V)``, or None."""
    if top_k is None:
        return None
    value = whole_number(top_k, "top_k", "a whole number of at least 1, or None")
    if value < 1:
        raise ValueError(f"top_k is {value}; expected a whole number of at least 1, or None")
    return min(value, vocabulary)


def _checked_seed(seed: int) -> int:
    value = whole_number(seed, "seed", "an integer in [0, 2**64)")
    if not 0 <= value < 2**64:
        raise ValueError(f"seed is {seed}; expected an integer in [0, 2**64)")
    return value


def _checked_top_p(top_p: float | None) -> float | None:
    """The probability; None where it leaves nothing out."""
    if top_p is None:
        return None
    value = real_number(top_p, "top_p", "a probability in (0, 1], or None")
    if not 0.0 < value <= 1.0:
        raise ValueError(f"top_p is {top_p}; expected a probability in (0, 1], or None")
    return value if value < 1.0 else None


def _checked_vector(values: Tensor, name: str, rows: int, device: torch.device) -> Tensor:
    values = plain_tensor(values, name, _INTEGERS, "integers")
    if values.shape != (rows,):
        raise ValueError(f"{name} have shape {tuple(values.shape)}; expected ({rows},), one for each row of the logits")
    return values.to(device=device, dtype=torch.int64)


def combine_request(
    logits: Logits,
    alphas: Alphas,
    *,
    rule: str,
    temperature: float,
    targets: Tensor | None,
    return_probs: bool,
    top_k: int | None,
) -> CombineRequest:
    """Check the arguments of ``combine``; its documentation lists the errors."""
    experts = _checked_experts(logits)
    rows, vocabulary = experts[0].shape
    if targets is not None:
        targets = _checked_vector(targets, "targets", rows, experts[0].device)
        outside = (targets < 0) | (targets >= vocabulary)
        if bool(outside.any()):
            row = int(outside.nonzero()[0, 0])
            raise ValueError(f"targets[{row}] is {int(targets[row])}; expected a token id in [0, {vocabulary})")
    return CombineRequest(
        experts=experts,
        weights=_normalised_weights(alphas, len(experts)),
        rule=_checked_rule(rule),
        temperature=_checked_temperature(temperature),
        targets=targets,
        return_probs=bool(return_probs),
        top_k=_checked_top_k(top_k, vocabulary),
    )


def sample_request(
    logits: Logits,
    alphas: Alphas,
    *,
    seed: int,
    rule: str,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    index: Tensor | None,
) -> SampleRequest:
    """Check the arguments of ``sample``; its documentation lists the errors."""
    experts = _checked_experts(logits)
    rows, vocabulary = experts[0].shape
    kept = _checked_top_k(top_k, vocabulary)
    return SampleRequest(
        experts=experts,
        weights=_normalised_weights(alphas, len(experts)),
        rule=_checked_rule(rule),
        temperature=_checked_temperature(temperature),
        seed=_checked_seed(seed),
        index=None if index is None else _checked_vector(index, "index", rows, experts[0].device),
        top_k=None if kept == vocabulary else kept,
        top_p=_checked_top_p(top_p),
    )
