"""Counts tokens and FLOPs of a stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ensemw2s.config.training import TrainingConfig
from ensemw2s.runs.cost import DecodeCounter, Work, forward_flops, parameters_above, training_flops
from ensemw2s.sink import EventSink, TeeSink

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit
    from ensemw2s.pipeline.context import Context, Side


def count_training(ctx: Context, side: Side, trained: Path, config: TrainingConfig) -> None:
    """A fine-tuning, as its ``trained.json`` tells it; interrupted starts do not count twice."""
    from ensemw2s.models.loading.info import layer_count

    tokens = int(json.loads(trained.read_text(encoding="utf-8"))["tokens"])
    n, lora = ctx.parameters(side), config.lora
    last = None if lora is None else lora.last_layers
    above = n if last is None else parameters_above(n, layer_count(ctx.base(side).config), last)
    flops = training_flops(n, tokens, lora=lora is not None, checkpointing=config.gradient_checkpointing, above=above)
    ctx.run.stages.count(Work("train", "", tokens, flops))


def count_scoring(
    ctx: Context, side: Side, what: str, enc: EncodedSplit, sequences: NDArray[np.int64] | None = None, models: int = 1
) -> None:
    """A teacher-forced pass of ``models`` models over sequences of a split (int64 ``[s]``), or over all.

    A model reads a prompt once for all its options, and every option.
    """
    asked = np.arange(enc.seq_example.size) if sequences is None else np.unique(sequences)
    options = int((np.diff(enc.row_offsets)[asked] - 1).sum())
    tokens = models * (options + sum(len(enc.prompts[i]) for i in np.unique(enc.seq_example[asked])))
    ctx.run.stages.count(Work("score", what, tokens, forward_flops(ctx.parameters(side), tokens)))


@contextmanager
def counted_decoding(ctx: Context, side: Side, what: str) -> Iterator[EventSink]:
    """Yields the sink for decoding; what it hears of is added when the block ends."""
    counter = DecodeCounter()
    yield TeeSink(ctx.sink, counter)
    flops = forward_flops(ctx.parameters(side), counter.tokens)
    ctx.run.stages.count(Work("decode", what, counter.tokens, flops))
