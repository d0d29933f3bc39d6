"""The public functions ``combine`` and ``sample``; the backend is chosen by the device of the tensors."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ensemw2s.kernels import reference
from ensemw2s.kernels.request import (
    Alphas,
    CombineRequest,
    Inputs,
    Logits,
    SampleRequest,
    combine_request,
    sample_request,
)
from ensemw2s.kernels.result import CombineResult
from ensemw2s.registry import KERNEL_BACKENDS


@runtime_checkable
class Backend(Protocol):
    """Implements ``combine`` and ``sample`` for checked requests; returns tensors on the request's device."""

    @property
    def name(self) -> str:
        """The name by which it is forced."""

    @property
    def priority(self) -> int:
        """``backend="auto"`` takes the backend of the highest priority among those that can run; never a plug-in."""

    def unavailable(self, device: torch.device) -> str | None:
        """Why it cannot run on tensors of ``device``, in a few words; None where it can."""

    def combine(self, request: CombineRequest) -> CombineResult:
        """Combine the experts."""

    def sample(self, request: SampleRequest) -> Tensor:
        """Draw a token for each row, int64 ``[N]``; −1 in undefined rows."""


class _Reference:
    """Plain torch; runs wherever torch does."""

    name = "reference"
    priority = 0

    def unavailable(self, device: torch.device) -> str | None:
        return None

    def combine(self, request: CombineRequest) -> CombineResult:
        return reference.combine(request)

    def sample(self, request: SampleRequest) -> Tensor:
        return reference.sample(request)


REFERENCE = _Reference()


def register(backend: Backend) -> None:
    """Make a backend of this process known. A name can be given once only.

    Raises:
        ValueError: the name is taken, or is ``auto``.
    """
    if backend.name == "auto":
        raise ValueError("a kernel backend cannot be registered as 'auto': that name is taken")
    KERNEL_BACKENDS.add(backend.name, backend)


def available_backends(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """Names of the backends that can run on tensors of ``device``; ``backend="auto"`` takes the first one.

    Plug-ins are not among them: they are used where they are named.
    """
    place = torch.device(device)
    backends = [(name, KERNEL_BACKENDS.get(name)) for name in KERNEL_BACKENDS.own_names()]
    able = [(name, b) for name, b in backends if b.unavailable(place) is None]
    return tuple(name for name, b in sorted(able, key=lambda one: -one[1].priority))


def choose(name: str, inputs: Inputs) -> Backend:
    """The backend of that name, or the best one for ``auto``.

    Raises:
        ValueError: there is none of that name (the nearest is named), or it cannot run on the inputs' device; lists
            those that can.
        ConfigError: the plug-in of that name cannot be loaded.
    """
    if name == "auto":
        name = available_backends(inputs.device)[0]
    elif name not in KERNEL_BACKENDS:
        listed, meant = ", ".join(available_backends(inputs.device)), KERNEL_BACKENDS.did_you_mean(str(name))
        raise ValueError(f"unknown kernel backend {name!r}{meant}; available for {inputs.device}: {listed}")
    backend: Backend = KERNEL_BACKENDS.get(name)
    reason = backend.unavailable(inputs.device)
    if reason is None:
        return backend
    listed = ", ".join(available_backends(inputs.device))
    raise ValueError(f"kernel backend {name!r} cannot run on {inputs.device}: {reason}; available: {listed}")


@torch.no_grad()
def combine(
    logits: Logits,
    alphas: Alphas,
    *,
    rule: str = "mixture",
    temperature: float = 1.0,
    targets: Tensor | None = None,
    return_probs: bool = False,
    top_k: int | None = None,
    backend: str = "auto",
) -> CombineResult:
    """Combine the next-token distributions of K experts at N positions.

    With ᾱ the weights divided by their sum and ``l_k`` the logits of expert ``k``:

    * ``mixture``: ``log Σ ᾱ_k softmax(l_k)``;
    * ``product``: ``log_softmax(Σ ᾱ_k log_softmax(l_k))``;
    * ``vote``: the log of the ᾱ-share of the experts whose arg-max it is (−inf for a token that nobody chose); equal
      shares (to 1e-6) are ordered by the mixture.

    Ties go to the lowest index. Tokens are compared by their logits where one expert alone takes part, else by their
    log-probabilities as returned: what differs by less than their last digit is a tie. :class:`CombineResult` says what
    undefined rows (NaN, +inf, all −inf) give. No gradient is recorded.

    Args:
        logits: ``[K, N, V]``, or K tensors ``[N, V]``; float32, bfloat16, float16 or float64, any strides.
        alphas: K expert weights; an expert of weight 0 is ignored, even where it holds NaN, and only appears in the
            fields about single experts.
        rule: ``mixture``, ``product`` or ``vote``.
        temperature: divides the combined log-probabilities, which are then normalised again; it orders no token anew.
        targets: integers ``[N]``, the tokens whose log-probabilities are wanted.
        return_probs: also return the whole combined distribution.
        top_k: also return the most probable tokens.
        backend: ``auto``, or the name of one.

    Returns:
        A :class:`CombineResult`.

    Raises:
        ValueError: negative, non-finite or all-zero weights, or not K of them; shapes that do not fit; targets outside
            the vocabulary; a temperature that is not positive and finite; a backend that cannot run here.
        TypeError: logits that are not floating-point tensors, or targets that are not integers.
    """
    request = combine_request(
        logits, alphas, rule=rule, temperature=temperature, targets=targets, return_probs=return_probs, top_k=top_k
    )
    return choose(backend, request).combine(request)


@torch.no_grad()
def sample(
    logits: Logits,
    alphas: Alphas,
    *,
    seed: int,
    rule: str = "mixture",
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    index: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Draw one token for each row from the combined distribution.

    Temperature comes first, then ``top_k``, then ``top_p`` on what is left, normalised again. The draw inverts the
    cumulative probabilities of the kept tokens, in the order of their ids, at one Philox number for each row; so the
    token of row ``r`` depends on ``(seed, index[r])`` and the row's logits alone.

    Args:
        logits: as in :func:`combine`.
        alphas: as in :func:`combine`.
        seed: in ``[0, 2**64)``.
        rule: as in :func:`combine`.
        temperature: as in :func:`combine`.
        top_k: keep only so many of the most probable tokens (ties: the lowest ids); None is off.
        top_p: keep the smallest set of most probable tokens with at least this probability; None is off.
        index: integers ``[N]``, for example ``sequence · length + position``; default ``0 … N−1``.
        backend: ``auto``, or the name of one.

    Returns:
        int64 ``[N]`` on the logits' device.

    Raises:
        ValueError: as in :func:`combine`, or a row is undefined, so that there is nothing to draw from.
        TypeError: as in :func:`combine`.
    """
    request = sample_request(
        logits, alphas, seed=seed, rule=rule, temperature=temperature, top_k=top_k, top_p=top_p, index=index
    )
    tokens = choose(backend, request).sample(request)
    undefined = tokens < 0
    if bool(undefined.any()):
        row = int(undefined.nonzero()[0, 0])
        raise ValueError(f"row {row} has no distribution to draw from: its logits hold NaN or +inf, or allow no token")
    return tokens
