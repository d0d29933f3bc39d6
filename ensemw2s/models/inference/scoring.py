"""Scoring a split with one model: one teacher-forced pass, logits at answer positions only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.errors import DataError, RunFailedError
from ensemw2s.kernels import combine
from ensemw2s.models.forward import context_length, vocabulary_size
from ensemw2s.models.inference.row_forward import RowForward
from ensemw2s.models.inference.score_table import ScoreTable
from ensemw2s.models.loading.device import resolve_device
from ensemw2s.models.loading.load import LoadedModel, load_model
from ensemw2s.sink import EventSink, NullSink

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit


def score_split(
    model: LoadedModel | ModelConfig | Path,
    encoded: EncodedSplit,
    *,
    compute: ComputeConfig | None = None,
    top_k: int = 16,
    sink: EventSink | None = None,
    tag: str = "score",
    share_prompts: bool = True,
) -> ScoreTable:
    """Score every row of a split.

    Batches hold sequences of similar length with at most ``compute.batch_tokens`` padded tokens; a batch that runs out
    of memory is halved. Batch sizes change results by floating-point noise only.

    Args:
        model: a model in memory, or what to load (a folder is loaded as float32); loaded models are dropped afterwards.
        encoded: the split, encoded for this model's tokenizer.
        compute: device, batch size and kernel backend.
        top_k: candidates kept at the rows of true answers, at most the vocabulary.
        sink: gets progress under ``tag``, in sequences.
        tag: name of the task.
        share_prompts: run a prompt once for all its options; False runs every sequence as a whole.

    Raises:
        ModelError: the model cannot be loaded.
        DataError: a sequence is longer than the model's context, or its tokens are not the model's.
        RunFailedError: the model's logits are not finite.
    """
    compute, sink = compute or ComputeConfig(), sink or NullSink()
    loaded = opened(model, compute)
    check_fit(loaded, encoded)
    forward = RowForward(encoded, share_prompts=share_prompts)
    collected = _Collected(encoded, min(top_k, vocabulary_size(loaded.model)), compute.backend)
    forward.run([loaded], collected.add, compute=compute, sink=sink, tag=tag)
    return collected.table(tag)


class _Collected:
    """Arrays of a score table while they fill."""

    def __init__(self, encoded: EncodedSplit, top_k: int, backend: str) -> None:
        self.tokens = torch.from_numpy(np.asarray(encoded.row_tokens, dtype=np.int64))
        self.backend = backend
        rows = len(self.tokens)
        answer_rows, _ = encoded.answer_rows(include_eos=True)
        self.answer_place = np.full(rows, -1, dtype=np.int64)
        self.answer_place[answer_rows] = np.arange(len(answer_rows))
        self.target_logprob = np.full(rows, np.nan, dtype=np.float32)
        self.argmax = np.full(rows, -1, dtype=np.int32)
        self.topk_ids = np.full((len(answer_rows), top_k), -1, dtype=np.int32)
        self.topk_logprob = np.full((len(answer_rows), top_k), -np.inf, dtype=np.float32)

    def add(self, rows: NDArray[np.int64], logits_of: list[Tensor]) -> None:
        (logits,) = logits_of
        place = self.answer_place[rows]
        for is_answer in (True, False):  # the candidates are wanted at some rows only, and cost more than the rest
            chosen = np.flatnonzero((place >= 0) == is_answer)
            if not len(chosen):
                continue
            part = logits if len(chosen) == len(rows) else logits[torch.from_numpy(chosen).to(logits.device)]
            result = combine(
                [part],
                [1.0],
                targets=self.tokens[rows[chosen]].to(part.device),
                top_k=self.topk_ids.shape[1] if is_answer else None,
                backend=self.backend,
            )
            self.target_logprob[rows[chosen]] = _numpy(result.target_logprob)
            self.argmax[rows[chosen]] = _numpy(result.argmax)
            if is_answer:
                self.topk_ids[place[chosen]] = _numpy(result.topk_ids)
                self.topk_logprob[place[chosen]] = _numpy(result.topk_logprob)

    def table(self, tag: str) -> ScoreTable:
        bad = int(np.count_nonzero(np.isnan(self.target_logprob)))
        if bad:
            raise RunFailedError(
                f"{tag}: the model gives no finite logits at {bad} of {len(self.target_logprob)} positions.",
                hint="Its weights are damaged or its dtype overflows; try dtype: float32 or bfloat16.",
            )
        return ScoreTable(self.target_logprob, self.argmax, self.topk_ids, self.topk_logprob)


def opened(model: LoadedModel | ModelConfig | Path, compute: ComputeConfig) -> LoadedModel:
    """The model, loaded if it is not yet."""
    device = resolve_device(compute)
    if isinstance(model, LoadedModel):
        return model
    return load_model(model if isinstance(model, ModelConfig) else ModelConfig(path=str(model)), device)


def check_fit(loaded: LoadedModel, encoded: EncodedSplit) -> None:
    """Check that a split's tokens and lengths are within the model's.

    Raises:
        DataError: they are not.
    """
    limit, size = context_length(loaded.model), vocabulary_size(loaded.model)
    for example, prompt, options in zip(encoded.ids, encoded.prompts, encoded.options, strict=True):
        length = len(prompt) + max((len(option) for option in options), default=0)
        if limit is not None and length > limit:
            raise DataError(
                f"Example {example} has {length} tokens with its longest option; {loaded.source} reads {limit}.",
                hint="Shorten it, or lower data.max_length so that it is found before the run.",
            )
    highest = max(
        [int(p.max(initial=0)) for p in encoded.prompts] + [int(np.max(encoded.row_tokens, initial=0))], default=0
    )
    if highest >= size:
        raise DataError(
            f"The data hold token {highest}, but {loaded.source} knows {size} tokens.",
            hint="They were encoded for another tokenizer.",
        )


def _numpy(tensor: Tensor | None) -> NDArray[np.generic]:
    if tensor is None:
        raise ValueError("the kernel left out a result that was asked for")
    return tensor.cpu().numpy()
