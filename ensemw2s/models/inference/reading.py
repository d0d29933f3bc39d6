"""Whether a model supports padded batches, a key-value cache, and cutting that cache.

Key-value caches of attention can be padded, repeated, thinned out and cut. States of convolutions, linear attention and
recurrences cannot; they are known by the classes of a cache's layers. Padding is tried once for each model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.models.forward import accepts, padded, positions_of
from ensemw2s.models.loading.device import is_out_of_memory
from ensemw2s.models.loading.load import LoadedModel
from ensemw2s.models.loading.scaling import base_of_adapters, length_scaling
from ensemw2s.sink import EventSink

#: What a model that refuses some inputs may raise.
REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError, AssertionError)
_ATTENTION = frozenset({"DynamicLayer", "DynamicSlidingWindowLayer"})
#: Tokens of the longest sequence that is tried.
_LONGEST = 13
_CROPPED = frozenset({"DynamicLayer"})
_UNKNOWN = frozenset({"unknown"})
_MODELS: WeakKeyDictionary[Any, Reading] = WeakKeyDictionary()
_REPORTED: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Reading:
    """Capabilities of a model and its key-value cache."""

    together: bool
    """Whether sequences of different lengths can be read as one batch, padded on the right."""
    cached: bool
    """Whether its cache can be padded on the left, repeated, thinned out and continued."""
    crops: bool
    """Whether its cache can also be cut at its end, however far, and have masked columns in the middle."""
    layers: frozenset[str]
    """Names of the classes of its cache's layers."""
    note: str | None = None
    """What was found by trying, where that costs time."""

    @property
    def cuts(self) -> bool:
        """Whether the cache is keys and values of each token, which can be cut out of it at any column."""
        return self.cached and self.layers <= _ATTENTION


def reading_of(model: Any, pad_id: int = 0) -> Reading:
    """A model's capabilities, found out once; ``pad_id`` is the token that fills masked positions."""
    base = base_of_adapters(model)
    if base not in _MODELS:
        _MODELS[base] = _found(model, base, pad_id)
    return _MODELS[base]


def report_readings_once(models: Iterable[LoadedModel], sink: EventSink) -> None:
    """Report, once for each model, what was found by trying and makes reading slower."""
    for loaded in models:
        base, note = base_of_adapters(loaded.model), reading_of(loaded.model, loaded.pad_id).note
        if note is not None and base not in _REPORTED:
            _REPORTED[base] = True
            sink.event("message", level="info", text=f"{loaded.source}: {note}")


def _found(model: Any, base: Any, pad_id: int) -> Reading:
    layers, scaling = _layers(base), length_scaling(model)
    has_cache = accepts(model, "past_key_values")
    stateful = bool(getattr(base, "_is_stateful", False)) or not has_cache or any(map(_is_state, layers))
    if scaling is not None:
        if not (scaling.by_row and accepts(model, "position_ids")):
            why = "positions are scaled by length in a way that is not known here; every sequence is read by itself."
            return Reading(False, False, False, layers, why)
        if scaling.differs(0, _LONGEST):  # what is tried would be scaled in several ways
            return Reading(True, not stateful, not stateful and layers <= _CROPPED, layers)
    trial = _Trial(model, pad_id)
    together = trial.passes(trial.together)
    cached = not stateful and together and trial.passes(trial.cached)
    note: str | None = None
    if not together:
        note = "a padded batch gives other numbers than its sequences; every sequence is read by itself."
    elif not cached and not stateful:
        note = "its cache gives other numbers in a padded batch; every token is computed afresh."
    crops = cached and layers <= _CROPPED and trial.passes(trial.with_holes)
    return Reading(together, cached, crops, layers, note)


def _layers(base: Any) -> frozenset[str]:
    """Names of the classes of the layers of a model's cache."""
    from transformers import DynamicCache

    try:
        cache = DynamicCache(config=base.config.get_text_config(decoder=True))
    except REFUSALS:
        return _UNKNOWN
    return frozenset(type(layer).__name__ for layer in cache.layers) or _UNKNOWN


def _is_state(layer: str) -> bool:
    """Whether a layer's cache is a state that takes in token after token."""
    return any(part in layer for part in ("LinearAttention", "Conv", "Mamba", "Recurrent", "SSM"))


