"""Decoding answers from an ensemble: greedy or sampled, batched, with a key-value cache for each expert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.config.method import DecodingConfig
from ensemw2s.config.training import ComputeConfig
from ensemw2s.errors import ConfigError, DataError
from ensemw2s.kernels import combine
from ensemw2s.models.forward import (
    context_length,
    vocabulary_size,
)
from ensemw2s.models.inference.batches import MAX_LOGITS, Sizes, plan_batches, run_batches
from ensemw2s.models.inference.expert_sampling import OneExpertDecoder
from ensemw2s.models.inference.generation import (
    Decoder,
    Generation,
    candidates_needed,
    draw_tokens,
    generations,
    not_finite,
    step_outputs,
)
from ensemw2s.models.inference.incremental import IncrementalReader
from ensemw2s.models.inference.joint_scoring import same_vocabulary
from ensemw2s.models.inference.reading import reading_of, report_readings_once
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
    decoding, compute = decoding or DecodingConfig(), compute or ComputeConfig()
    decoder = _decoder(models, alphas, decoding, rule, end_ids, seed, compute.backend, keep_top_k)
    return _decode_all(decoder, prompts, first, compute, sink or NullSink(), tag)


def _decoder(
    models: Sequence[LoadedModel],
    alphas: Sequence[float],
    decoding: DecodingConfig,
    rule: str,
    end_ids: Sequence[int] | None,
    seed: int,
    backend: str,
    keep_top_k: int | None,
) -> Decoder:
    """The decoder of the experts with a weight."""
    if len(alphas) != len(models):
        raise ValueError(f"{len(alphas)} alphas for {len(models)} experts")
    same_vocabulary(models)
    experts = [model for model, alpha in zip(models, alphas, strict=True) if alpha != 0.0]
    weights = [float(alpha) for alpha in alphas if alpha != 0.0]
    ends = all_ends(experts) if end_ids is None else np.asarray(end_ids, dtype=np.int64)
    draws = decoding.draws_experts and len(experts) > 1
    if draws and rule != "mixture":
        raise ConfigError(
            f"decoding.experts: one expert for each token samples from the mixture, not under rule {rule!r}.",
            hint="Set experts: all.",
        )
    kind = OneExpertDecoder if draws else _AllExpertsDecoder
    return kind(experts, weights, decoding, rule, ends, seed, backend, keep_top_k)


def _decode_all(
    decoder: Decoder,
    prompts: Sequence[Tokens],
    first: int,
    compute: ComputeConfig,
    sink: EventSink,
    tag: str,
) -> list[Generation]:
    """Answers to all prompts, in order."""
    limits = _answer_limits(decoder.models, prompts, decoder.decoding.max_new_tokens)
    one = np.ones(len(prompts), dtype=np.int64)
    sizes = Sizes(np.array([len(prompt) for prompt in prompts], dtype=np.int64), limits, one, one)
    answers: dict[int, Generation] = {}

    def work(batch: NDArray[np.int64]) -> None:
        found = decoder.decode(batch + first, [prompts[i] for i in batch], limits[batch])
        answers.update(zip(batch.tolist(), found, strict=True))
        sink.progress(tag, len(answers), len(prompts))

    readings = [reading_of(loaded.model, loaded.pad_id) for loaded in decoder.models]
    batch_tokens = compute.batch_tokens if all(reading.together for reading in readings) else 1
    report_readings_once(decoder.models, sink)

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


class _AllExpertsDecoder(Decoder):
    """Decodes every token from the distribution of all experts together."""

    @torch.inference_mode()
    def decode(self, numbers: Tokens, prompts: list[Tokens], limits: Tokens) -> list[Generation]:
        """Decode the prompts of one batch."""
        readers = [IncrementalReader(loaded, len(prompts)) for loaded in self.models]
        logits = [reader.read_rows(prompts) for reader in readers]
        alive, owners, written, said = np.arange(len(prompts)), [], [], []
        for step in range(int(limits.max(initial=0))):
            index = torch.from_numpy(numbers[alive] * self.decoding.max_new_tokens + step)
            chosen, kept = self._choose(logits, index.to(logits[0].device))
            tokens = chosen.cpu().numpy()
            owners.append(alive)
            written.append(tokens)
            said.append(kept)
            going = np.flatnonzero(~np.isin(tokens, self.end_ids) & (step + 1 < limits[alive]))
            if not len(going):
                break
            alive, chosen = alive[going], chosen[torch.from_numpy(going).to(chosen.device)]
            for reader in readers:
                reader.keep(going)
            logits = [reader.read_next(chosen) for reader in readers]
        all_kept = [None if part[0] is None else np.concatenate(part) for part in zip(*said, strict=True)]
        return generations(np.concatenate(owners), np.concatenate(written), all_kept, self.end_ids)

    def _choose(self, logits: list[Tensor], index: Tensor) -> tuple[Tensor, list[NDArray[Any] | None]]:
        """The next token of every row, and what is kept of it."""
        drawn = None
        if self.decoding.method == "sample":
            drawn = draw_tokens(
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
        keep = candidates_needed(self.keep_top_k)
        result = combine(logits, self.alphas, rule=self.rule, targets=drawn, top_k=keep, backend=self.backend)
        if bool(result.logprob.isnan().any()):
            raise not_finite()
        chosen = result.argmax if drawn is None else drawn
        sure = result
        if self.rule == "vote":
            two = None if keep is None else 2
            sure = combine(logits, self.alphas, rule="mixture", targets=chosen, top_k=two, backend=self.backend)
        return chosen, step_outputs(chosen, result, sure, self.keep_top_k)


def _answer_limits(models: Sequence[LoadedModel], prompts: Sequence[Tokens], largest: int) -> NDArray[np.int64]:
    """``[n]``: tokens that an answer may have, by the configuration and the models' context."""
    contexts = [limit for loaded in models if (limit := context_length(loaded.model)) is not None]
    limits = np.full(len(prompts), largest, dtype=np.int64)
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise DataError(f"Prompt {number} has no tokens; there is nothing to continue.")
        if contexts:
            limits[number] = min(largest, min(contexts) - len(prompt))
        if limits[number] < 1:
            raise DataError(
                f"Prompt {number} has {len(prompt)} tokens, which leaves no room in a context of {min(contexts)}.",
                hint="Shorten it, or choose a model with a longer context.",
            )
    return limits


def _equal_lengths(batches: list[NDArray[np.int64]], lengths: Tokens) -> list[NDArray[np.int64]]:
    """Split batches so that no prompt needs padding."""
    return [batch[lengths[batch] == length] for batch in batches for length in np.unique(lengths[batch])]
