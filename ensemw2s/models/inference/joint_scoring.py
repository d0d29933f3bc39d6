"""Scores of a whole ensemble at given rows, with all its experts in memory.

Most of a run needs each expert alone (:mod:`ensemw2s.models.inference.scoring`). This is for what their separate
scores do not tell: the product rule, rows whose ensemble arg-max the kept candidates leave open, and the ensemble's
own candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.config.training import ComputeConfig
from ensemw2s.errors import ModelError
from ensemw2s.kernels import CombineResult, combine
from ensemw2s.models.forward import vocabulary_size
from ensemw2s.models.inference.row_forward import RowForward
from ensemw2s.models.inference.scoring import check_fit
from ensemw2s.models.loading.load import LoadedModel
from ensemw2s.sink import EventSink, NullSink

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit


@dataclass(frozen=True, slots=True)
class JointScores:
    """What an ensemble says at ``R`` rows of a split, in the order in which they were asked for; natural logarithms."""

    rows: NDArray[np.int64]
    """``[R]``: row numbers."""
    target_logprob: NDArray[np.float32]
    """``[R]``: of each row's own token; −inf where the rule gives it no chance."""
    argmax: NDArray[np.int32]
    """``[R]``: the ensemble's most probable token; ties: the lowest id."""
    topk_ids: NDArray[np.int32] | None
    """``[R, k]``: the ensemble's most probable tokens, falling; None where not asked for."""
    topk_logprob: NDArray[np.float32] | None
    """``[R, k]``: their log-probabilities."""


def sequence_rows(encoded: EncodedSplit, sequences: NDArray[np.integer]) -> NDArray[np.int64]:
    """All rows of some sequences, int64, one sequence after the other, each ending with its end-of-sequence row."""
    offsets = np.asarray(encoded.row_offsets, dtype=np.int64)
    parts = [np.arange(offsets[s], offsets[s + 1]) for s in np.asarray(sequences)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def score_joint(
    models: Sequence[LoadedModel],
    alphas: Sequence[float],
    encoded: EncodedSplit,
    rows: NDArray[np.integer],
    *,
    rule: str = "mixture",
    top_k: int | None = None,
    compute: ComputeConfig | None = None,
    sink: EventSink | None = None,
    tag: str = "score-joint",
) -> JointScores:
    """Score an ensemble at given rows.

    Args:
        models: the experts, on one device (see :func:`ensemw2s.models.loading.adapters.opened_models`).
        alphas: their weights; an expert of weight 0 has no part.
        encoded: the split.
        rows: int ``[R]``, row numbers (see :func:`sequence_rows`); only their sequences run.
        rule: ``mixture``, ``product`` or ``vote``.
        top_k: also give this many candidates.
        compute: batch size and kernel backend.
        sink: gets progress under ``tag``, in sequences.
        tag: name of the task.

    Raises:
        ModelError: the experts' vocabularies differ.
        DataError: a sequence is longer than the models' context, or its tokens are not the models'.
    """
    return score_joint_each(
        models, [alphas], encoded, rows, rule=rule, top_k=top_k, compute=compute, sink=sink, tag=tag
    )[0]


def score_joint_each(
    models: Sequence[LoadedModel],
    weightings: Sequence[Sequence[float]],
    encoded: EncodedSplit,
    rows: NDArray[np.integer],
    *,
    rule: str = "mixture",
    top_k: int | None = None,
    compute: ComputeConfig | None = None,
    sink: EventSink | None = None,
    tag: str = "score-joint",
) -> list[JointScores]:
    """Score several ensembles of the same experts in one pass, for example every prefix of the rounds.

    Args:
        models: the experts.
        weightings: the weights of all experts for each ensemble; 0 leaves an expert out.
        encoded: the split.
        rows: row numbers.
        rule: of combination.
        top_k: candidates.
        compute: batch size and backend.
        sink: gets progress.
        tag: name of the task.

    Returns:
        One result for each weighting; arguments and errors as in :func:`score_joint`.
    """
    compute = compute or ComputeConfig()
    same_vocabulary(models)
    for loaded in models:
        check_fit(loaded, encoded)
    asked = np.asarray(rows, dtype=np.int64)
    wanted = np.zeros(int(np.asarray(encoded.row_offsets)[-1]), dtype=bool)
    wanted[asked] = True
    place = np.cumsum(wanted) - 1
    tokens = torch.from_numpy(np.asarray(encoded.row_tokens, dtype=np.int64))
    k = None if top_k is None else min(top_k, vocabulary_size(models[0].model))
    tables = [_Table(int(wanted.sum()), k) for _ in weightings]

    def use(batch: NDArray[np.int64], logits: list[Tensor]) -> None:
        targets = tokens[batch].to(logits[0].device)
        for table, alphas in zip(tables, weightings, strict=True):
            result = combine(logits, alphas, rule=rule, targets=targets, top_k=k, backend=compute.backend)
            table.add(place[batch], result)

    if len(asked):
        RowForward(encoded, wanted).run(models, use, compute=compute, sink=sink or NullSink(), tag=tag)
    return [table.scores(asked, place[asked]) for table in tables]


def same_vocabulary(models: Sequence[LoadedModel]) -> None:
    """Check that experts can be combined.

    Raises:
        ModelError: their vocabularies differ in size.
    """
    if not models:
        raise ValueError("an ensemble needs at least one expert")
    sizes = [vocabulary_size(loaded.model) for loaded in models]
    for loaded, size in zip(models, sizes, strict=True):
        if size != sizes[0]:
            raise ModelError(
                f"{loaded.source} knows {size} tokens, {models[0].source} knows {sizes[0]}; they cannot be combined.",
                hint="The experts of one ensemble come from one base.",
            )


class _Table:
    """Arrays of one result while they fill, in row order."""

    def __init__(self, rows: int, top_k: int | None) -> None:
        self.target = np.full(rows, np.nan, dtype=np.float32)
        self.argmax = np.full(rows, -1, dtype=np.int32)
        self.ids = None if top_k is None else np.full((rows, top_k), -1, dtype=np.int32)
        self.logprob = None if top_k is None else np.full((rows, top_k), -np.inf, dtype=np.float32)

    def add(self, place: NDArray[np.int64], result: CombineResult) -> None:
        self.argmax[place] = result.argmax.cpu().numpy()
        if result.target_logprob is not None:
            self.target[place] = result.target_logprob.cpu().numpy()
        if self.ids is not None and self.logprob is not None and result.topk_ids is not None:
            self.ids[place] = result.topk_ids.cpu().numpy()
            self.logprob[place] = result.topk_logprob.cpu().numpy() if result.topk_logprob is not None else -np.inf

    def scores(self, rows: NDArray[np.int64], place: NDArray[np.int64]) -> JointScores:
        return JointScores(
            rows,
            self.target[place],
            self.argmax[place],
            None if self.ids is None else self.ids[place],
            None if self.logprob is None else self.logprob[place],
        )