class _Trial:
    """Reads small sequences in several ways, and compares logits with those of each sequence by itself."""

    def __init__(self, model: Any, pad_id: int) -> None:
        self.model, self.pad_id = model, pad_id
        self.exact = next(model.parameters()).dtype in (torch.float32, torch.float64)
        # A wrong mask, position or state changes logits by a good part of their spread, rounding by far less.
        self.tolerance = 1e-3 if self.exact else 0.1
        size = int(model.get_input_embeddings().weight.shape[0])
        # Two continuations of the second prompt: each row is a prompt, a block of 3, 1 or 2 tokens, and a last token.
        self.prompts = [_tokens(row, length, size) for row, length in enumerate((9, 4))]
        self.blocks = [_tokens(row + 2, length, size) for row, length in enumerate((3, 1, 2))]
        self.rows = np.array([0, 1, 1])
        pieces = zip(self.rows, self.blocks, strict=True)
        self.wholes = [np.concatenate([self.prompts[row], block, _tokens(row, 1, size)]) for row, block in pieces]
        self._alone: list[Tensor] = []

    def passes(self, way: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> bool:
        """Whether a way of reading gives the logits of each sequence by itself."""
        modes = [(module, module.training) for module in base_of_adapters(self.model).modules()]
        self.model.eval()
        try:
            with torch.inference_mode():
                good = [bool(_rms(found - right) <= self.tolerance * _spread(right)) for found, right in way()]
        except REFUSALS as error:
            if is_out_of_memory(error):
                raise
            return False
        finally:
            for module, mode in modes:
                module.training = mode
        # In half precision rounding may send a token to another of several feed-forward networks.
        return all(good) if self.exact else sum(good) > len(good) / 2

    def together(self) -> Iterator[tuple[Tensor, Tensor]]:
        """A batch padded on the right."""
        logits, _ = self._read(*padded(self.wholes, self.pad_id), cached=False)
        for row, right in enumerate(self._by_themselves()):
            yield from zip(logits[row, : len(right)], right, strict=True)

    def cached(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Prompts padded on the left and repeated; then blocks padded on the right, or token after token."""
        yield from self._continued([padded(self.blocks, self.pad_id)])
        tokens = [np.stack([whole[at + i : at + i + 1] for at, whole in self._rows()]) for i in range(2)]
        yield from self._continued([(ids, np.ones_like(ids)) for ids in tokens])

    def with_holes(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The same with columns in the middle that are masked for some rows."""
        last = np.stack([whole[-1:] for whole in self.wholes])
        yield from self._continued([padded(self.blocks, self.pad_id, left=True), (last, np.ones_like(last))])

    def _rows(self) -> list[tuple[int, NDArray[np.int64]]]:
        """Of each row the length of its prompt, and all its tokens."""
        return [(len(self.prompts[place]), whole) for place, whole in zip(self.rows, self.wholes, strict=True)]

    def _continued(self, blocks: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits of all tokens of the repeated prompts' continuations, in blocks of ids and mask ``[3, L]``."""
        right, at = self._by_themselves(), [length for length, _ in self._rows()]
        ids, mask = padded(self.prompts, self.pad_id, left=True)
        first, cache = self._read(ids, mask, cached=True)
        for row, place in enumerate(self.rows):
            yield first[place, -1], right[row][at[row] - 1]
        cache.batch_select_indices(torch.from_numpy(self.rows).to(first.device))
        mask = mask[self.rows]
        for ids, shown in blocks:
            mask = np.concatenate([mask, shown], axis=1)
            logits, cache = self._read(ids, mask, cached=True, cache=cache)
            for row in range(len(ids)):
                found = logits[row][torch.from_numpy(shown[row] == 1).to(logits.device)]
                yield from zip(found, right[row][at[row] : at[row] + len(found)], strict=True)
                at[row] += len(found)

    def _by_themselves(self) -> list[Tensor]:
        if not self._alone:
            wholes = [whole[None] for whole in self.wholes]
            self._alone = [self._read(ids, np.ones_like(ids), cached=False)[0][0] for ids in wholes]
        return self._alone

    def _read(self, ids: Any, mask: Any, *, cached: bool, cache: Any = None) -> tuple[Tensor, Any]:
        """Logits float64 ``[B, L, V]`` and the cache."""
        device = next(self.model.parameters()).device
        shown = torch.from_numpy(mask).to(device)
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": shown}
        if accepts(self.model, "use_cache"):
            inputs["use_cache"] = cached
        if cached:
            inputs["past_key_values"] = cache
            if accepts(self.model, "position_ids"):
                inputs["position_ids"] = positions_of(shown)[:, -ids.shape[1] :]
        output = self.model(**inputs)
        return output.logits.double(), getattr(output, "past_key_values", None)


def _tokens(start: int, length: int, size: int) -> NDArray[np.int64]:
    return (np.arange(length, dtype=np.int64) * (7 + 2 * start) + 3 + start) % size


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()


def _spread(logits: Tensor) -> Tensor:
    return _rms(logits - logits.mean())
