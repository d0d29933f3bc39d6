"""Key-value caches of all experts with the interface of one cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache


class EnsembleCache(Cache):  # type: ignore[misc]
    """A cache for each expert; reordering, cropping and selecting rows act on all of them."""

    def __init__(self, configs: Sequence[Any]) -> None:
        self.parts = [DynamicCache(config=config.get_text_config(decoder=True)) for config in configs]
        super().__init__(layers=[layer for part in self.parts for layer in part.layers])


class StackedCache(EnsembleCache):
    """One cache for experts that run as one batch: its rows are those of the first expert, then of the second, …."""

    def __init__(self, config: Any, experts: int) -> None:
        super().__init__([config])
        self.experts = experts

    @property
    def batch_size(self) -> int:
        """Rows of one expert; −1 for an empty cache."""
        rows = [int(layer.keys.shape[0]) for layer in self.layers if getattr(layer, "keys", None) is not None]
        return rows[0] // self.experts if rows else -1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take, for every expert, the rows ``beam_idx`` of its own."""
        super().reorder_cache(self._of_all(beam_idx))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep, for every expert, the rows ``indices`` of its own."""
        super().batch_select_indices(self._of_all(indices))

    def _of_all(self, rows: Tensor) -> Tensor:
        starts = torch.arange(self.experts, device=rows.device) * self.batch_size
        return (starts[:, None] + rows).flatten()
