"""Combining experts from their last hidden states: the logits of all rows never exist at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ensemw2s.kernels.arguments import plain_tensor
from ensemw2s.kernels.dispatch import Backend, choose
from ensemw2s.kernels.request import FLOATS, FLOATS_TEXT, Alphas, CombineRequest, combine_request, normalised_weights
from ensemw2s.kernels.result import CombineResult, joined

_TILE_BYTES = 128 << 20  # of logits, all experts together; smaller tiles leave matrix products slow


@dataclass(frozen=True, slots=True)
class Head:
    """Where one expert's logits come from: ``hidden @ weight.T + bias``."""

    hidden: Tensor
    """``[N, H]``; experts may differ in H."""
    weight: Tensor
    """``[V, H]``."""
    bias: Tensor | None
    """``[V]``."""

    def rows(self, rows: slice) -> Head:
        """The same head with some of the rows."""
        return Head(self.hidden[rows], self.weight, self.bias)

    def with_contiguous_rows(self) -> Head:
        """The same head with rows that lie in one piece; a copy where they do not."""
        hidden, weight = (x if x.stride(1) == 1 else x.contiguous() for x in (self.hidden, self.weight))
        return Head(hidden, weight, None if self.bias is None else self.bias.contiguous())

    def with_bias(self) -> Head:
        """The same head with a bias, of zeros where there is none."""
        return (
            self if self.bias is not None else Head(self.hidden, self.weight, self.weight.new_zeros(len(self.weight)))
        )

    def logits(self, rows: slice, out: Tensor) -> Tensor:
        """Logits of some rows, written to the first rows of ``out``."""
        hidden = self.hidden[rows]
        place = out[: len(hidden)]
        if self.bias is None:
            return torch.mm(hidden, self.weight.T, out=place)
        return torch.addmm(self.bias, hidden, self.weight.T, out=place)


@runtime_checkable
class FusedBackend(Protocol):
    """A backend that forms the logits itself."""

    def head_rows(self, request: CombineRequest) -> int | None:
        """How many rows it takes at once; None where it does not apply."""

    def combine_heads(self, heads: Sequence[Head], request: CombineRequest) -> CombineResult:
        """Combine the experts whose logits come from these heads; the request's own logits are not to be read."""


@torch.no_grad()
def combine_from_hidden(
    hidden: Sequence[Tensor],
    lm_head: Sequence[Tensor],
    alphas: Alphas,
    *,
    biases: Sequence[Tensor | None] | None = None,
    rule: str = "mixture",
    temperature: float = 1.0,
    targets: Tensor | None = None,
    top_k: int | None = None,
    backend: str = "auto",
) -> CombineResult:
    """:func:`ensemw2s.kernels.combine` of the logits ``hidden[k] @ lm_head[k].T + biases[k]``.

    Memory grows with N and V, not with their product. On a GPU the logits never leave the registers of the kernel that
    multiplies; they are float32 sums, not rounded to the tensors' type. Elsewhere, and for float64, rows are taken a
    tile at a time, as many as give 128 MB of logits, in memory that is used again. For heads that are plain matrices: a
    model that scales or caps its logits afterwards needs :func:`ensemw2s.kernels.combine`.

    Args:
        hidden: K tensors ``[N, H_k]``, what the head multiplies, floating point.
        lm_head: K tensors ``[V, H_k]`` of the same data type, which is the type of the logits but on a GPU.
        alphas: as in ``combine``.
        biases: K tensors ``[V]`` or None; default none.
        rule: as in ``combine``.
        temperature: as in ``combine``.
        targets: as in ``combine``.
        top_k: as in ``combine``.
        backend: as in ``combine``.

    Returns:
        As ``combine``; there is no ``log_probs``.

    Raises:
        ValueError: as in ``combine``, or shapes that do not fit.
        TypeError: as in ``combine``, or an expert's tensors differ in data type.
    """
    heads = _checked_heads(hidden, lm_head, biases)
    rows, vocabulary = len(heads[0].hidden), len(heads[0].weight)
    whole = combine_request(  # checks the other arguments once, with as many rows, whose logits take no memory
        [head.weight.new_empty(1).expand(rows, vocabulary) for head in heads],
        normalised_weights(alphas, len(heads)),
        rule=rule,
        temperature=temperature,
        targets=targets,
        return_probs=False,
        top_k=top_k,
    )
    return joined(list(_by_parts(choose(backend, whole), heads, whole)))


