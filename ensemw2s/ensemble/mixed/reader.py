"""How one expert reads prompts and what is written after them, in its own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.data.encode import tokenise
from ensemw2s.ensemble.mixed.token_texts import TokenTexts
from ensemw2s.ensemble.mixed.union import settled, split_text
from ensemw2s.models.forward import accepts, context_length, logits_at, positions_of, vocabulary_size
from ensemw2s.models.inference.reading import reading_of
from ensemw2s.models.loading.load import LoadedModel
from ensemw2s.models.loading.scaling import length_scaling

#: Texts after which a tokenizer may begin anew, to see how it cuts an answer that is not at the beginning of a text.
_ANCHORS = ("\n", "!", "a")
#: A prompt as text, and as tokens with those that stand before every text.
Prompt = tuple[str, NDArray[np.integer[Any]]]


class Reader:
    """One expert that reads a batch of prompts and answers.

    Args:
        loaded: the expert.
        texts: what its tokens stand for.
    """

    def __init__(self, loaded: LoadedModel, texts: TokenTexts) -> None:
        self.loaded, self.texts = loaded, texts.ended_by(loaded.end_ids)
        self.limit = context_length(loaded.model)
        self._together = reading_of(loaded.model, loaded.pad_id).crops
        self._prompts: list[tuple[str, list[int], list[int]]] = []
        self._streams: list[_Stream] = []

    def begin(self, prompts: Sequence[Prompt]) -> None:
        """Start with the prompts of a batch."""
        plain = tokenise(self.loaded.tokenizer, [text for text, _ in prompts])
        self._prompts = [(text, [int(i) for i in ids], own) for (text, ids), own in zip(prompts, plain, strict=True)]
        rows = len(prompts)
        sizes = [rows] if self._together else [1] * rows
        self._streams = [_Stream(self.loaded, size) for size in sizes]

    def keep(self, going: Sequence[int]) -> None:
        """Go on with some rows alone."""
        self._prompts = [self._prompts[row] for row in going]
        if self._together:
            self._streams[0].keep(going)
        else:
            self._streams = [self._streams[row] for row in going]

    def ids(self, row: int, pieces: Sequence[bytes]) -> list[int] | None:
        """A prompt and the answer so far; None where the bytes of an incomplete character have no tokens."""
        answer = self.answer_ids(row, pieces)
        return None if answer is None else self._prompts[row][1] + answer

    def answer_ids(self, row: int, pieces: Sequence[bytes]) -> list[int] | None:
        """The answer alone.

        What is settled is tokenised anew, the last texts are kept if they are tokens (see :func:`settled`).
        """
        text, last = settled(pieces)
        rest = self.texts.pieces_as_tokens(last)
        if rest is None:
            text, tail = split_text(b"".join(pieces)) or ("", b"")
            rest = self.texts.bytes_as_tokens(tail)
        return None if rest is None else self._continuation(row, text) + rest

    def _continuation(self, row: int, text: str) -> list[int]:
        """Tokenised with the prompt where that leaves the prompt's tokens as they are, else so that the bytes agree."""
        if not text:
            return []
        tokenizer, found = self.loaded.tokenizer, []
        prompt, _, plain = self._prompts[row]
        for before in (prompt, *_ANCHORS):
            own = plain if before is prompt else tokenise(tokenizer, [before])[0]
            (whole,) = tokenise(tokenizer, [before + text])
            if whole[: len(own)] == own:
                rest = whole[len(own) :]
                if self.texts.join(rest) == text.encode():
                    return rest
                found.append(rest)
        return found[0] if found else tokenise(tokenizer, [text])[0]

    def logits(self, sequences: Sequence[list[int] | None]) -> Tensor:
        """What comes next in every row, ``[B, V]``; what it says of a row without tokens means nothing."""
        if self._together:
            return self._streams[0].read(sequences)
        return torch.cat([stream.read([ids]) for stream, ids in zip(self._streams, sequences, strict=True)])


