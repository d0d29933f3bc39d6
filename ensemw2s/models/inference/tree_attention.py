"""Tree attention: a prompt and all its options in one row, with the options masked from each other.

Every token is computed once, in one pass and with little padding. It needs a model that takes a mask for every pair of
positions and a position for every token; whether it does is read off its configuration and then tried once.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.models.forward import accepts, context_length, logits_at
from ensemw2s.models.inference.reading import REFUSALS, reading_of
from ensemw2s.models.loading.load import LoadedModel
from ensemw2s.models.trunk.kept import Text, tree_of

Ints = NDArray[np.integer[Any]]

_ATTENTION = frozenset({"eager", "sdpa"})
_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
_WINDOWS = ("sliding_window", "attention_window_size", "window_size", "attention_chunk_size")
_UNLIMITED = 2**31
_TRIED: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def tree_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask: 0 where a position sees another, the type's lowest number elsewhere.

    Args:
        segments: int64 ``[B, L]``: 0 for the prompt, 1, 2, … for its options, -1 for padding.
        dtype: of the model.

    Returns:
        ``[B, 1, L, L]``: a position sees the prompt and its own segment, up to itself.
    """
    earlier, later = segments[:, None, :], segments[:, :, None]
    length = segments.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril_()
    seen = ((earlier == later) | (earlier == 0)) & past
    mask = torch.full(seen.shape, torch.finfo(dtype).min, dtype=dtype, device=segments.device)
    return mask.masked_fill_(seen, 0.0)[:, None]


def tree_inputs(loaded: LoadedModel, ids: Ints, positions: Ints, segments: Ints) -> dict[str, Any]:
    """Keyword arguments of a model for rows ``[B, L]`` of token ids, positions and segments (see :func:`tree_mask`)."""
    place = loaded.device
    inputs: dict[str, Any] = {
        "input_ids": torch.from_numpy(np.asarray(ids, dtype=np.int64)).to(place),
        "position_ids": torch.from_numpy(np.asarray(positions, dtype=np.int64)).to(place),
        "attention_mask": tree_mask(
            torch.from_numpy(np.asarray(segments, dtype=np.int64)).to(place), loaded.model.dtype
        ),
    }
    if accepts(loaded.model, "use_cache"):
        inputs["use_cache"] = False
    return inputs


def tree_texts(loaded: LoadedModel, ids: Ints, positions: Ints, segments: Ints) -> list[Text]:
    """The same rows one by one, without their padding, as the trunk reads them."""

    def row(real: NDArray[np.bool_], *parts: Ints) -> Text:
        own = [np.ascontiguousarray(part[real], dtype=np.int64) for part in parts]
        return tree_of(lambda: tree_inputs(loaded, *(part[None] for part in own)), *own)

    return [row(of >= 0, i, p, of) for i, p, of in zip(ids, positions, segments, strict=True)]


def longest_tree(loaded: LoadedModel) -> int:
    """The most tokens that a row with a prompt and its options may have; 0 where the model cannot read such rows.

    Rows stay within the model's context and within its attention windows, so that counting places of the row in place
    of positions would change nothing.
    """
    config = loaded.model.config.get_text_config()
    if not reading_of(loaded.model, loaded.pad_id).cached or not _declared(loaded.model, config) or not _tried(loaded):
        return 0
    windows = [getattr(config, name, None) for name in _WINDOWS]
    limits = [context_length(loaded.model), *windows]
    return min((int(limit) for limit in limits if isinstance(limit, int)), default=_UNLIMITED)


def _declared(model: Any, config: Any) -> bool:
    """Whether the configuration promises plain attention that takes a mask from outside."""
    return (
        accepts(model, "position_ids")
        and accepts(model, "attention_mask")
        and getattr(config, "_attn_implementation", None) in _ATTENTION
        and set(getattr(config, "layer_types", None) or ()) <= _LAYERS
        and not getattr(config, "alibi", False)
    )


def _tried(loaded: LoadedModel) -> bool:
    """Whether a small tree gives what its sequences give by themselves; tried once for each model."""
    model = loaded.model
    if model not in _TRIED:
        try:
            _TRIED[model] = _agrees(loaded)
        except REFUSALS:
            _TRIED[model] = False
    return _TRIED[model]


@torch.inference_mode()
def _agrees(loaded: LoadedModel) -> bool:
    model = loaded.model
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    prompt, options = [7, 3, 5], [[2, 9], [4, 8]]
    tree = np.array([[*prompt, *options[0], *options[1]]]) % vocabulary
    inputs = tree_inputs(loaded, tree, np.array([[0, 1, 2, 3, 4, 3, 4]]), np.array([[0, 0, 0, 1, 1, 2, 2]]))
    everywhere = torch.arange(tree.size, device=loaded.device)
    found = logits_at(model, everywhere, inputs)[0].double()
    whole = torch.tensor([[*prompt, *option] for option in options], device=loaded.device) % vocabulary
    inputs = {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
    expected = logits_at(model, torch.tensor([0, 1, 2, 3, 4, 8, 9], device=loaded.device), inputs)[0].double()
    # A wrong mask or position changes logits by a good part of their spread, rounding by far less.
    spread = (expected - expected.mean(dim=-1, keepdim=True)).square().mean().sqrt()
    error = (found - expected).square().mean().sqrt()
    return bool(error <= (1e-3 if model.dtype in (torch.float32, torch.float64) else 5e-2) * spread)
