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
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.kernels import CombineResult, combine
from ensemw2s.models.forward import (
    context_length,
    vocabulary_size,
)
from ensemw2s.models.inference.batches import MAX_LOGITS, Sizes, plan_batches, run_batches
from ensemw2s.models.inference.expert_sampling import OneExpertDecoder
from ensemw2s.models.inference.generation import Generation, candidates_for_rivals, draw_tokens, not_finite, rivals_of
from ensemw2s.models.inference.incremental import IncrementalReader
from ensemw2s.models.inference.joint_scoring import same_vocabulary
from ensemw2s.models.inference.reading import reading_of, tell_readings
from ensemw2s.models.loading.load import LoadedModel, all_ends
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.sink import EventSink, NullSink

__all__ = ["Generation", "generate"]

Tokens = NDArray[np.integer[Any]]


def generate(
    models: Sequence[LoadedModel],
    alphas: Sequence[float],
    prompts: Sequence[Tokens],
    *,
    decoding: DecodingConfig | None = None,
    rule: str = "mixture",
    end_ids: Sequence[int] | None = None,
    seed: int = 0,
    first: int = 0,
    compute: ComputeConfig | None = None,
    keep_top_k: int | None = None,
    sink: EventSink | None = None,
    tag: str = "generate",
) -> list[Generation]:
    """Decode an answer for every prompt from the combined next-token distribution.

    Prompts run in batches of similar length. A sampled token depends on the seed, the prompt's number and the token's
    place, not on how prompts are batched. For ``decoding.experts: one`` see
    :mod:`ensemw2s.models.inference.expert_sampling`.

    Args:
        models: the experts, on one device (see :func:`ensemw2s.models.loading.adapters.opened_models`).
        alphas: their weights; an expert of weight 0 does not run.
        prompts: token arrays, at least one token each.
        decoding: greedy or sampling, and the largest length, end-of-sequence included.
        rule: ``mixture``, ``product`` or ``vote``.
        end_ids: the tokens that end an answer; default all that any of the experts declares.
        seed: for sampling, in [0, 2**63).
        first: number of the first prompt, where these are some of more.
        compute: batch size in padded tokens (prompt and largest answer), and kernel backend.
        keep_top_k: also keep this many candidates for each step.
        sink: gets progress under ``tag``, in prompts.
        tag: name of the task.

    Raises:
        ModelError: the experts' vocabularies differ.
        ConfigError: one expert for each token is asked for under another rule than ``mixture``.
        DataError: a prompt has no tokens, or leaves no room in the models' context.
        RunFailedError: the logits are not finite.
    """
    decoding, compute, sink = decoding or DecodingConfig(), compute or ComputeConfig(), sink or NullSink()
    experts, weights = _active(models, alphas)
    ends = all_ends(experts) if end_ids is None else np.asarray(end_ids, dtype=np.int64)
    decoder: _Decoder | OneExpertDecoder
    if decoding.draws_experts and len(experts) > 1:
        _check_rule(rule)
        decoder = OneExpertDecoder(experts, weights, decoding, ends, seed, compute.backend, keep_top_k)
    else:
        decoder = _Decoder(experts, weights, decoding, rule, ends, seed, compute.backend, keep_top_k)
    return _decode_all(decoder, prompts, first, compute, sink, tag)


def _active(models: Sequence[LoadedModel], alphas: Sequence[float]) -> tuple[list[LoadedModel], list[float]]:
    """The experts with a part in the ensemble, and their weights."""
    if len(alphas) != len(models):
        raise ValueError(f"{len(alphas)} alphas for {len(models)} experts")
    same_vocabulary(models)
    active = [k for k, alpha in enumerate(alphas) if alpha != 0.0]
    return [models[k] for k in active], [float(alphas[k]) for k in active]


def _check_rule(rule: str) -> None:
    if rule != "mixture":
        raise ConfigError(
            f"decoding.experts: one expert for each token samples from the mixture, not under rule {rule!r}.",
            hint="Set experts: all.",
        )


