"""Teacher-forced logits at the rows of a split: every continuation token and end-of-sequence, by one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.config.training import ComputeConfig
from ensemw2s.models.batches import MAX_LOGITS, Sizes, plan_batches, run_batches
from ensemw2s.models.forward import accepts, is_stateful, logits_at, padded, positions_of, vocabulary_size
from ensemw2s.models.load import LoadedModel
from ensemw2s.models.quiet import quiet_transformers
from ensemw2s.sink import EventSink

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit

Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Items of one kind: examples (``shared``) or sequences."""

    shared: bool
    ids: NDArray[np.int64]
    sizes: Sizes


class RowForward:
    """Computes the logits of wanted rows, batch by batch, with any model.

    Options of one example share their prompt: it runs once, and its key-value cache is repeated for the options.
    Examples with a single option, and models without such a cache, run as whole sequences.

    Args:
        encoded: the split.
        wanted: bool ``[rows]``, which rows are needed; default all.
        share_prompts: False runs every sequence as a whole.
    """

    def __init__(
        self, encoded: EncodedSplit, wanted: NDArray[np.bool_] | None = None, *, share_prompts: bool = True
    ) -> None:
        self.encoded = encoded
        self.offsets = np.asarray(encoded.row_offsets, dtype=np.int64)
        self.wanted = np.ones(int(self.offsets[-1]), dtype=bool) if wanted is None else wanted
        self._needed = (
            np.add.reduceat(self.wanted, self.offsets[:-1], dtype=np.int64) if len(self.offsets) > 1 else _NONE
        )
        needed = np.flatnonzero(self._needed)
        example = np.asarray(encoded.seq_example, dtype=np.int64)
        count = np.bincount(example[needed], minlength=len(encoded.prompts))
        shared = count > 1 if share_prompts else np.zeros(len(count), dtype=bool)
        self._members = np.split(needed, np.cumsum(count)[:-1]) if len(count) else []
        self._plans = [
            self._plan_examples(np.flatnonzero(shared)),
            self._plan_sequences(needed[~shared[example[needed]]]),
        ]

    @property
    def total(self) -> int:
        """Number of sequences with wanted rows."""
        return int(np.count_nonzero(self._needed))

    def run(
        self,
        models: Sequence[LoadedModel],
        use: Callable[[NDArray[np.int64], list[Tensor]], None],
        *,
        compute: ComputeConfig,
        sink: EventSink,
        tag: str,
    ) -> None:
        """Run all models over all wanted rows.

        Args:
            models: models of one vocabulary on one device.
            use: called for each batch with row numbers int64 ``[P]`` and every model's logits ``[P, V]``.
            compute: ``batch_tokens`` is the limit of a batch; one that runs out of memory is halved.
            sink: gets progress under ``tag``, in sequences.
            tag: name of the task.
        """
        done = 0
        vocabulary = sum(vocabulary_size(loaded.model) for loaded in models)

        def work(plan: _Plan, batch: NDArray[np.int64]) -> None:
            nonlocal done
            parts = [self.logits(loaded, plan, batch) for loaded in models]
            use(parts[0][0], [logits for _, logits in parts])
            done += len(self._sequences_of(plan, batch))
            sink.progress(tag, done, self.total)

        def batches(plan: _Plan, items: Ints, scale: float) -> list[NDArray[np.int64]]:
            rows = max(1, int(MAX_LOGITS * scale / vocabulary))
            return plan_batches(plan.sizes, items, int(compute.batch_tokens * scale), rows)

        with quiet_transformers():
            for plan in self._plans_for(models):
                items = np.arange(len(plan.ids))
                run_batches(partial(batches, plan), items, partial(work, plan), device=models[0].device, name=tag)

    def _plans_for(self, models: Sequence[LoadedModel]) -> list[_Plan]:
        if any(is_stateful(loaded.model) for loaded in models):
            return [self._plan_sequences(np.flatnonzero(self._needed))]
        return [plan for plan in self._plans if len(plan.ids)]

    def _sequences_of(self, plan: _Plan, batch: Ints) -> NDArray[np.int64]:
        """The sequences of a batch."""
        ids = plan.ids[batch]
        return np.concatenate([self._members[e] for e in ids]) if plan.shared else ids

    @torch.inference_mode()
    def logits(self, loaded: LoadedModel, plan: _Plan, batch: Ints) -> tuple[NDArray[np.int64], Tensor]:
        """Run one model on a batch.

        Returns:
            Row numbers int64 ``[P]``, and logits ``[P, V]`` in the model's data type.
        """
        sequences = self._sequences_of(plan, batch)
        if plan.shared:
            return self._shared(loaded, plan.ids[batch], sequences)
        return self._whole(loaded, sequences)

    def _whole(self, loaded: LoadedModel, sequences: Ints) -> tuple[NDArray[np.int64], Tensor]:
        prompts, options = self._tokens(sequences)
        ids, mask = padded([np.concatenate([p, o]) for p, o in zip(prompts, options, strict=True)], loaded.pad_id)
        rows, where = self._rows(sequences, [len(p) - 1 for p in prompts], ids.shape[1])
        inputs: dict[str, Any] = {"input_ids": _on(loaded, ids), "attention_mask": _on(loaded, mask)}
        if accepts(loaded.model, "use_cache"):
            inputs["use_cache"] = False
        return rows, logits_at(loaded.model, _on(loaded, where), inputs)[0]

    def _shared(self, loaded: LoadedModel, examples: Ints, sequences: Ints) -> tuple[NDArray[np.int64], Tensor]:
        model, encoded = loaded.model, self.encoded
        place = np.repeat(np.arange(len(examples)), [len(self._members[e]) for e in examples])
        ids, mask = padded([encoded.prompts[e] for e in examples], loaded.pad_id, left=True)
        prompt_mask = _on(loaded, mask)
        explicit = accepts(model, "position_ids")
        last = np.arange(1, len(examples) + 1) * ids.shape[1] - 1
        inputs: dict[str, Any] = {"input_ids": _on(loaded, ids), "attention_mask": prompt_mask, "use_cache": True}
        if explicit:
            inputs["position_ids"] = positions_of(prompt_mask)
        first, output = logits_at(model, _on(loaded, last), inputs)
        repeat = _on(loaded, place)
        cache = output.past_key_values
        cache.batch_select_indices(repeat)
        _, options = self._tokens(sequences)
        ids, mask = padded(options, loaded.pad_id)
        option_mask = _on(loaded, mask)
        inputs = {
            "input_ids": _on(loaded, ids),
            "attention_mask": torch.cat([prompt_mask[repeat], option_mask], dim=1),
            "past_key_values": cache,
            "use_cache": True,
        }
        if explicit:
            inputs["position_ids"] = prompt_mask.sum(dim=1)[repeat][:, None] + positions_of(option_mask)
        starts = self.offsets[sequences]
        at_start = self.wanted[starts]
        rows, where = self._rows(sequences, [-1] * len(sequences), ids.shape[1], skip_first=True)
        if not len(rows):
            return starts[at_start], first[_on(loaded, place[at_start])]
        later, _ = logits_at(model, _on(loaded, where), inputs)
        return np.concatenate([starts[at_start], rows]), torch.cat([first[_on(loaded, place[at_start])], later])

    def _rows(
        self, sequences: Ints, first: list[int], width: int, *, skip_first: bool = False
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Wanted rows of the sequences and where, in a flattened batch ``width`` wide, their logits are.

        The logits of a sequence's row ``j`` are at place ``first + j`` of its line.
        """
        rows, where = [], []
        for line, s in enumerate(sequences):
            row = np.arange(self.offsets[s] + skip_first, self.offsets[s + 1])
            row = row[self.wanted[row]]
            rows.append(row)
            where.append(line * width + first[line] + row - self.offsets[s])
        return np.concatenate(rows), np.concatenate(where)

    def _tokens(self, sequences: Ints) -> tuple[list[Ints], list[Ints]]:
        encoded = self.encoded
        pairs = [(int(encoded.seq_example[s]), int(encoded.seq_option[s])) for s in sequences]
        return [encoded.prompts[e] for e, _ in pairs], [encoded.options[e][o] for e, o in pairs]

    def _plan_sequences(self, sequences: NDArray[np.int64]) -> _Plan:
        prompts = np.array([len(self.encoded.prompts[e]) for e in self.encoded.seq_example[sequences]], dtype=np.int64)
        lengths = prompts + np.diff(self.offsets)[sequences] - 1
        nothing, one = np.zeros(len(sequences), dtype=np.int64), np.ones(len(sequences), dtype=np.int64)
        return _Plan(False, sequences, Sizes(lengths, nothing, one, self._needed[sequences]))

    def _plan_examples(self, examples: NDArray[np.int64]) -> _Plan:
        tokens = np.diff(self.offsets) - 1
        members = [self._members[e] for e in examples]
        sizes = Sizes(
            np.array([len(self.encoded.prompts[e]) for e in examples], dtype=np.int64),
            np.array([tokens[m].max() for m in members], dtype=np.int64),
            np.array([len(m) for m in members], dtype=np.int64),
            np.array([self._needed[m].sum() for m in members], dtype=np.int64),
        )
        return _Plan(True, examples, sizes)


_NONE = np.zeros(0, dtype=np.int64)


def _on(loaded: LoadedModel, array: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(loaded.device)
