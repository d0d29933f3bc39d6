"""Teacher-forced logits at the rows of a split: every continuation token and end-of-sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.config.training import ComputeConfig
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.models.forward import logits_at, vocabulary_size
from ensemw2s.models.inference.batches import MAX_LOGITS, Sizes, plan_batches, run_batches
from ensemw2s.models.inference.incremental import CachedModel
from ensemw2s.models.inference.reading import reading_of, report_readings_once
from ensemw2s.models.inference.token_grid import Grid, Layout, ranges
from ensemw2s.models.inference.tree_attention import longest_tree, tree_inputs, tree_texts
from ensemw2s.models.loading.load import LoadedModel
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.models.loading.scaling import length_scaling
from ensemw2s.models.trunk.kept import KeptTrunk, Text, kept_trunk, text_of
from ensemw2s.models.trunk.store import TrunkStore
from ensemw2s.sink import EventSink

Ints = NDArray[np.integer[Any]]

#: Largest total of squared row lengths in a batch of trees: entries of its mask.
_MAX_PAIRS = 2**22
#: Rows of trees up to this many tokens are worth it whatever is in them: there, attention costs little beside the rest.
_SHORT = 512
#: Padding of a batch on a CPU, in tokens, that costs about as much as another batch.
_MAX_PADDING = 256


@dataclass(frozen=True, slots=True)
class _Plan:
    """Items of one kind: examples whose options share a prompt (``tree``, ``cache``), or sequences (``whole``)."""

    kind: Literal["tree", "cache", "whole"]
    ids: NDArray[np.int64]
    sizes: Sizes
    max_pairs: int | None = None


class RowForward:
    """Computes the logits of wanted rows, batch by batch, with any model.

    Options of one example share their prompt, which runs once: as one row with all options (``tree``), or, where the
    model cannot read that or the row would be too long, by repeating the prompt's key-value cache (``cache``).
    Examples with a single option, models without such a cache, and examples with options on another side of a length at
    which the model's positions are scaled anew, run as sequences (``whole``); where padding changes them, one by one.

    Args:
        encoded: the split.
        wanted: bool ``[rows]``, which rows are needed; default all.
        share_prompts: False runs every sequence as a whole.
    """

    def __init__(
        self, encoded: EncodedSplit, wanted: NDArray[np.bool_] | None = None, *, share_prompts: bool = True
    ) -> None:
        self.layout = Layout(encoded)
        offsets = self.layout.offsets
        self.wanted = np.ones(int(offsets[-1]), dtype=bool) if wanted is None else wanted
        self._needed = np.add.reduceat(self.wanted, offsets[:-1], dtype=np.int64) if len(offsets) > 1 else _NONE
        needed = np.flatnonzero(self._needed)
        count = np.bincount(self.layout.example[needed], minlength=len(encoded.prompts))
        self._shared = count > 1 if share_prompts else np.zeros(len(count), dtype=bool)
        self._members = np.split(needed, np.cumsum(count)[:-1]) if len(count) else []

    def run(
        self,
        models: Sequence[LoadedModel],
        use: Callable[[NDArray[np.int64], list[Tensor]], None],
        *,
        compute: ComputeConfig,
        sink: EventSink,
        tag: str,
        trunk: TrunkStore | None = None,
    ) -> None:
        """Run all models, of one vocabulary and on one device, over all wanted rows.

        ``use`` is called for each batch with row numbers int64 ``[P]`` and every model's logits ``[P, V]``. The sink
        gets progress in sequences. With a ``trunk``, models with adapters in their last layers start from hidden states
        that are kept there, except where a prompt is too long to be in one row with its options.
        """
        done, total = 0, int(np.count_nonzero(self._needed))
        vocabulary = sum(vocabulary_size(loaded.model) for loaded in models)
        device = models[0].device

        def work(plan: _Plan, batch: NDArray[np.int64]) -> None:
            nonlocal done
            parts = [self.logits(loaded, plan, batch, kept) for loaded, kept in zip(models, trunks, strict=True)]
            use(parts[0][0], [logits for _, logits in parts])
            done += len(self._sequences_of(plan, batch))
            sink.progress(tag, done, total)

        trunks = [kept_trunk(loaded, trunk) for loaded in models]
        readings = [reading_of(loaded.model, loaded.pad_id) for loaded in models]
        batch_tokens = compute.batch_tokens if all(reading.together for reading in readings) else 1

        def batches(plan: _Plan, items: Ints, scale: float) -> list[NDArray[np.int64]]:
            return plan_batches(
                plan.sizes,
                items,
                int(batch_tokens * scale),
                max(1, int(MAX_LOGITS * scale / vocabulary)),
                max_padding=_MAX_PADDING if device.type == "cpu" else None,
                max_pairs=None if plan.max_pairs is None else int(plan.max_pairs * scale),
            )

        report_readings_once(models, sink)
        with quiet_transformers(), _flushed(trunks):
            for plan in self._plans_for(models):
                items = np.arange(len(plan.ids))
                run_batches(partial(batches, plan), items, partial(work, plan), device=device, name=tag)

    def _plans_for(self, models: Sequence[LoadedModel]) -> list[_Plan]:
        needed = np.flatnonzero(self._needed)
        if not all(reading_of(loaded.model, loaded.pad_id).cached for loaded in models):
            return [self._plan_sequences(needed)]
        sharing = self._shared & self._one_regime(models)
        shared = np.flatnonzero(sharing)
        longest = min(longest_tree(loaded) for loaded in models) if len(shared) else 0
        tokens, fits = self._trees(shared, longest)
        plans = [
            self._plan_trees(shared[fits], tokens[fits]),
            self._plan_caches(shared[~fits]),
            self._plan_sequences(needed[~sharing[self.layout.example[needed]]]),
        ]
        return [plan for plan in plans if len(plan.ids)]

    def _one_regime(self, models: Sequence[LoadedModel]) -> NDArray[np.bool_]:
        """Whether the positions of each example's prompt are scaled as with its options after it, bool ``[n]``."""
        same = np.ones(len(self.layout.prompt_lengths), dtype=bool)
        example = self.layout.example
        prompts = self.layout.prompt_lengths[example]
        for scaling in filter(None, (length_scaling(loaded.model) for loaded in models)):
            same[example[scaling.differs(prompts, prompts + self.layout.lengths)]] = False
        return same

    def _trees(self, examples: Ints, longest: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Tokens of each example's prompt and options, and whether they go in one row.

        That row has to be short enough, and most of its pairs of positions should be ones that see each other.
        """
        prompt, each = self.layout.prompt_lengths[self.layout.example], self.layout.lengths
        every = self._needed > 0
        count = len(self.layout.prompt_lengths)
        options = np.bincount(self.layout.example, each * every, count).astype(np.int64)[examples]
        pairs = np.bincount(self.layout.example, each * (prompt + each) * every, count).astype(np.int64)[examples]
        own = self.layout.prompt_lengths[examples]
        tokens = own + options
        return tokens, (tokens <= longest) & ((tokens <= _SHORT) | (tokens**2 <= 2 * (own**2 + pairs)))

    def _sequences_of(self, plan: _Plan, batch: Ints) -> NDArray[np.int64]:
        """The sequences of a batch."""
        if plan.kind == "whole":
            return plan.ids[batch]
        return np.concatenate([self._members[e] for e in plan.ids[batch]])

    @torch.inference_mode()
    def logits(
        self, loaded: LoadedModel, plan: _Plan, batch: Ints, trunk: KeptTrunk | None = None
    ) -> tuple[NDArray[np.int64], Tensor]:
        """Run one model on a batch.

        Returns:
            Row numbers int64 ``[P]``, and logits ``[P, V]`` in the model's data type.
        """
        sequences = self._sequences_of(plan, batch)
        if plan.kind == "tree":
            return self._tree(loaded, plan.ids[batch], sequences, trunk)
        if plan.kind == "cache":
            return self._cache(loaded, plan.ids[batch], sequences)
        return self._whole(loaded, sequences, trunk)

    def _tree(
        self, loaded: LoadedModel, examples: Ints, sequences: Ints, trunk: KeptTrunk | None
    ) -> tuple[NDArray[np.int64], Tensor]:
        layout, (line, number, before) = self.layout, self._places(examples, sequences)
        prompts, options = layout.prompt_lengths[examples], layout.lengths[sequences]
        start = prompts[line] + before
        grid = Grid(len(examples), int((start + options).max()), loaded.pad_id)
        grid.put(layout.prompt_tokens(examples), prompts, line=np.arange(len(examples)))
        tokens = layout.option_tokens(sequences)
        grid.put(tokens, options, line=line, start=start, position=prompts[line], segment=number + 1)
        base = line * grid.ids.shape[1]
        rows, where = layout.wanted_rows(sequences, self.wanted, base + prompts[line] - 1, base + start)
        inputs = tree_inputs(loaded, grid.ids, grid.positions, grid.segments)
        with _from_kept(trunk, grid, partial(tree_texts, loaded, grid.ids, grid.positions, grid.segments)):
            return rows, logits_at(loaded.model, _on(loaded, where), inputs)[0]

    def _whole(self, loaded: LoadedModel, sequences: Ints, trunk: KeptTrunk | None) -> tuple[NDArray[np.int64], Tensor]:
        layout, line = self.layout, np.arange(len(sequences))
        examples = layout.example[sequences]
        prompts, options = layout.prompt_lengths[examples], layout.lengths[sequences]
        grid = Grid(len(sequences), int((prompts + options).max()), loaded.pad_id)
        grid.put(layout.prompt_tokens(examples), prompts, line=line)
        grid.put(layout.option_tokens(sequences), options, line=line, start=prompts)
        start = line * grid.ids.shape[1] + prompts
        rows, where = layout.wanted_rows(sequences, self.wanted, start - 1, start)
        model = CachedModel(loaded, cached=False)
        with _from_kept(trunk, grid, lambda: [text_of(loaded.model, ids) for ids in grid.tokens()]):
            return rows, model.forward(_on(loaded, grid.ids), _on(loaded, grid.mask), _on(loaded, where))[0]

    def _cache(self, loaded: LoadedModel, examples: Ints, sequences: Ints) -> tuple[NDArray[np.int64], Tensor]:
        model, layout = CachedModel(loaded, cached=True), self.layout
        place, _, _ = self._places(examples, sequences)
        lengths = layout.prompt_lengths[examples]
        grid = Grid(len(examples), int(lengths.max()), loaded.pad_id)
        width = grid.ids.shape[1]
        grid.put(layout.prompt_tokens(examples), lengths, line=np.arange(len(examples)), start=width - lengths)
        prompt_mask = _on(loaded, grid.mask)
        last = np.arange(1, len(examples) + 1) * width - 1
        first, cache = model.forward(_on(loaded, grid.ids), prompt_mask, _on(loaded, last))
        repeat = _on(loaded, place)
        cache.batch_select_indices(repeat)
        options, line = layout.lengths[sequences], np.arange(len(sequences))
        grid = Grid(len(sequences), int(options.max()), loaded.pad_id)
        grid.put(layout.option_tokens(sequences), options, line=line)
        starts = layout.offsets[sequences]
        at_start = self.wanted[starts]
        first = first[_on(loaded, place[at_start])]
        nowhere, line = np.full(len(sequences), -1), line * grid.ids.shape[1]
        rows, where = layout.wanted_rows(sequences, self.wanted, nowhere, line)
        if not len(rows):
            return starts[at_start], first
        mask = torch.cat([prompt_mask[repeat], _on(loaded, grid.mask)], dim=1)
        later, _ = model.forward(_on(loaded, grid.ids), mask, _on(loaded, where), cache)
        return np.concatenate([starts[at_start], rows]), torch.cat([first, later])

    def _places(self, examples: Ints, sequences: Ints) -> tuple[Ints, Ints, Ints]:
        """For each sequence: its example's place in the batch, its number there, and the tokens of those before it."""
        counts = np.array([len(self._members[e]) for e in examples], dtype=np.int64)
        line = np.repeat(np.arange(len(examples)), counts)
        tokens = self.layout.lengths[sequences]
        ahead = np.cumsum(tokens) - tokens
        return line, ranges(0, counts), ahead - np.repeat(ahead[np.cumsum(counts) - counts], counts)

    def _plan_sequences(self, sequences: NDArray[np.int64]) -> _Plan:
        lengths = self.layout.prompt_lengths[self.layout.example[sequences]] + self.layout.lengths[sequences]
        nothing, one = np.zeros(len(sequences), dtype=np.int64), np.ones(len(sequences), dtype=np.int64)
        return _Plan("whole", sequences, Sizes(lengths, nothing, one, self._needed[sequences]))

    def _plan_caches(self, examples: NDArray[np.int64]) -> _Plan:
        tokens, members = self.layout.lengths, [self._members[e] for e in examples]
        sizes = Sizes(
            self.layout.prompt_lengths[examples],
            np.array([tokens[m].max() for m in members], dtype=np.int64),
            np.array([len(m) for m in members], dtype=np.int64),
            np.array([self._needed[m].sum() for m in members], dtype=np.int64),
        )
        return _Plan("cache", examples, sizes)

    def _plan_trees(self, examples: NDArray[np.int64], tokens: NDArray[np.int64]) -> _Plan:
        nothing, one = np.zeros(len(examples), dtype=np.int64), np.ones(len(examples), dtype=np.int64)
        rows = np.array([self._needed[self._members[e]].sum() for e in examples], dtype=np.int64)
        return _Plan("tree", examples, Sizes(tokens, nothing, one, rows), _MAX_PAIRS)


_NONE = np.zeros(0, dtype=np.int64)


@contextmanager
def _flushed(trunks: Sequence[KeptTrunk | None]) -> Iterator[None]:
    """However the block ends, what was computed in it is kept."""
    try:
        yield
    finally:
        for trunk in filter(None, trunks):
            trunk.flush()


def _from_kept(trunk: KeptTrunk | None, grid: Grid, rows: Callable[[], list[Text]]) -> AbstractContextManager[None]:
    """For one forward pass: the model starts from the states of a grid's rows, each of which is one text."""
    if trunk is None:
        return nullcontext()
    texts = rows()
    trunk.keep(texts)
    return trunk.given(trunk.batch(texts, grid.ids.shape[1]))


def _on(loaded: LoadedModel, array: Ints) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(loaded.device)