def _decode_all(
    decoder: _Decoder | OneExpertDecoder,
    prompts: Sequence[Tokens],
    first: int,
    compute: ComputeConfig,
    sink: EventSink,
    tag: str,
) -> list[Generation]:
    """Answers to all prompts, in order."""
    rooms = _rooms(decoder.models, prompts, decoder.decoding.max_new_tokens)
    sizes = _sizes(prompts, rooms)
    answers: dict[int, Generation] = {}

    def work(batch: NDArray[np.int64]) -> None:
        found = decoder.decode(batch + first, [prompts[i] for i in batch], rooms[batch])
        answers.update(zip(batch.tolist(), found, strict=True))
        sink.progress(tag, len(answers), len(prompts))

    readings = [reading_of(loaded.model, loaded.pad_id) for loaded in decoder.models]
    batch_tokens = compute.batch_tokens if all(reading.together for reading in readings) else 1
    tell_readings(decoder.models, sink)

    def batches(items: Tokens, scale: float) -> list[NDArray[np.int64]]:
        rows = max(1, int(MAX_LOGITS * scale / sum(vocabulary_size(m.model) for m in decoder.models)))
        planned = plan_batches(sizes, items, int(batch_tokens * scale), rows)
        return planned if all(reading.cached for reading in readings) else _equal_lengths(planned, sizes.prefix)

    with quiet_transformers():
        run_batches(batches, np.arange(len(prompts)), work, device=decoder.models[0].device, name=tag)
    sink.metric(
        "decode",
        tag=tag,
        models=len(decoder.models),
        prompt_tokens=sum(len(prompt) for prompt in prompts),
        new_tokens=sum(len(answer.token_ids) for answer in answers.values()),
    )
    return [answers[number] for number in range(len(prompts))]


