"""Hidden states of texts below the adapters: from those that are kept, or computed and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.models.loading.layers import decoder_layers, untouched_layers
from ensemw2s.models.loading.load import LoadedModel
from ensemw2s.models.loading.scaling import base_of_adapters, length_scaling
from ensemw2s.models.trunk.injection import Trunk, text_inputs
from ensemw2s.models.trunk.store import StateFolder, TrunkStore, bits_of, tensor_of

#: Settings that change nothing that a trunk computes.
_IDLE = ("_name_or_path", "use_cache", "transformers_version")


@dataclass(frozen=True, slots=True)
class Text:
    """What a trunk reads as one row, by itself."""

    key: bytes
    """Of its content."""
    length: int
    """Number of tokens."""
    inputs: Callable[[], dict[str, Any]]
    """The model's keyword arguments for it alone, ``[1, L]``."""


def text_of(model: Any, tokens: NDArray[np.integer[Any]]) -> Text:
    """Tokens, int ``[L]``, that see all those before them."""
    ids = np.ascontiguousarray(tokens, dtype=np.int64)
    return Text(_key(ids), len(ids), lambda: text_inputs(model, ids[None], np.ones_like(ids)[None]))


def tree_of(inputs: Callable[[], dict[str, Any]], *content: NDArray[np.int64]) -> Text:
    """A prompt and its options in one row: token ids, positions and segments, int64 ``[L]`` each."""
    return Text(_key(*content), len(content[0]), inputs)


class KeptTrunk:
    """A model's trunk with its kept states."""

    def __init__(self, trunk: Trunk, folder: StateFolder) -> None:
        self._trunk = trunk
        self._folder = folder

    def given(self, states: Tensor) -> AbstractContextManager[None]:
        """See :meth:`ensemw2s.models.trunk.injection.Trunk.given`."""
        return self._trunk.given(states.to(self._trunk.device))

    def keep(self, texts: Sequence[Text]) -> None:
        """Compute the states of those texts that are not kept, one by one, and keep them as far as there is room.

        One by one, so that they depend on nothing but the text: not on who asked first, nor on what is kept.
        """
        self._folder.refresh()
        if self._folder.root.full:
            return
        for text in texts:
            if text.key not in self._folder and not self._folder.put(text.key, self._computed(text)):
                return

    def flush(self) -> None:
        """Write the states that wait in memory."""
        self._folder.flush()

    def batch(self, texts: Sequence[Text], width: int) -> Tensor:
        """States ``[B, width, H]`` of texts, each from the left and zero behind it, in the CPU's memory."""
        rows = [self._bits(text) for text in texts]
        out = np.zeros((len(texts), width, rows[0].shape[1]), dtype=rows[0].dtype)
        for row, text, bits in zip(out, texts, rows, strict=True):
            row[: text.length] = bits
        return tensor_of(out, self._dtype)

    def _bits(self, text: Text) -> NDArray[Any]:
        kept = self._folder.get(text.key, text.length)
        return bits_of(self._computed(text)) if kept is None else kept

    @property
    def _dtype(self) -> torch.dtype:
        if self._folder.dtype is None:
            raise ValueError("no states were computed yet")
        return self._folder.dtype

    def _computed(self, text: Text) -> Tensor:
        states = self._trunk.states(text.inputs())[0]
        if self._folder.dtype is None:
            self._folder.dtype = states.dtype
        return states


def kept_trunk(loaded: LoadedModel, store: TrunkStore | None) -> KeptTrunk | None:
    """The trunk of a model whose adapters are in its last layers; None where the whole model has to run.

    It has to, and the log says so once, where its last layers on states of single texts do not give what the whole
    model gives.
    """
    model: Any = loaded.model
    depth = 0 if store is None else untouched_layers(model)
    found = decoder_layers(model) if depth else None
    if store is None or found is None or depth == len(found[1]):
        return None
    name = _fingerprint(model, f"{found[0]}.", depth) if length_scaling(model) is None else None
    trunk = Trunk(model, found[1], depth)
    if name is not None and name not in store.works:
        store.works[name] = trunk.forms if trunk.works() else None
    forms = None if name is None else store.works[name]
    kind = f"{type(base_of_adapters(model)).__name__} with {len(found[1])} layers"
    if name is None or forms is None:
        store.say(
            f"{kind}: its last {len(found[1]) - depth} layers on kept hidden states do not give what the whole model "
            "gives; the whole model runs every time."
        )
        return None
    trunk.forms = forms
    often = "once for each text" if store.limit > 0 else "for every batch"
    store.say(f"{kind}: the hidden states that enter layer {depth + 1} are computed {often}.")
    return KeptTrunk(trunk, store.folder(name))


def _fingerprint(model: Any, layers: str, depth: int) -> str | None:
    """Of everything that decides the states: weights and configuration below the adapters, and numerics.

    None where weights, of any layer, are not in memory.
    """
    import transformers
    from xxhash import xxh3_128

    base = base_of_adapters(model)
    config = {key: value for key, value in base.config.to_dict().items() if key not in _IDLE}
    digest = xxh3_128()
    device = base.get_input_embeddings().weight.device.type
    numerics = [transformers.__version__, torch.__version__, device, torch.get_num_threads() if device == "cpu" else 0]
    attention = getattr(base.config, "_attn_implementation", None)
    said = [type(base).__name__, depth, attention, numerics, config]
    digest.update(json.dumps(said, sort_keys=True, default=str).encode())
    for key, value in base.state_dict().items():
        if isinstance(value, Tensor) and value.is_meta:
            return None
        above = key.startswith(layers) and int(key.removeprefix(layers).partition(".")[0]) >= depth
        if above or ".lora_" in key or not isinstance(value, Tensor):
            continue
        digest.update(f"{key} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return str(digest.hexdigest())


def _key(*arrays: NDArray[np.int64]) -> bytes:
    digest = hashlib.sha256(repr([len(arrays), len(arrays[0])]).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()