class _Stream:
    """A model that reads rows of tokens, which can change at their end from step to step.

    Its key-value cache is kept up to where the first row changes, as a rule by a token or two. Rows that had more to
    read again, or less, are filled up with masked columns. What cannot be cut (sliding windows), and what cannot be
    masked (recurrent states), is read alone and from the beginning; so is what was rotated for another length.
    """

    def __init__(self, loaded: LoadedModel, rows: int) -> None:
        self.loaded = loaded
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.mask = np.zeros((rows, 0), dtype=np.int64)
        self.cache: Any = None
        self._takes_cache = accepts(loaded.model, "use_cache")
        reading = reading_of(loaded.model, loaded.pad_id)
        self._cached, self._crops = reading.cached, reading.crops
        self._scaling = length_scaling(loaded.model)
        self._explicit = accepts(loaded.model, "position_ids") and (self._cached or self._scaling is not None)

    def keep(self, going: Sequence[int]) -> None:
        """Go on with some rows alone."""
        if len(going) == len(self.tokens):
            return
        self.tokens = [self.tokens[row] for row in going]
        self.mask = self.mask[list(going)]
        if self.cache is not None:
            self.cache.batch_select_indices(torch.tensor(list(going), device=self.loaded.device))

    def read(self, sequences: Sequence[list[int] | None]) -> Tensor:
        """Logits after every row; a row that is None stays as it was."""
        if all(ids is None for ids in sequences):
            return torch.zeros(len(sequences), vocabulary_size(self.loaded.model), device=self.loaded.device)
        wanted = [self.tokens[row] if ids is None else ids for row, ids in enumerate(sequences)]
        self._cut([self._same(row, ids) for row, ids in enumerate(sequences)])
        kept = self.mask.sum(axis=1)
        new = [ids[at:] for ids, at in zip(wanted, kept, strict=True)]
        width = max(1, *map(len, new))
        block = np.full((len(new), width), self.loaded.pad_id, dtype=np.int64)
        shown = np.zeros_like(block)
        for row, ids in enumerate(new):
            if ids:
                block[row, -len(ids) :] = ids
                shown[row, -len(ids) :] = 1
        self.tokens, self.mask = wanted, np.concatenate([self.mask, shown], axis=1)
        return self._forward(torch.from_numpy(block).to(self.loaded.device))

    def _same(self, row: int, ids: list[int] | None) -> int:
        """How many tokens of a row need not be read again; the last one always is, for its logits."""
        before, same = self.tokens[row], 0
        if ids is None:
            return len(before)
        if self._scaling is not None and self._scaling.differs(len(before), len(ids)):
            return 0
        while same < min(len(before), len(ids) - 1) and before[same] == ids[same]:
            same += 1
        return same

    def _cut(self, same: list[int]) -> None:
        """Cut mask and cache where the first row has more than its first tokens that stay the same."""
        length = self.mask.shape[1]
        seen = self.mask.cumsum(axis=1)
        ends = [int(np.searchsorted(seen[row], at, side="right")) for row, at in enumerate(same)]
        end = min([length, *ends]) if self._cached else 0
        if end == length:
            return
        if end and self._crops:
            self.cache.crop(end - length)
        else:
            self.cache, end = None, 0
        self.mask = self.mask[:, :end]

    def _forward(self, block: Tensor) -> Tensor:
        rows, width = block.shape
        mask = torch.from_numpy(self.mask).to(block.device)
        inputs: dict[str, Any] = {"input_ids": block, "attention_mask": mask}
        if self._takes_cache:
            inputs["use_cache"] = self._cached
        if self._cached:
            inputs["past_key_values"] = self.cache
        if self._explicit:
            inputs["position_ids"] = positions_of(mask)[:, -width:]
        last = torch.arange(1, rows + 1, device=block.device) * width - 1
        logits, output = logits_at(self.loaded.model, last, inputs)
        if self._cached:
            self.cache = output.past_key_values
        return logits
