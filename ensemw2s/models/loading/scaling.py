"""Position scaling that depends on the length of a text: LongRoPE, and dynamic NTK.

``transformers`` rotates all rows of a batch as the longest of them asks for, and with dynamic NTK as the longest text
that it has met before. Here every row is rotated by its own length alone, as if it were read by itself; keys that were
rotated for a shorter text are of no use once its regime has changed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

_MODELS: WeakKeyDictionary[Any, LengthScaling | None] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class LengthScaling:
    """The lengths at which a model's rotation changes."""

    switches: tuple[int, ...]
    """A longer text has other, fixed frequencies (LongRoPE)."""
    growth: int | None
    """Every longer text has frequencies of its own (dynamic NTK); None where that is not used."""
    by_row: bool = True
    """Whether the model's rotary modules were found, so that rows of a batch can differ."""

    def regimes(self, lengths: ArrayLike) -> NDArray[np.int64]:
        """Numbers that are equal where texts of these lengths, int ``[…]``, are rotated by the same frequencies."""
        tokens = np.asarray(lengths, dtype=np.int64)
        found = sum((tokens > switch).astype(np.int64) for switch in self.switches) + np.zeros_like(tokens)
        if self.growth is not None:
            found += np.where(tokens > self.growth, tokens, 0) * (len(self.switches) + 1)
        return np.asarray(found, dtype=np.int64)

    def differs(self, before: ArrayLike, after: ArrayLike) -> NDArray[np.bool_]:
        """Whether texts that grew from one length to another have to be read again."""
        return np.asarray(self.regimes(before) != self.regimes(after), dtype=np.bool_)


def base_of_adapters(model: Any) -> Any:
    """The module under adapters; a model without them is its own."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def length_scaling(model: Any) -> LengthScaling | None:
    """A model's scaling by length, or None; from then on its rotary modules treat every row by its own length.

    Callers give ``position_ids`` for every row, 0 or the last position for padding: a row's length is their maximum.
    """
    base = base_of_adapters(model)
    if base not in _MODELS:
        scaling = declared_scaling(base.config)
        if scaling is not None:
            modules = [module for module in base.modules() if _is_rotary(module)]
            scaling = LengthScaling(scaling.switches, scaling.growth, bool(modules))
            for module in modules:
                module.forward = functools.partial(_by_row, module.forward, module, scaling)
        _MODELS[base] = scaling
    return _MODELS[base]


def declared_scaling(config: Any) -> LengthScaling | None:
    """Scaling by length in a ``transformers`` configuration; None where there is none."""
    text = config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None)
    switches, growth = set(), None
    for kind, parameters in _rotations(text):
        original = parameters.get("original_max_position_embeddings")
        original = original or getattr(text, "original_max_position_embeddings", None) or longest
        if kind in ("longrope", "su") and original is not None:
            switches.add(int(original))
        elif "dynamic" in kind and longest is not None:
            growth = int(longest)
    return LengthScaling(tuple(sorted(switches)), growth) if switches or growth is not None else None


def context_of(config: Any) -> int | None:
    """Largest number of tokens that a model was made for; None where its configuration does not say.

    Dynamic NTK stretches the context that the model was trained with by its ``factor``.
    """
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    factors = [float(p.get("factor") or 1.0) for kind, p in _rotations(text) if "dynamic" in kind]
    return None if limit is None else int(limit * max([1.0, *factors]))


def _rotations(text: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and parameters of every rotation that a configuration declares, one for each type of layer or for all."""
    for name in ("rope_parameters", "rope_scaling"):
        found = getattr(text, name, None)
        if isinstance(found, dict):
            for part in (found, *found.values()):
                if isinstance(part, dict):
                    yield str(part.get("rope_type") or part.get("type") or ""), part


def _is_rotary(module: Any) -> bool:
    """Whether a module gives the cosines and sines of positions."""
    return "rotary" in type(module).__name__.lower() and "position_ids" in inspect.signature(module.forward).parameters


def _by_row(
    forward: Callable[..., tuple[Tensor, Tensor]],
    module: Any,
    scaling: LengthScaling,
    x: Tensor,
    position_ids: Tensor,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """A rotary module's ``forward``, called for the rows of each regime apart: cosines and sines ``[B, L, D]``.

    ``x`` gives data type and device; ``position_ids`` are int64 ``[B, L]``.

    Returns:
        Cosines and sines ``[B, L, D]``.
    """
    lengths = position_ids.amax(dim=-1).flatten() + 1
    regimes = scaling.regimes(lengths.cpu().numpy())
    if position_ids.ndim != 2 or (regimes == regimes[0]).all():
        _forget(module)
        return forward(x, position_ids, *args, **kwargs)
    out: tuple[Tensor, Tensor] | None = None
    for regime in np.unique(regimes):
        rows = torch.from_numpy(np.flatnonzero(regimes == regime)).to(position_ids.device)
        _forget(module)
        parts = forward(x, position_ids[rows], *args, **kwargs)
        if out is None:
            cos, sin = (part.new_empty((len(position_ids), *part.shape[1:])) for part in parts)
            out = cos, sin
        for whole, part in zip(out, parts, strict=True):
            whole[rows.to(whole.device)] = part
    if out is None:
        raise ValueError("a batch has no rows")
    return out


def _forget(module: Any) -> None:
    """Let a dynamic rotation start from its own frequencies instead of those of a longer text that came before."""
    before = getattr(module, "original_max_seq_len", None)
    for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
        prefix = name.removesuffix("max_seq_len_cached")
        original = getattr(module, f"{prefix}original_inv_freq", None)
        if before is not None and original is not None and getattr(module, name) != before:
            current = getattr(module, f"{prefix}inv_freq")
            setattr(module, f"{prefix}inv_freq", original.to(current.device, copy=True))
            setattr(module, name, before)
