"""Token layout of a batch, without loops over sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemw2s.data.encode import EncodedSplit

Ints = NDArray[np.integer[Any]]


def ranges(starts: Ints | int, lengths: Ints) -> NDArray[np.int64]:
    """``starts[i], starts[i] + 1, …`` for ``lengths[i]`` numbers each, one after the other."""
    numbers: NDArray[np.int64] = np.arange(int(lengths.sum()), dtype=np.int64)
    numbers += np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return numbers


class Layout:
    """Flat arrays of a split: its sequences, their lengths and their tokens.

    Attributes:
        offsets: int64 ``[S+1]``, rows of sequence s; its last row is end-of-sequence.
        example: int64 ``[S]``, each sequence's example.
        lengths: int64 ``[S]``, tokens of each option, without end-of-sequence.
        prompt_lengths: int64 ``[n]``, tokens of each prompt.
    """

    def __init__(self, encoded: EncodedSplit) -> None:
        self.offsets = np.asarray(encoded.row_offsets, dtype=np.int64)
        self.example = np.asarray(encoded.seq_example, dtype=np.int64)
        self.lengths = np.diff(self.offsets) - 1
        self.prompt_lengths = np.array([len(prompt) for prompt in encoded.prompts], dtype=np.int64)
        self._prompt_starts = np.cumsum(self.prompt_lengths) - self.prompt_lengths
        self._prompts = np.concatenate([*encoded.prompts, np.empty(0, dtype=np.int32)])
        self._rows = np.asarray(encoded.row_tokens)

    def prompt_tokens(self, examples: Ints) -> Ints:
        """Tokens of the examples' prompts, one after the other."""
        return self._prompts[ranges(self._prompt_starts[examples], self.prompt_lengths[examples])]

    def option_tokens(self, sequences: Ints) -> Ints:
        """Tokens of the sequences' options, one after the other, without end-of-sequence."""
        return self._rows[ranges(self.offsets[sequences], self.lengths[sequences])]

    def wanted_rows(
        self, sequences: Ints, wanted: NDArray[np.bool_], first: Ints, later: Ints
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The wanted rows of sequences, and where their logits are.

        Args:
            sequences: int ``[m]``.
            wanted: bool, for every row of the split.
            first: int ``[m]``, place of the prompt's last token, whose logits are row 0; -1 leaves row 0 out.
            later: int ``[m]``, place of the option's first token, whose logits are row 1.

        Returns:
            int64 row numbers and places, in the order of the sequences.
        """
        counts = self.lengths[sequences] + 1
        rows = ranges(self.offsets[sequences], counts)
        number = ranges(0, counts)
        where = np.where(number == 0, np.repeat(first, counts), np.repeat(later - 1, counts) + number)
        chosen = wanted[rows] & (where >= 0)
        return rows[chosen], where[chosen]


class Grid:
    """Token ids, positions and segments of the rows of a batch, ``[B, L]``.

    Attributes:
        ids: int64, ``pad_id`` where there is nothing.
        positions: int64, 0 where there is nothing.
        segments: int64, -1 where there is nothing.
    """

    def __init__(self, lines: int, width: int, pad_id: int) -> None:
        self.ids = np.full((lines, width), pad_id, dtype=np.int64)
        self.positions = np.zeros_like(self.ids)
        self.segments = np.full_like(self.ids, -1)

    @property
    def mask(self) -> NDArray[np.int64]:
        """1 where there is a token."""
        return (self.segments >= 0).astype(np.int64)

    def tokens(self) -> list[NDArray[np.int64]]:
        """The tokens of each row."""
        return [ids[here] for ids, here in zip(self.ids, self.segments >= 0, strict=True)]

    def put(
        self,
        tokens: Ints,
        lengths: Ints,
        *,
        line: Ints,
        start: Ints | int = 0,
        position: Ints | int = 0,
        segment: Ints | int = 0,
    ) -> None:
        """Write pieces of text, whose tokens follow one another.

        Each goes to its ``line`` from the place ``start``, as ``segment``, and counts positions from ``position``.
        """
        where = np.repeat(line, lengths), ranges(start, lengths)
        self.ids[where] = tokens
        self.positions[where] = ranges(position, lengths)
        self.segments[where] = np.repeat(np.broadcast_to(segment, lengths.shape), lengths)
