"""Run a model's last layers on given hidden states.

The model itself is called as always, so that embeddings, masks, positions, rotations, the final norm and what is done
to logits are its own. For the call, each layer of the trunk only hands on the given states. Whether that gives what the
whole model gives is tried once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ensemw2s.models.forward import accepts, padded
from ensemw2s.models.loading.device import is_out_of_memory
from ensemw2s.models.loading.scaling import base_of_adapters

#: What a model that cannot be run so may raise.
_REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError, AssertionError)
#: Tokens of the sequences that are tried.
_LENGTHS = (13, 8)


class _Reached(Exception):  # noqa: N818 - no error: it ends a forward pass
    """The hidden states that were asked for are there."""


class Trunk:
    """The first ``depth`` layers of a model.

    Args:
        model: a causal language model, perhaps with adapters above the trunk.
        layers: its list of layers.
        depth: number of layers of the trunk, 1 or more and less than all.
    """

    def __init__(self, model: Any, layers: Any, depth: int) -> None:
        self.model = model
        # What a trainer wraps around the model, such as mixed precision, is not part of the trunk.
        self._base = base_of_adapters(model)
        self.depth = depth
        self._lower = list(layers[:depth])
        self._first = layers[depth]
        #: For each layer the length of the tuple that it gives, None for a tensor alone; :meth:`works` finds it out.
        self.forms: list[int | None] = []

    @property
    def device(self) -> torch.device:
        """Where the first layer above the trunk is."""
        found: torch.device = next(self._first.parameters()).device
        return found

    def states(self, inputs: dict[str, Any]) -> Tensor:
        """The hidden states ``[B, L, H]`` that enter the first layer above, for the model's keyword arguments.

        What is above is not run. The model is in evaluation mode for it, and no gradients are recorded.
        """
        found: list[Tensor] = []

        def stop(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])
            raise _Reached

        handle = self._first.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with evaluating(self.model), torch.no_grad():
                self._base(**inputs)
        except _Reached:
            pass
        finally:
            handle.remove()
        if not found or found[0].ndim != 3 or found[0].shape[:2] != inputs["input_ids"].shape:
            raise ValueError("the layers do not pass hidden states [B, L, H] on")
        return found[0].detach()

    @contextmanager
    def given(self, states: Tensor) -> Iterator[None]:
        """Within the block, calls of the model start from ``states`` ``[B, L, H]`` in place of the trunk's own."""
        before = [vars(layer).get("forward") for layer in self._lower]
        try:
            for layer, form in zip(self._lower, self.forms, strict=True):
                layer.forward = partial(_hand_on, states if form is None else (states, *[None] * (form - 1)))
            yield
        finally:
            for layer, forward in zip(self._lower, before, strict=True):
                if forward is None:
                    vars(layer).pop("forward", None)
                else:
                    layer.forward = forward

    def works(self) -> bool:
        """Whether the layers above, on states of sequences read one by one, give what the whole model gives a batch."""
        try:
            self.forms = self._forms_found()
            expected, found, mask = self._tried()
        except _REFUSALS as error:
            if is_out_of_memory(error):
                raise
            return False
        expected, found = expected[mask].double(), found[mask].double()
        if expected.shape != found.shape or not bool(torch.isfinite(found).all()):
            return False
        # Wrong states, masks or positions change logits by a good part of their spread, rounding by far less.
        spread = (expected - expected.mean(dim=-1, keepdim=True)).square().mean(dim=-1).sqrt()
        wrong = (found - expected).square().mean(dim=-1).sqrt()
        exact = self.model.dtype in (torch.float32, torch.float64)
        # In half precision rounding may send a token to another of several feed-forward networks.
        worst = torch.quantile(wrong / spread, 1.0 if exact else 0.75)
        return bool(worst <= (1e-4 if exact else 0.1))

    def _forms_found(self) -> list[int | None]:
        forms: list[int | None] = []

        def look(_module: Any, _args: Any, output: Any) -> None:
            forms.append(len(output) if isinstance(output, tuple) else None)

        handles = [layer.register_forward_hook(look) for layer in self._lower]
        try:
            self.states(self._inputs([self._tokens(0, _LENGTHS[0])]))
        finally:
            for handle in handles:
                handle.remove()
        if len(forms) != len(self._lower):
            raise ValueError("the layers are not called once each")
        return forms

    def _tried(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``[B, L, V]`` of the whole model and of the layers above alone, and where tokens are."""
        texts = [self._tokens(row, length) for row, length in enumerate(_LENGTHS)]
        inputs = self._inputs(texts)
        alone = [self.states(self._inputs([text]))[0] for text in texts]
        states = alone[0].new_zeros((len(texts), max(_LENGTHS), alone[0].shape[-1]))
        for row, each in enumerate(alone):
            states[row, : len(each)] = each
        with evaluating(self.model), torch.no_grad():
            with self.given(states):  # first, so that nothing is at hand that the trunk left aside for this batch
                found = self.model(**inputs).logits
            expected = self.model(**inputs).logits
        return expected, found, inputs["attention_mask"].bool()

    def _inputs(self, texts: list[Any]) -> dict[str, Any]:
        ids, mask = padded(texts, 0)
        return text_inputs(self.model, ids, mask)

    def _tokens(self, row: int, length: int) -> Any:
        size = int(self.model.get_input_embeddings().weight.shape[0])
        return (np.arange(length, dtype=np.int64) * (7 + 2 * row) + 3 + row) % size


def text_inputs(model: Any, ids: Any, mask: Any) -> dict[str, Any]:
    """Keyword arguments of a model for token ids and attention mask, int64 ``[B, L]``, that is to keep no cache."""
    device = base_of_adapters(model).get_input_embeddings().weight.device
    inputs = {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": torch.from_numpy(mask).to(device)}
    return inputs | ({"use_cache": False} if accepts(model, "use_cache") else {})


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Within the block, the model is in evaluation mode; afterwards each of its modules is as it was."""
    modes = [(module, module.training) for module in base_of_adapters(model).modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _hand_on(states: Any, *_: Any, **__: Any) -> Any:
    return states
