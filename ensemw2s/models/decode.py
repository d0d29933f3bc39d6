"""Decoding answers from an ensemble: greedy or sampled, batched, with a key-value cache for each expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.config.method import DecodingConfig
from ensemw2s.config.training import ComputeConfig
from ensemw2s.errors import DataError, RunFailedError
from ensemw2s.kernels import combine, sample
from ensemw2s.models.batches import MAX_LOGITS, Sizes, plan_batches, run_batches
from ensemw2s.models.forward import (
    accepts,
    context_length,
    is_stateful,
    logits_at,
    padded,
    positions_of,
    vocabulary_size,
)
from ensemw2s.models.joint import same_vocabulary
from ensemw2s.models.load import LoadedModel
from ensemw2s.models.quiet import quiet_transformers
from ensemw2s.sink import EventSink, NullSink

Tokens = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Generation:
    """One decoded answer; log-probabilities are the ensemble's own, natural, without temperature or truncation."""

    token_ids: NDArray[np.int32]
    """``[m]``, without end-of-sequence."""
    logprobs: NDArray[np.float32]
    """``[m]``, or ``[m + 1]`` with that of end-of-sequence if the answer ended."""
    ended: bool
    """Whether end-of-sequence came, rather than the largest length."""
    topk_ids: NDArray[np.int32] | None = None
    """The most probable tokens at each step, falling, ``[m (+ 1), k]``; None where not asked for."""
    topk_logprob: NDArray[np.float32] | None = None
    """Their log-probabilities."""


def generate(
    models: Sequence[LoadedModel],
    alphas: Sequence[float],
    prompts: Sequence[Tokens],
    *,
    decoding: DecodingConfig | None = None,
    rule: str = "mixture",
    eos_id: int | None = None,
    seed: int = 0,
    compute: ComputeConfig | None = None,
    keep_top_k: int | None = None,
    sink: EventSink | None = None,
    tag: str = "generate",
) -> list[Generation]:
    """Decode an answer for every prompt from the combined next-token distribution.

    Prompts run in batches of similar length; finished answers leave their batch. A sampled token depends on the seed, the
    prompt's number and the token's place, not on how prompts are batched.

    Args:
        models: the experts, on one device (see :func:`ensemw2s.models.load.opened_models`).
        alphas: their weights; an expert of weight 0 does not run.
        prompts: token arrays, at least one token each.
        decoding: greedy or sampling, and the largest length, end-of-sequence included.
        rule: ``mixture``, ``product`` or ``vote``.
        eos_id: the token that ends an answer; default the first expert's.
        seed: for sampling, in [0, 2**63).
        compute: batch size in padded tokens (prompt and largest answer), and kernel backend.
        keep_top_k: also keep this many candidates for each step.
        sink: gets progress under ``tag``, in prompts.
        tag: name of the task.

    Returns:
        One generation for each prompt, in order.

    Raises:
        ModelError: the experts' vocabularies differ.
        DataError: a prompt has no tokens, or leaves no room in the models' context.
        RunFailedError: the logits are not finite.
    """
    decoding, compute, sink = decoding or DecodingConfig(), compute or ComputeConfig(), sink or NullSink()
    if len(alphas) != len(models):
        raise ValueError(f"{len(alphas)} alphas for {len(models)} experts")
    same_vocabulary(models)
    active = [(loaded, float(a)) for loaded, a in zip(models, alphas, strict=True) if a != 0.0]
    decoder = _Decoder(
        models=[loaded for loaded, _ in active],
        alphas=[a for _, a in active],
        decoding=decoding,
        rule=rule,
        eos_id=models[0].eos_id if eos_id is None else eos_id,
        seed=seed,
        backend=compute.backend,
        keep_top_k=keep_top_k,
    )
    rooms = _rooms(decoder.models, prompts, decoding.max_new_tokens)
    sizes = _sizes(prompts, rooms)
    results: list[Generation | None] = [None] * len(prompts)
    done = 0

    def work(batch: NDArray[np.int64]) -> None:
        nonlocal done
        for number, generation in zip(batch, decoder.decode(batch, [prompts[i] for i in batch], rooms[batch]), strict=True):
            results[number] = generation
        done += len(batch)
        sink.progress(tag, done, len(prompts))

    def batches(items: Tokens, scale: float) -> list[NDArray[np.int64]]:
        rows = max(1, int(MAX_LOGITS * scale / sum(vocabulary_size(m.model) for m in decoder.models)))
        planned = plan_batches(sizes, items, int(compute.batch_tokens * scale), rows)
        return _equal_lengths(planned, sizes.prefix) if decoder.stateful else planned

    with quiet_transformers():
        run_batches(batches, np.arange(len(prompts)), work, device=models[0].device, name=tag)
    return [generation for generation in results if generation is not None]


