"""Sampling with one expert for each token.

For every token of an answer an expert is drawn afresh, with its share ``ᾱ_k`` of the weights, and the token comes from
that expert's distribution on the text so far. The token then has the mixture's distribution ``Σ ᾱ_k P_k`` whatever
came before it, so whole answers follow the mixture. At other temperatures, or truncated, they would not; nor would they
with one draw for a whole answer. The draws of experts do not depend on the tokens, so all are made first.

An expert that is drawn again reads the tokens that the others added meanwhile, in one pass. The probability of an
answer under the mixture takes all experts: at the end each reads the rest, and its logits come from the hidden states
that were kept on the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.kernels import combine, sample
from ensemw2s.models.forward import padded, vocabulary_size
from ensemw2s.models.inference.batches import MAX_LOGITS
from ensemw2s.models.inference.generation import (
    Decoder,
    Generation,
    candidates_needed,
    draw_tokens,
    generations,
    not_finite,
    step_outputs,
)
from ensemw2s.models.inference.incremental import CachedModel
from ensemw2s.models.inference.reading import reading_of
from ensemw2s.models.inference.token_grid import ranges
from ensemw2s.models.loading.load import LoadedModel
from ensemw2s.models.loading.scaling import length_scaling
from ensemw2s.seeds import sub_seed

Ints = NDArray[np.integer[Any]]


def draw_experts(alphas: Sequence[float], seed: int, index: Ints) -> NDArray[np.int64]:
    """Draw an expert for each token.

    Args:
        alphas: positive weights of the K experts, not normalised.
        seed: of the decoding.
        index: int, any shape; a draw depends on the seed and its index alone, and on no draw of a token.

    Returns:
        Experts in ``[0, K)``, of the shape of ``index``; expert ``k`` with probability ``ᾱ_k``.
    """
    logits = torch.tensor([math.log(alpha) for alpha in alphas], dtype=torch.float64).expand(index.size, -1)
    places = torch.from_numpy(np.ascontiguousarray(index, dtype=np.int64).reshape(-1))
    drawn = sample([logits], [1.0], seed=sub_seed(seed, "expert"), index=places, backend="reference")
    return np.asarray(drawn.numpy(), dtype=np.int64).reshape(index.shape)


class OneExpertDecoder(Decoder):
    """Decodes every token from one expert's distribution."""

    @torch.inference_mode()
    def decode(self, numbers: Ints, prompts: list[Ints], limits: Ints) -> list[Generation]:
        """Decode the prompts of one batch."""
        index = numbers[:, None] * self.decoding.max_new_tokens + np.arange(int(limits.max(initial=0)))
        experts = draw_experts(self.alphas, self.seed, index)
        text = _Text(prompts, limits, self.models[0])
        readers = [_Reader(loaded, text) for loaded in self.models]
        for step in range(index.shape[1]):
            alive = np.flatnonzero(text.going(self.end_ids))  # answers go on together: the less is read twice
            for speaker in np.unique(experts[alive, step]):
                rows = alive[experts[alive, step] == speaker]
                text.append(rows, self._draw(readers[speaker].next_logits(rows), index[rows, step]))
        return self._scored(text, readers)

    def _draw(self, logits: Tensor, index: Ints) -> Tensor:
        places = torch.from_numpy(np.ascontiguousarray(index, dtype=np.int64)).to(logits.device)
        return draw_tokens([logits], [1.0], seed=self.seed, index=places, backend=self.backend)

    def _scored(self, text: _Text, readers: list[_Reader]) -> list[Generation]:
        """The answers, with their tokens' log-probabilities under the mixture of all experts."""
        vocabulary = sum(vocabulary_size(loaded.model) for loaded in self.models)
        keep = candidates_needed(self.keep_top_k)
        answers: list[Generation] = []
        for rows in _parts(text.lengths, MAX_LOGITS // vocabulary):
            chosen = text.answers(rows)
            targets = torch.from_numpy(chosen).to(text.ids.device)
            logits = [reader.answer_logits(rows) for reader in readers]
            result = combine(logits, self.alphas, targets=targets, top_k=keep, backend=self.backend)
            if result.target_logprob is None or bool(result.target_logprob.isnan().any()):
                raise not_finite()
            owner = np.repeat(np.arange(len(rows)), text.lengths[rows])
            kept = step_outputs(targets, result, result, self.keep_top_k)
            answers += generations(owner, chosen, kept, self.end_ids)
        return answers


class _Text:
    """The tokens of a batch on common columns: prompts padded on the left to ``start``, answers from there.

    ``ids`` and ``mask`` are int64 ``[B, start + longest answer]``; ``prompts`` and ``lengths`` int64 ``[B]`` count the
    tokens of prompts and of answers.
    """

    def __init__(self, prompts: list[Ints], limits: Ints, loaded: LoadedModel) -> None:
        ids, mask = padded(prompts, loaded.pad_id, left=True)
        self.start = ids.shape[1]
        room = ((0, 0), (0, int(limits.max(initial=0))))
        self.ids = torch.from_numpy(np.pad(ids, room, constant_values=loaded.pad_id)).to(loaded.device)
        self.mask = torch.from_numpy(np.pad(mask, room)).to(loaded.device)
        self.limits = limits
        self.prompts = mask.sum(axis=1)
        self.lengths = np.zeros(len(prompts), dtype=np.int64)
        self._written = np.zeros((len(prompts), room[1][1]), dtype=np.int64)

    def going(self, end_ids: Ints) -> NDArray[np.bool_]:
        """Mask of the answers that have room and have not ended, bool ``[B]``."""
        last = self._written[np.arange(len(self.lengths)), np.maximum(self.lengths - 1, 0)]
        going: NDArray[np.bool_] = (self.lengths < self.limits) & ((self.lengths == 0) | ~np.isin(last, end_ids))
        return going

    def append(self, rows: Ints, tokens: Tensor) -> None:
        """Append a token int64 to each of the answers ``rows``."""
        lines = torch.from_numpy(rows).to(self.ids.device)
        columns = torch.from_numpy(self.start + self.lengths[rows]).to(self.ids.device)
        self.ids[lines, columns] = tokens
        self.mask[lines, columns] = 1
        self._written[rows, self.lengths[rows]] = tokens.cpu().numpy()
        self.lengths[rows] += 1

    def answers(self, rows: Ints) -> NDArray[np.int64]:
        """The tokens of the answers ``rows``, one after the other, end-of-sequence included."""
        return np.concatenate([self._written[row, : self.lengths[row]] for row in rows])


class _Reader(CachedModel):
    """One expert's keys, values and hidden states of a batch, extended as far as its logits are needed.

    Rows of a batch have read up to different columns. They go on together from the first column that one of them lacks:
    the others read a few tokens again, and no row needs a cache of a shape of its own. Of every place of an answer it
    keeps the last hidden state, so that what all experts say of the answers takes no reading again. Where answers grow
    past a length at which positions are scaled anew, nothing is kept: what is read is read from the beginning.
    """

    def __init__(self, loaded: LoadedModel, text: _Text) -> None:
        scaling = length_scaling(loaded.model)
        grows = scaling is not None and bool(scaling.differs(text.prompts, text.prompts + text.limits).any())
        super().__init__(loaded, cached=reading_of(loaded.model, loaded.pad_id).cuts and not grows)
        self.text = text
        self._scaling = scaling if grows else None
        self.read = np.zeros(len(text.lengths), dtype=np.int64)
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._states: Tensor | None = None

    def next_logits(self, rows: Ints) -> Tensor:
        """Logits ``[R, V]`` for the next token of the rows int ``[R]``."""
        ends = self.text.start + self.text.lengths
        lines = rows
        if not self.read.any():  # every prompt is read once in any case: all at once
            lines = np.arange(len(ends))
        stop = int(ends[lines].max())
        begin = min(int(self.read[lines].min()), int(ends[rows].min()) - 1) if self.cached else 0
        places = np.searchsorted(lines, rows) * (stop - begin) + ends[rows] - 1 - begin
        logits = self._run(lines, begin, stop, places)
        self.read[lines] = ends[lines]
        return logits

    def answer_logits(self, rows: Ints) -> Tensor:
        """Logits at every token of the answers ``rows``, one answer after the other: ``[Σ lengths, V]``."""
        start, lengths = self.text.start, self.text.lengths[rows]
        if self._scaling is not None:
            return self._answer_logits_by_regime(rows)
        stop = start - 1 + int(lengths.max())
        begin = min(int(self.read[rows].min()), stop - 1) if self.cached else 0
        if self._states is None:  # never read, or its states cannot be had
            begin = min(begin, start - 1)
        first = np.arange(len(rows)) * (stop - begin) + start - 1 - begin
        wanted = np.repeat(rows, lengths), ranges(0, lengths)
        return self._run(rows, begin, stop, ranges(first, lengths), wanted)

    def _answer_logits_by_regime(self, rows: Ints) -> Tensor:
        """The same where scaling changes on the way: every token after a text that ends where its regime does."""
        text, lengths = self.text, self.text.lengths[rows]
        number, token = np.repeat(np.arange(len(rows)), lengths), ranges(0, lengths)
        before = text.prompts[rows][number] + token  # tokens that the expert has read when it says this one
        regimes = self._scaling.regimes(before) if self._scaling is not None else np.zeros_like(before)
        out: Tensor | None = None
        for regime in np.unique(regimes):
            chosen = np.flatnonzero(regimes == regime)
            last = np.zeros(len(rows), dtype=np.int64)
            np.maximum.at(last, number[chosen], token[chosen])
            lines, stop = np.unique(number[chosen]), text.start + int(last.max())
            places = np.searchsorted(lines, number[chosen]) * stop + text.start - 1 + token[chosen]
            logits = self._run(rows[lines], 0, stop, places, ends=text.start + last[lines])
            out = logits.new_empty((len(before), logits.shape[1])) if out is None else out
            out[torch.from_numpy(chosen).to(out.device)] = logits
        if out is None:
            raise ValueError("there are no answers")
        return out

    def _run(
        self,
        lines: Ints,
        begin: int,
        stop: int,
        places: Ints,
        wanted: tuple[Ints, Ints] | None = None,
        ends: Ints | None = None,
    ) -> Tensor:
        """Read columns ``[begin, stop)`` of some lines after what is kept; those of each line before its ``ends`` only.

        Gives logits at the flattened ``places``; or, from hidden states, at the tokens ``wanted`` of answers (rows, and
        tokens of each), read now or before.
        """
        from transformers import DynamicCache

        device = self.text.ids.device
        which = slice(None) if len(lines) == len(self.read) else torch.from_numpy(lines).to(device)
        mask = self.text.mask[which, :stop]
        if ends is not None:
            mask = mask * (torch.arange(stop, device=device) < torch.from_numpy(ends).to(device)[:, None])
        cache = DynamicCache()
        for layer, (keys, values) in self._kept.items() if begin > 0 else ():
            here = which if isinstance(which, slice) else which.to(keys.device)
            cache.update(keys[:, :, :begin][here], values[:, :, :begin][here], layer)
        positions = torch.from_numpy(places).to(device)

        def choose(states: Tensor) -> Tensor:
            kept = self._keep_states(states.view(len(lines), stop - begin, -1), which, begin, stop)
            if wanted is None:
                return states.index_select(0, positions)
            rows, tokens = (torch.from_numpy(x).to(kept.device) for x in wanted)
            return kept[rows, tokens]

        # Hidden states of another regime say nothing of the tokens that come before it.
        pick = None if self._scaling else choose
        logits, _ = self.forward(self.text.ids[which, begin:stop], mask, positions, cache, pick)
        if self.cached and wanted is None:
            self._keep(cache, which, begin, stop)
        return logits

    def _keep_states(self, states: Tensor, which: slice | Tensor, begin: int, stop: int) -> Tensor:
        """Store the hidden states ``[R, stop − begin, H]`` that say something of an answer; gives all there are."""
        before = self.text.start - 1
        if self._states is None:
            self._states = states.new_zeros((len(self.read), self.text.ids.shape[1] - before, states.shape[2]))
        here = which if isinstance(which, slice) else which.to(states.device)
        first = max(begin, before)
        self._states[here, first - before : stop - before] = states[:, first - begin :]
        return self._states

    def _keep(self, cache: Any, which: slice | Tensor, begin: int, stop: int) -> None:
        """Store the keys and values of columns ``[begin, stop)``."""
        for layer, new in enumerate(cache.layers):
            if new.keys is None:  # a layer that shares another one's
                continue
            if layer not in self._kept:
                columns = self.text.ids.shape[1]
                keys, values = (
                    x.new_zeros((len(self.read), x.shape[1], columns, x.shape[3])) for x in (new.keys, new.values)
                )
                self._kept[layer] = (keys, values)
            here = which if isinstance(which, slice) else which.to(new.keys.device)
            for kept, fresh in zip(self._kept[layer], (new.keys, new.values), strict=True):
                kept[here, :, begin:stop] = fresh[:, :, begin:stop]


def _parts(lengths: Ints, most: int) -> list[NDArray[np.int64]]:
    """Rows in order, in parts of at most ``most`` tokens, or of one row."""
    parts: list[NDArray[np.int64]] = []
    start = 0
    for row in range(1, len(lengths) + 1):
        if row == len(lengths) or int(lengths[start : row + 1].sum()) > most:
            parts.append(np.arange(start, row))
            start = row
    return parts
