"""One forward pass with logits at the needed positions only."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.models.loading.scaling import base_of_adapters, context_of

Tokens = NDArray[np.integer[Any]]


def logits_at(
    model: Any,
    positions: Tensor,
    inputs: dict[str, Any],
    *,
    head_of: Any = None,
    choose: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Any]:
    """Run a causal language model and project only some hidden states to the vocabulary.

    The hidden states are picked just before the output projection, so whatever a model does to its logits afterwards
    (scaling, soft capping) still happens. A model without a projection of its own gives all logits, picked afterwards.

    Args:
        model: the (perhaps wrapped) model that is called.
        positions: int64 ``[P]``, indices into the flattened ``[B·L]`` positions of ``inputs["input_ids"]``.
        inputs: keyword arguments of the model; ``input_ids`` int64 ``[B, L]``.
        head_of: the unwrapped model whose output projection is used; default ``model``.
        choose: gets all hidden states ``[B·L, H]`` and gives those that are projected, ``[P, H]``, which need not be of
            this pass; default those at ``positions``. It is not called for a model without a projection of its own.

    Returns:
        Logits ``[P, V]`` in the model's data type, and the model's whole output.
    """
    shape = tuple(inputs["input_ids"].shape)
    picked = False

    def pick(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal picked
        if picked or not args or tuple(args[0].shape[:2]) != shape:
            return None
        picked = True
        states = args[0].flatten(0, 1)
        chosen = states.index_select(0, positions) if choose is None else choose(states)
        return (chosen.unsqueeze(0), *args[1:])

    head = (model if head_of is None else head_of).get_output_embeddings()
    handle = None if head is None else head.register_forward_pre_hook(pick)
    try:
        output = model(**inputs)
    finally:
        if handle is not None:
            handle.remove()
    if picked:
        return output.logits[0], output
    return output.logits.flatten(0, 1).index_select(0, positions), output


def accepts(model: Any, name: str) -> bool:
    """Whether the model's ``forward`` has a parameter of that name."""
    return name in inspect.signature(base_of_adapters(model).forward).parameters


def context_length(model: Any) -> int | None:
    """Largest number of tokens that the model was made for; None where the model does not say."""
    return context_of(model.config)


def vocabulary_size(model: Any) -> int:
    """Number of logits."""
    head = model.get_output_embeddings()
    weight = None if head is None else getattr(head, "weight", None)
    return int(model.config.get_text_config().vocab_size if weight is None else weight.shape[0])


def padded(
    sequences: Sequence[Tokens], pad_id: int, *, left: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids ``[B, L]``, L ≥ 1, filled up with ``pad_id``, and their attention mask ``[B, L]`` (1 for tokens)."""
    longest = max([1, *map(len, sequences)])
    ids = np.full((len(sequences), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        part = slice(longest - len(sequence), longest) if left else slice(0, len(sequence))
        ids[row, part] = sequence
        mask[row, part] = 1
    return ids, mask


def positions_of(mask: Tensor) -> Tensor:
    """Position ids ``[B, L]`` for left-padded input: tokens count from 0, padding is 0."""
    return (mask.cumsum(dim=1) - 1).clamp_(min=0)