def _by_parts(chosen: Backend, heads: Sequence[Head], whole: CombineRequest) -> Iterator[CombineResult]:
    """Results of consecutive blocks of rows: fused where the backend can, else from the logits of a tile of rows."""
    at_once = chosen.head_rows(whole) if isinstance(chosen, FusedBackend) else None
    if at_once is not None and isinstance(chosen, FusedBackend):
        for part in _blocks(whole.rows, at_once):
            request = _rows_of(whole, part, [x[part] for x in whole.experts])
            yield chosen.combine_heads([head.rows(part) for head in heads], request)
        return
    size = sum(whole.vocabulary * head.weight.element_size() for head in heads)
    tile = max(1, min(whole.rows, _TILE_BYTES // size))
    places = [head.weight.new_empty((tile, whole.vocabulary)) for head in heads]
    for part in _blocks(whole.rows, tile):
        logits = [head.logits(part, place) for head, place in zip(heads, places, strict=True)]
        yield chosen.combine(_rows_of(whole, part, logits))


def _blocks(rows: int, at_once: int) -> list[slice]:
    """Consecutive rows, ``at_once`` at a time; one empty block where there are none."""
    return [slice(start, min(start + at_once, rows)) for start in range(0, max(rows, 1), at_once)]


def _rows_of(whole: CombineRequest, rows: slice, logits: Sequence[Tensor]) -> CombineRequest:
    return CombineRequest(
        experts=tuple(logits),
        weights=whole.weights,
        rule=whole.rule,
        temperature=whole.temperature,
        targets=None if whole.targets is None else whole.targets[rows],
        return_probs=False,
        top_k=whole.top_k,
    )


def _checked_heads(
    hidden: Sequence[Tensor], lm_head: Sequence[Tensor], biases: Sequence[Tensor | None] | None
) -> list[Head]:
    given = [None] * len(hidden) if biases is None else list(biases)
    if not len(hidden) or not len(hidden) == len(lm_head) == len(given):
        raise ValueError(
            f"{len(hidden)} hidden states, {len(lm_head)} heads and {len(given)} biases; expected one of each for an "
            "expert, and at least one expert"
        )
    heads = [
        Head(
            plain_tensor(h, f"the hidden states of expert {k}", FLOATS, FLOATS_TEXT),
            plain_tensor(w, f"the head's weights of expert {k}", FLOATS, FLOATS_TEXT),
            None if b is None else plain_tensor(b, f"the biases of expert {k}", FLOATS, FLOATS_TEXT),
        )
        for k, (h, w, b) in enumerate(zip(hidden, lm_head, given, strict=True))
    ]
    for k, head in enumerate(heads):
        _check_head(k, head, heads[0])
    return heads


def _check_head(k: int, head: Head, first: Head) -> None:
    if head.hidden.ndim != 2 or head.weight.ndim != 2 or head.hidden.shape[1] != head.weight.shape[1]:
        raise ValueError(
            f"expert {k} has hidden states {tuple(head.hidden.shape)} and a head {tuple(head.weight.shape)}; "
            "expected [N, H] and [V, H]"
        )
    if len(head.hidden) != len(first.hidden) or len(head.weight) != len(first.weight):
        raise ValueError(
            f"expert {k} has N = {len(head.hidden)}, V = {len(head.weight)}; "
            f"expert 0 has N = {len(first.hidden)}, V = {len(first.weight)}"
        )
    if head.bias is not None and head.bias.shape != head.weight.shape[:1]:
        raise ValueError(f"the bias of expert {k} has shape {tuple(head.bias.shape)}; expected [V]")
    types = {x.dtype for x in (head.hidden, head.weight, head.bias) if x is not None}
    if len(types) > 1:
        raise TypeError(f"expert {k} mixes {', '.join(sorted(map(str, types)))}; expected one data type")