@dataclass(slots=True)
class _Answer:
    """What one prompt has produced so far."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False
    rivals: list[float] = field(default_factory=list)
    topk_ids: list[NDArray[np.int32]] = field(default_factory=list)
    topk_logprob: list[NDArray[np.float32]] = field(default_factory=list)

    def generation(self) -> Generation:
        return Generation(
            np.array(self.tokens, dtype=np.int32),
            np.array(self.logprobs, dtype=np.float32),
            self.ended,
            np.array(self.rivals, dtype=np.float32) if self.rivals else None,
            np.array(self.topk_ids, dtype=np.int32) if self.topk_ids else None,
            np.array(self.topk_logprob, dtype=np.float32) if self.topk_logprob else None,
        )


@dataclass(frozen=True, slots=True)
class _Step:
    """One token for every row of a batch: its id, log-probability, the best other token's, and the rule's say."""

    chosen: Tensor
    logprob: Tensor
    rivals: Tensor | None
    result: CombineResult


@dataclass(slots=True)
class _Decoder:
    """Decodes one batch after the other with the same experts and settings."""

    models: list[LoadedModel]
    alphas: list[float]
    decoding: DecodingConfig
    rule: str
    end_ids: NDArray[np.int64]
    seed: int
    backend: str
    keep_top_k: int | None

    @torch.inference_mode()
    def decode(self, numbers: NDArray[np.int64], prompts: list[Tokens], rooms: NDArray[np.int64]) -> list[Generation]:
        """Decode the prompts of one batch; ``numbers`` are their places among all prompts, ``rooms`` their limits."""
        answers = [_Answer() for _ in prompts]
        readers = [IncrementalReader(loaded, len(prompts)) for loaded in self.models]
        logits = [reader.read_rows(prompts) for reader in readers]
        alive = np.arange(len(prompts))
        for step in range(int(rooms.max(initial=0))):
            index = torch.from_numpy(numbers[alive] * self.decoding.max_new_tokens + step)
            taken = self._choose(logits, index.to(logits[0].device))
            tokens = taken.chosen.cpu().numpy()
            self._keep([answers[i] for i in alive], tokens, taken)
            going = np.flatnonzero(~np.isin(tokens, self.end_ids) & (step + 1 < rooms[alive]))
            if not len(going):
                break
            alive, next_tokens = alive[going], taken.chosen[torch.from_numpy(going).to(taken.chosen.device)]
            for reader in readers:
                reader.keep(going)
            logits = [reader.read_next(next_tokens) for reader in readers]
        return [answer.generation() for answer in answers]

    def _choose(self, logits: list[Tensor], index: Tensor) -> _Step:
        """The next token of every row, and what is kept of it."""
        drawn = self._draw(logits, index) if self.decoding.method == "sample" else None
        keep = candidates_for_rivals(self.keep_top_k)
        result = combine(logits, self.alphas, rule=self.rule, targets=drawn, top_k=keep, backend=self.backend)
        if bool(result.logprob.isnan().any()):
            raise not_finite()
        chosen = result.argmax if drawn is None else drawn
        sure = result
        if self.rule == "vote":
            two = None if keep is None else 2
            sure = combine(logits, self.alphas, rule="mixture", targets=chosen, top_k=two, backend=self.backend)
        logprob = sure.logprob if sure.target_logprob is None else sure.target_logprob
        return _Step(chosen, logprob, rivals_of(sure, chosen), result)

    def _draw(self, logits: list[Tensor], index: Tensor) -> Tensor:
        return draw_tokens(
            logits,
            self.alphas,
            seed=self.seed,
            rule=self.rule,
            temperature=self.decoding.temperature,
            top_k=self.decoding.top_k,
            top_p=self.decoding.top_p,
            index=index,
            backend=self.backend,
        )

    def _keep(self, answers: list[_Answer], tokens: NDArray[np.int64], step: _Step) -> None:
        for answer, token, logprob in zip(answers, tokens.tolist(), step.logprob.tolist(), strict=True):
            answer.logprobs.append(logprob)
            if token in self.end_ids:
                answer.ended = True
            else:
                answer.tokens.append(token)
        ids, logprobs = step.result.topk_ids, step.result.topk_logprob
        if step.rivals is None or ids is None or logprobs is None:
            return
        kept, kept_logprob = ids[:, : self.keep_top_k].cpu().numpy(), logprobs[:, : self.keep_top_k].cpu().numpy()
        for place, (answer, rival) in enumerate(zip(answers, step.rivals.tolist(), strict=True)):
            answer.rivals.append(rival)
            answer.topk_ids.append(kept[place])
            answer.topk_logprob.append(kept_logprob[place])


def _rooms(models: Sequence[LoadedModel], prompts: Sequence[Tokens], largest: int) -> NDArray[np.int64]:
    """``[n]``: tokens that an answer may have, by the configuration and the models' context."""
    limits = [limit for loaded in models if (limit := context_length(loaded.model)) is not None]
    rooms = np.full(len(prompts), largest, dtype=np.int64)
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise DataError(f"Prompt {number} has no tokens; there is nothing to continue.")
        if limits:
            rooms[number] = min(largest, min(limits) - len(prompt))
        if rooms[number] < 1:
            raise DataError(
                f"Prompt {number} has {len(prompt)} tokens, which leaves no room in a context of {min(limits)}.",
                hint="Shorten it, or choose a model with a longer context.",
            )
    return rooms


def _sizes(prompts: Sequence[Tokens], rooms: NDArray[np.int64]) -> Sizes:
    one = np.ones(len(prompts), dtype=np.int64)
    return Sizes(np.array([len(p) for p in prompts], dtype=np.int64), rooms, one, one)


def _equal_lengths(batches: list[NDArray[np.int64]], lengths: Tokens) -> list[NDArray[np.int64]]:
    """Split batches so that no prompt needs padding."""
    return [batch[lengths[batch] == length] for batch in batches for length in np.unique(lengths[batch])]