@dataclass(slots=True)
class _Answers:
    """What a batch has produced so far; one list for each prompt."""

    tokens: list[list[int]]
    logprobs: list[list[float]]
    ended: list[bool]
    topk_ids: list[list[NDArray[np.int32]]] = field(default_factory=list)
    topk_logprob: list[list[NDArray[np.float32]]] = field(default_factory=list)

    def generation(self, i: int, width: int | None) -> Generation:
        ids = logprob = None
        if width is not None:
            ids = np.array(self.topk_ids[i], dtype=np.int32).reshape(-1, width)
            logprob = np.array(self.topk_logprob[i], dtype=np.float32).reshape(-1, width)
        return Generation(
            np.array(self.tokens[i], dtype=np.int32),
            np.array(self.logprobs[i], dtype=np.float32),
            self.ended[i],
            ids,
            logprob,
        )


@dataclass(slots=True)
class _Decoder:
    """Decodes one batch after the other with the same experts and settings."""

    models: list[LoadedModel]
    alphas: list[float]
    decoding: DecodingConfig
    rule: str
    eos_id: int
    seed: int
    backend: str
    keep_top_k: int | None

    @property
    def stateful(self) -> bool:
        return any(is_stateful(loaded.model) for loaded in self.models)

    @torch.inference_mode()
    def decode(self, numbers: NDArray[np.int64], prompts: list[Tokens], rooms: NDArray[np.int64]) -> list[Generation]:
        """Decode the prompts of one batch; ``numbers`` are their places among all prompts, ``rooms`` their limits."""
        size = len(prompts)
        answers = _Answers(
            [[] for _ in prompts], [[] for _ in prompts], [False] * size, [[] for _ in prompts], [[] for _ in prompts]
        )
        width = None if self.keep_top_k is None else min(self.keep_top_k, vocabulary_size(self.models[0].model))
        streams = [_Stream(loaded, prompts, cached=not self.stateful) for loaded in self.models]
        alive = np.arange(size)
        for step in range(int(rooms.max(initial=0))):
            logits = [stream.logits for stream in streams]
            chosen = self._choose(logits, numbers[alive] * self.decoding.max_new_tokens + step)
            result = combine(
                logits, self.alphas, rule=self.rule, targets=chosen, top_k=width, backend=self.backend
            )
            if result.target_logprob is None or bool(result.logprob.isnan().any()):
                raise RunFailedError(
                    "Decoding: an expert's logits are not finite.",
                    hint="Its weights are damaged or its dtype overflows; try dtype: float32 or bfloat16.",
                )
            tokens = chosen.cpu().numpy()
            self._keep(answers, alive, tokens, result.target_logprob.cpu().numpy())
            if width is not None and result.topk_ids is not None and result.topk_logprob is not None:
                ids, logprob = result.topk_ids.cpu().numpy(), result.topk_logprob.cpu().numpy()
                for place, i in enumerate(alive):
                    answers.topk_ids[i].append(ids[place])
                    answers.topk_logprob[i].append(logprob[place])
            going = np.flatnonzero((tokens != self.eos_id) & (step + 1 < rooms[alive]))
            if not len(going):
                break
            for stream in streams:
                stream.advance(chosen, going, alive)
            alive = alive[going]
        return [answers.generation(i, width) for i in range(size)]

    def _choose(self, logits: list[Tensor], index: NDArray[np.int64]) -> Tensor:
        if self.decoding.method == "greedy":
            return combine(logits, self.alphas, rule=self.rule, backend=self.backend).argmax
        return sample(
            logits,
            self.alphas,
            seed=self.seed,
            rule=self.rule,
            temperature=self.decoding.temperature,
            top_k=self.decoding.top_k,
            top_p=self.decoding.top_p,
            index=torch.from_numpy(index).to(logits[0].device),
            backend=self.backend,
        )

    def _keep(
        self, answers: _Answers, alive: NDArray[np.int64], tokens: NDArray[np.int64], logprobs: NDArray[np.float32]
    ) -> None:
        for i, token, logprob in zip(alive.tolist(), tokens.tolist(), logprobs.tolist(), strict=True):
            answers.logprobs[i].append(logprob)
            if token == self.eos_id:
                answers.ended[i] = True
            else:
                answers.tokens[i].append(token)
