"""Forward passes with a key-value cache: one pass, and step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.models.forward import accepts, logits_at, padded, positions_of, vocabulary_size
from ensemw2s.models.inference.reading import reading_of
from ensemw2s.models.loading.load import LoadedModel
from ensemw2s.models.loading.scaling import length_scaling

Tokens = Sequence[int] | NDArray[np.integer[Any]]


class CachedModel:
    """A model and the inputs that it takes, with its key-value cache or without."""

    def __init__(self, loaded: LoadedModel, *, cached: bool) -> None:
        self.loaded, self.cached = loaded, cached
        self.scaling = length_scaling(loaded.model)
        self._takes_use_cache = accepts(loaded.model, "use_cache")
        # Without padding on the left a model counts positions best by itself: not all begin with 0.
        self._takes_positions = accepts(loaded.model, "position_ids") and (cached or self.scaling is not None)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        places: Tensor,
        cache: Any = None,
        choose: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Any]:
        """One forward pass.

        Args:
            ids: int64 ``[B, L]``, what is read now.
            mask: int64 ``[B, C + L]``, 1 for tokens, with the ``C`` columns of the cache.
            places: int64 ``[P]``, indices into the flattened ``[B·L]`` positions whose logits are wanted.
            cache: of what was read before.
            choose: as in :func:`ensemw2s.models.forward.logits_at`.

        Returns:
            Logits ``[P, V]``, and the cache of all that was read (None without one).
        """
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self._takes_use_cache:
            inputs["use_cache"] = self.cached
        if self.cached:
            inputs["past_key_values"] = cache
        if self._takes_positions:
            inputs["position_ids"] = positions_of(mask)[:, -ids.shape[1] :]
        logits, output = logits_at(self.loaded.model, places, inputs, choose=choose)
        return logits, output.past_key_values if self.cached else None


class IncrementalReader(CachedModel):
    """A model that reads rows of tokens which grow, change at their end, or leave, from step to step.

    Rows lie on common columns, int64 ``ids`` and ``mask`` ``[B, L]`` (1 for tokens), those up to ``seen`` in the cache.
    Columns that are left out of the cache are read again: all of them at each step where a cache cannot be padded
    (recurrent states), where it cannot be cut but a row changed, and where a row's positions are scaled anew.
    """

    def __init__(self, loaded: LoadedModel, rows: int) -> None:
        reading = reading_of(loaded.model, loaded.pad_id)
        super().__init__(loaded, cached=reading.cached)
        self._crops = reading.crops
        self.ids = torch.zeros((rows, 0), dtype=torch.int64, device=loaded.device)
        self.mask = torch.zeros_like(self.ids)
        self.cache: Any = None
        self.seen = 0
        self._lengths = np.zeros(rows, dtype=np.int64)  # of the rows when they were last read

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Go on with some rows alone, int64 ``[R]``."""
        if len(rows) == len(self.ids):
            return
        index = torch.from_numpy(rows).to(self.ids.device)
        self.ids, self.mask, self._lengths = self.ids[index], self.mask[index], self._lengths[rows]
        if self.cache is not None:
            self.cache.batch_select_indices(index)

    def read_next(self, tokens: Tensor) -> Tensor:
        """Append a token, int64 ``[B]``, to every row; gives logits ``[B, V]`` after it."""
        return self._read(tokens[:, None], torch.ones_like(tokens)[:, None])

    def read_rows(self, rows: Sequence[Tokens | None]) -> Tensor:
        """Change rows, whose other tokens stay in the cache.

        Args:
            rows: all tokens of each row; None leaves it as it was, and its logits are undefined.

        Returns:
            Logits ``[B, V]`` after every row.
        """
        if all(tokens is None for tokens in rows):
            return torch.zeros(len(rows), vocabulary_size(self.loaded.model), device=self.ids.device)
        ids, shown = self.ids.cpu().numpy(), self.mask.cpu().numpy()
        before = [own[here == 1] for own, here in zip(ids, shown, strict=True)]
        after = [np.asarray(old if new is None else new) for old, new in zip(before, rows, strict=True)]
        anew = self._rescaled(np.array([len(tokens) for tokens in after]))
        columns, width = shown.cumsum(axis=1), shown.shape[1]
        end = width if self.cached else 0
        for row, new in enumerate(rows):
            if new is not None:
                same = 0 if anew[row] else _common(before[row], after[row])
                end = min(end, int(np.searchsorted(columns[row], same, side="right")))
        self._cut(end)
        kept = self.mask.sum(dim=1).tolist()
        rest = [tokens[at:] for tokens, at in zip(after, kept, strict=True)]
        block, mask = (torch.from_numpy(x).to(self.ids.device) for x in padded(rest, self.loaded.pad_id, left=True))
        return self._read(block, mask)

    def _rescaled(self, lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether rows that have these lengths now, ``[B]``, are rotated otherwise than when they were last read."""
        if self.scaling is None:
            return np.zeros(len(lengths), dtype=np.bool_)
        return self.scaling.differs(self._lengths, lengths)

    def _cut(self, end: int) -> None:
        """Drop the columns from ``end`` on; all of them where the cache cannot be cut."""
        width = self.ids.shape[1]
        if end == width:
            return
        if end and self._crops:
            self.cache.crop(end - width)
        else:
            self.cache, end = None, 0
        self.seen, self.ids, self.mask = end, self.ids[:, :end], self.mask[:, :end]

    def _read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Append columns ``[B, W]``; gives logits ``[B, V]`` at the last one."""
        self.ids, self.mask = torch.cat([self.ids, ids], dim=1), torch.cat([self.mask, mask], dim=1)
        if self.scaling is not None:
            lengths = self.mask.sum(dim=1).cpu().numpy()
            kept = self.mask[:, : self.seen].any(dim=1).cpu().numpy()
            if (self._rescaled(lengths) & kept).any():
                self.cache, self.seen = None, 0
            self._lengths = lengths
        block = self.ids[:, self.seen :]
        last = torch.arange(1, len(block) + 1, device=block.device) * block.shape[1] - 1
        logits, self.cache = self.forward(block, self.mask, last, self.cache)
        self.seen = self.ids.shape[1] if self.cached else 0
        return logits


def _common(before: NDArray[np.integer[Any]], after: NDArray[np.integer[Any]]) -> int:
    """Length of the common prefix in tokens; the last of ``after`` never counts, its logits are wanted."""
    most = max(0, min(len(before), len(after) - 1))
    different = np.flatnonzero(before[:most] != after[:most])
    return int(different[0]) if len(different) else most
