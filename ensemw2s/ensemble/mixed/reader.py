"""Next-token logits of one expert for prompts and answers given as text, in its own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.data.tokenizer import tokenise
from ensemw2s.ensemble.mixed.token_texts import TokenTexts
from ensemw2s.ensemble.mixed.union import settled, split_text
from ensemw2s.models.forward import context_length
from ensemw2s.models.inference.incremental import IncrementalReader
from ensemw2s.models.inference.reading import reading_of
from ensemw2s.models.loading.load import LoadedModel

#: Texts after which a tokenizer may begin anew, to see how it cuts an answer that is not at the beginning of a text.
_ANCHORS = ("\n", "!", "a")
#: A prompt as text, and as tokens with those that stand before every text.
Prompt = tuple[str, NDArray[np.integer[Any]]]


class Reader:
    """One expert that reads a batch of prompts and answers in its own tokens."""

    def __init__(self, loaded: LoadedModel, texts: TokenTexts) -> None:
        self.loaded, self.texts = loaded, texts.ended_by(loaded.end_ids)
        self.limit = context_length(loaded.model)
        self._together = reading_of(loaded.model, loaded.pad_id).crops
        self._prompts: list[tuple[str, list[int], list[int]]] = []
        self._readers: list[IncrementalReader] = []

    def begin(self, prompts: Sequence[Prompt]) -> None:
        """Start with the prompts of a batch."""
        plain = tokenise(self.loaded.tokenizer, [text for text, _ in prompts])
        self._prompts = [(text, [int(i) for i in ids], own) for (text, ids), own in zip(prompts, plain, strict=True)]
        sizes = [len(prompts)] if self._together else [1] * len(prompts)
        self._readers = [IncrementalReader(self.loaded, size) for size in sizes]

    def keep(self, going: Sequence[int]) -> None:
        """Go on with some rows alone."""
        self._prompts = [self._prompts[row] for row in going]
        if self._together:
            self._readers[0].keep(np.array(going, dtype=np.int64))
        else:
            self._readers = [self._readers[row] for row in going]

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
        """Next-token logits of every row, ``[B, V]``; undefined for a row that is None."""
        if self._together:
            return self._readers[0].read_rows(sequences)
        return torch.cat([reader.read_rows([ids]) for reader, ids in zip(self._readers, sequences, strict=True)])
