"""Scores of a whole ensemble at given rows, with all its experts in memory.

Most of a run scores each expert alone (:mod:`ensemw2s.models.inference.scoring`). Joint scores are needed for the
product rule, for rows whose ensemble arg-max the kept candidates leave open, and for the ensemble's own candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.config.training import ComputeConfig
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.errors import ModelError
from ensemw2s.kernels import combine
from ensemw2s.models.forward import vocabulary_size
from ensemw2s.models.inference.row_forward import RowForward
from ensemw2s.models.inference.scoring import ScoreArrays, check_fit
from ensemw2s.models.loading.load import LoadedModel
from ensemw2s.models.trunk.store import TrunkStore
from ensemw2s.sink import EventSink, NullSink


@dataclass(frozen=True, slots=True)
class JointScores:
    """Scores of an ensemble at ``R`` rows of a split, in the order of the request; natural logarithms."""

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
    **options: Any,
) -> JointScores:
    """Score one ensemble; arguments and errors as in :func:`score_joint_each`."""
    return score_joint_each(models, [alphas], encoded, rows, **options)[0]


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
    trunk: TrunkStore | None = None,
) -> list[JointScores]:
    """Score several ensembles of the same experts in one pass, for example every prefix of the rounds.

    Args:
        models: the experts, on one device (see :func:`ensemw2s.models.loading.adapters.opened_models`).
        weightings: the weights of all experts for each ensemble, not normalised; 0 leaves an expert out.
        encoded: the split, encoded for the experts' tokenizer.
        rows: row numbers, int; the same row may be asked for twice.
        rule: ``mixture``, ``product`` or ``vote``.
        top_k: also give this many candidates for each row.
        compute: batch size and kernel backend.
        sink: gets progress under ``tag``, in sequences.
        tag: name of the task.
        trunk: hidden states below the experts' adapters, which are taken from there and kept there.

    Raises:
        ModelError: the experts' vocabularies differ.
        DataError: a sequence is longer than the models' context, or its tokens are not the models'.
    """
    compute = compute or ComputeConfig()
    same_vocabulary(models)
    for loaded in models:
        check_fit(loaded, encoded)
    asked = np.asarray(rows, dtype=np.int64)
    tokens = torch.from_numpy(np.asarray(encoded.row_tokens, dtype=np.int64))
    wanted = np.bincount(asked, minlength=len(tokens)) > 0
    place, n = np.cumsum(wanted) - 1, int(wanted.sum())
    k = None if top_k is None else min(top_k, vocabulary_size(models[0].model))
    arrays = [ScoreArrays(n, 0 if k is None else n, k or 0) for _ in weightings]

    def use(batch: NDArray[np.int64], logits: list[Tensor]) -> None:
        targets, at = tokens[batch].to(logits[0].device), place[batch]
        for found, alphas in zip(arrays, weightings, strict=True):
            result = combine(logits, alphas, rule=rule, targets=targets, top_k=k, backend=compute.backend)
            found.put(at, result, None if k is None else at)

    if len(asked):
        forward = RowForward(encoded, wanted)
        forward.run(models, use, compute=compute, sink=sink or NullSink(), tag=tag, trunk=trunk)
    return [_scores_at(place[asked], found, asked, candidates=k is not None) for found in arrays]


def _scores_at(at: NDArray[np.int64], found: ScoreArrays, rows: NDArray[np.int64], *, candidates: bool) -> JointScores:
    """The scores of ``rows``, which are ``found`` at the places ``at``, int64 ``[R]`` both."""
    top = (found.topk_ids[at], found.topk_logprob[at]) if candidates else (None, None)
    return JointScores(rows, found.target_logprob[at], found.argmax[at], *top)


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
