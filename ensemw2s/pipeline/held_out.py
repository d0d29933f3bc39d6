"""Held-out labels of the hard pool, by which the training of a student is ended early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ensemw2s.config.method import EarlyStopConfig
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.ensemble.combine.choices import own_choices
from ensemw2s.errors import RunFailedError
from ensemw2s.labelling.labels import Labels
from ensemw2s.pipeline.context import Context
from ensemw2s.runs.stage import fingerprint
from ensemw2s.seeds import sub_seed
from ensemw2s.student.training import labelled_examples

if TYPE_CHECKING:
    from ensemw2s.models.inference.score_table import ScoreTable
    from ensemw2s.models.loading.load import LoadedModel
    from ensemw2s.models.training.early_stopping import Watch

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class HeldOut:
    """Labels that a student is not trained on.

    Attributes:
        watch: ends a training by the agreement with them.
        enc: what a look reads.
    """

    watch: Watch
    enc: EncodedSplit


def hold_out(ctx: Context, labels: Labels, kept: Ints) -> tuple[Ints, HeldOut | None]:
    """Indices of the labels to train on, and those held out of the ``kept`` ones, where early stopping is on.

    Which questions are held out depends on the seed alone, so that students of all teachers and generations hold out
    the same ones as far as their labels are kept.

    Raises:
        RunFailedError: there are too few labels to hold any out.
    """
    config = ctx.config.student.early_stop
    if config is None:
        return kept, None
    if kept.size < 2:
        raise RunFailedError(
            f"{kept.size} label of {labels.teacher} is left, and student.early_stop holds some out.",
            hint="Loosen the filters, or leave student.early_stop out.",
        )
    order = np.random.default_rng(sub_seed(ctx.seed, "held out")).permutation(len(labels))
    drawn = order[np.isin(order, kept)]
    count = min(max(1, round(config.holdout * kept.size)), kept.size - 1)
    return np.sort(drawn[count:]), _held_out(ctx, labels, np.sort(drawn[:count]), config)


def _held_out(ctx: Context, labels: Labels, held: Ints, config: EarlyStopConfig) -> HeldOut:
    from ensemw2s.models.inference.scoring import score_split
    from ensemw2s.models.training.early_stopping import Watch

    enc, agrees = (_options if ctx.config.task == "choice" else _answers)(ctx, labels, held)

    def agreement(loaded: LoadedModel) -> float:
        table = score_split(loaded, enc, compute=ctx.config.compute, top_k=1, tag="labels held out", trunk=ctx.trunk)
        return float(agrees(table).mean())

    mark = {
        "questions": enc.fingerprint(),
        "options": labels.options[held].tolist(),
        "ended": labels.ended[held].tolist(),
        "length_norm": ctx.config.ensemble.length_norm,
    }
    return HeldOut(Watch(config.every, config.patience, agreement, fingerprint(mark)), enc)


_Agrees = Callable[["ScoreTable"], NDArray[np.bool_]]


def _options(ctx: Context, labels: Labels, held: Ints) -> tuple[EncodedSplit, _Agrees]:
    """Whether the student chooses the option that the label is."""
    enc = ctx.encode("strong", [ctx.splits.hard_pool[i].hide_answer() for i in held], "hidden")
    return enc, lambda table: own_choices(table, enc, ctx.config.ensemble).option == labels.options[held]


def _answers(ctx: Context, labels: Labels, held: Ints) -> tuple[EncodedSplit, _Agrees]:
    """Whether the student's greedy answer is the label: the arg-max after every part of it is its next token."""
    examples = labelled_examples([ctx.splits.hard_pool[i] for i in held], [labels.texts[i] for i in held])
    enc = ctx.encode("strong", examples, "answers")
    if labels.soft is not None:  # their labels are the teacher's tokens
        enc = replace(enc, options=[[labels.token_ids[i]] for i in held])
    # A label that was cut at the length limit does not say where to stop.
    free = enc.is_eos & ~labels.ended[held][enc.seq_example].repeat(np.diff(enc.row_offsets))
    return enc, lambda table: np.logical_and.reduceat((table.argmax == enc.row_tokens) | free, enc.row_offsets[:-1])
