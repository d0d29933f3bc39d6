"""Scores of one model on a split: one teacher-forced pass, logits at answer positions only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.errors import DataError, RunFailedError
from ensemw2s.kernels import CombineResult, combine
from ensemw2s.models.forward import context_length, vocabulary_size
from ensemw2s.models.inference.row_forward import RowForward
from ensemw2s.models.inference.score_table import ScoreTable
from ensemw2s.models.loading.device import resolve_device
from ensemw2s.models.loading.load import LoadedModel, load_model
from ensemw2s.models.trunk.store import TrunkStore
from ensemw2s.sink import EventSink, NullSink


def score_split(
    model: LoadedModel | ModelConfig | Path,
    encoded: EncodedSplit,
    *,
    compute: ComputeConfig | None = None,
    top_k: int = 16,
    sink: EventSink | None = None,
    tag: str = "score",
    share_prompts: bool = True,
    trunk: TrunkStore | None = None,
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
        trunk: hidden states below a model's adapters, which are taken from there and kept there.

    Raises:
        ModelError: the model cannot be loaded.
        DataError: a sequence is longer than the model's context, or its tokens are not the model's.
        RunFailedError: the model's logits are not finite.
    """
    compute, sink = compute or ComputeConfig(), sink or NullSink()
    model = _loaded(model, resolve_device(compute))
    check_fit(model, encoded)
    tokens = torch.from_numpy(np.asarray(encoded.row_tokens, dtype=np.int64))
    answer_rows, _ = encoded.answer_rows(include_eos=True)
    answer_place = np.full(len(tokens), -1, dtype=np.int64)
    answer_place[answer_rows] = np.arange(len(answer_rows))
    k = min(top_k, vocabulary_size(model.model))  # at the rows of answers only: candidates cost more than the rest
    found = ScoreArrays(len(tokens), len(answer_rows), k)

    def use(rows: NDArray[np.int64], logits: list[Tensor]) -> None:
        place = answer_place[rows]
        for chosen, keep in ((place >= 0).nonzero()[0], k), ((place < 0).nonzero()[0], None):
            if len(chosen):
                result = _scores_of(logits[0], tokens[rows], chosen, keep, compute.backend)
                found.put(rows[chosen], result, None if keep is None else place[chosen])

    forward = RowForward(encoded, share_prompts=share_prompts)
    forward.run([model], use, compute=compute, sink=sink, tag=tag, trunk=trunk)
    return found.table(tag)


def _loaded(model: LoadedModel | ModelConfig | Path, device: torch.device) -> LoadedModel:
    if isinstance(model, LoadedModel):
        return model
    return load_model(model if isinstance(model, ModelConfig) else ModelConfig(path=str(model)), device)


def _scores_of(
    logits: Tensor, targets: Tensor, chosen: NDArray[np.int64], top_k: int | None, backend: str
) -> CombineResult:
    """Scores of the ``chosen`` rows of logits ``[R, V]`` with targets ``[R]``."""
    part = logits if len(chosen) == len(logits) else logits[torch.from_numpy(chosen).to(logits.device)]
    return combine([part], [1.0], targets=targets[chosen].to(part.device), top_k=top_k, backend=backend)


class ScoreArrays:
    """Arrays of scores that fill batch by batch, with ``top_k`` candidates for a number of ``candidates`` rows."""

    def __init__(self, rows: int, candidates: int, top_k: int) -> None:
        self.target_logprob = np.full(rows, np.nan, dtype=np.float32)
        self.argmax = np.full(rows, -1, dtype=np.int32)
        self.topk_ids = np.full((candidates, top_k), -1, dtype=np.int32)
        self.topk_logprob = np.full((candidates, top_k), -np.inf, dtype=np.float32)

    def put(self, rows: NDArray[np.int64], result: CombineResult, places: NDArray[np.int64] | None = None) -> None:
        """Store a result at int64 ``rows``, and its candidates at ``places``; None stores no candidates."""
        self.target_logprob[rows] = _numpy(result.target_logprob)
        self.argmax[rows] = _numpy(result.argmax)
        if places is not None:
            self.topk_ids[places] = _numpy(result.topk_ids)
            self.topk_logprob[places] = _numpy(result.topk_logprob)

    def table(self, tag: str) -> ScoreTable:
        """The scores of a split, once all rows are there.

        Raises:
            RunFailedError: some are NaN.
        """
        bad = int(np.count_nonzero(np.isnan(self.target_logprob)))
        if bad:
            raise RunFailedError(
                f"{tag}: the model gives no finite logits at {bad} of {len(self.target_logprob)} positions.",
                hint="Its weights are damaged or its dtype overflows; try dtype: float32 or bfloat16.",
            )
        return ScoreTable(self.target_logprob, self.argmax, self.topk_ids, self.topk_logprob)


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
