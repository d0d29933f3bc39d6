"""Writes answers to questions with an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemw2s.config.method import DecodingConfig
from ensemw2s.data.chat import prompt_texts
from ensemw2s.data.encode import encode_prompts
from ensemw2s.data.example import Example
from ensemw2s.ensemble.decoded import Answers, decode_answers
from ensemw2s.ensemble.mixed.compatibility import cut_vocabulary, naming_expert
from ensemw2s.ensemble.mixed.decoder import UnionDecoder
from ensemw2s.ensemble.mixed.reader import Reader
from ensemw2s.ensemble.mixed.token_texts import token_texts
from ensemw2s.ensemble.spec import EnsembleSpec
from ensemw2s.errors import ModelError
from ensemw2s.models.loading.info import configured_context_length
from ensemw2s.models.loading.load import LoadedModel, load_tokenizer
from ensemw2s.seeds import sub_seed
from ensemw2s.sink import EventSink


def write_answers(
    ensemble: EnsembleSpec,
    examples: Sequence[Example],
    decoding: DecodingConfig,
    *,
    seed: int,
    first: int,
    agreement_of_experts: bool,
    sink: EventSink,
) -> list[dict[str, Any]]:
    """Decode answers; see :meth:`ensemw2s.ensemble.Ensemble.answer`."""
    ensemble.report_mixing_once("generate", sink)
    writer = _Writer(ensemble, examples, decoding, sub_seed(seed, "decoding"), first, sink)
    if ensemble.compatibility().how("generate") == "union":
        answers, token_ids = writer.from_union()
    else:
        answers = writer.by_tokens()
        token_ids = [answer.token_ids.tolist() for answer in answers.generations]
    parts = zip(examples, answers.texts, token_ids, answers.confidence, answers.margin, strict=True)
    out: list[dict[str, Any]] = [
        {
            "prompt": example.prompt,
            "text": text,
            "token_ids": tokens,
            "confidence": round(float(confidence), 6),
            "margin": round(float(margin), 6),
            "ended": answer.ended,
        }
        for (example, text, tokens, confidence, margin), answer in zip(parts, answers.generations, strict=True)
    ]
    if agreement_of_experts:
        greedy = decoding.model_copy(update={"method": "greedy"})
        own = [writer.decode([k], greedy).texts for k in range(len(ensemble.experts))]
        for row, share in zip(out, answers.agreement(own, ensemble.alphas), strict=True):
            row["agreement"] = round(float(share), 6)
    return out


@dataclass(slots=True)
class _Writer:
    """Experts in memory, and the prompts in the tokens of each."""

    ensemble: EnsembleSpec
    examples: Sequence[Example]
    decoding: DecodingConfig
    seed: int
    first: int
    sink: EventSink
    models: list[LoadedModel] = field(default_factory=list)
    _prompts: dict[int, list[NDArray[np.int32]]] = field(default_factory=dict)
    _shared_prompts: bool = True

    def by_tokens(self) -> Answers:
        """Answers from experts that share a tokenizer."""
        size = self.ensemble.compatibility().common_size
        self.models = [cut_vocabulary(model, size) for model in self.ensemble.load_experts()]
        return self.decode(list(range(len(self.models))), self.decoding)

    def from_union(self) -> tuple[Answers, list[list[int]]]:
        """Answers from experts with different tokenizers, and their tokens for the first that has a weight."""
        ensemble = self.ensemble
        if self.decoding.draws_experts:
            raise ModelError(
                "Experts with different tokenizers cannot draw one expert for each token.",
                hint="Set decoding.experts: all.",
            )
        active = [k for k, alpha in enumerate(ensemble.alphas) if alpha > 0.0]
        texts = [token_texts(load_tokenizer(ensemble.model_config(k))) for k in active]  # errors before the weights
        self._shared_prompts = False
        self.models = ensemble.load_experts()
        hidden = [example.hide_answer() for example in self.examples]
        prompts = []
        for k in active:
            plain = prompt_texts(hidden, self.models[k].tokenizer, ensemble.template)
            with naming_expert(str(ensemble.experts[k])):
                prompts.append(list(zip(plain, self._prompts_of(k), strict=True)))
        decoder = UnionDecoder(
            [Reader(self.models[k], own) for k, own in zip(active, texts, strict=True)],
            [ensemble.alphas[k] for k in active],
            self.decoding,
            ensemble.config.rule,
            self.seed,
            ensemble.compute.backend,
        )
        found = decoder.decode_all(prompts, ensemble.compute.batch_tokens, self.sink, first=self.first)
        answers = Answers([answer.text.strip() for answer in found], [answer.generation for answer in found])
        return answers, [answer.token_ids for answer in found]

    def decode(self, members: list[int], decoding: DecodingConfig) -> Answers:
        """Answers from experts that share their tokens."""
        alone = len(members) == 1
        return decode_answers(
            [self.models[k] for k in members],
            [1.0] if alone else [self.ensemble.alphas[k] for k in members],
            self._prompts_of(members[0]),
            decoding=decoding,
            rule="mixture" if alone else self.ensemble.config.rule,
            seed=self.seed,
            first=self.first,
            compute=self.ensemble.compute,
            keep_top_k=2,
            sink=self.sink,
        )

    def _prompts_of(self, k: int) -> list[NDArray[np.int32]]:
        """The prompts as tokens of expert ``k``."""
        k = 0 if self._shared_prompts else k
        if k not in self._prompts:
            tokenizer = self.models[k].tokenizer
            self._prompts[k] = prompts_of(self.ensemble, k, self.examples, tokenizer, self.decoding)
        return self._prompts[k]


def prompts_of(
    ensemble: EnsembleSpec, k: int, examples: Sequence[Example], tokenizer: Any, decoding: DecodingConfig
) -> list[NDArray[np.int32]]:
    """The prompts as tokens of expert ``k``.

    Raises:
        DataError: a prompt leaves no room for the answer.
    """
    limit = configured_context_length(ensemble.model_config(k))
    room = None if limit is None else limit - decoding.max_new_tokens
    return encode_prompts([example.hide_answer() for example in examples], tokenizer, ensemble.template, room)
