"""Writes answers to questions with an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ensemw2s.config.method import DecodingConfig
from ensemw2s.data.chat import prompt_texts
from ensemw2s.data.encode import encode_prompts
from ensemw2s.data.example import Example
from ensemw2s.ensemble.combine.answers import clean_text, confidence_of, margin_of, normalised
from ensemw2s.ensemble.combine.option_scores import agreement
from ensemw2s.ensemble.mixed.compatibility import cut_vocabulary, naming_expert
from ensemw2s.ensemble.mixed.decoder import UnionDecoder
from ensemw2s.ensemble.mixed.reader import Reader
from ensemw2s.ensemble.mixed.token_texts import token_texts
from ensemw2s.ensemble.spec import EnsembleSpec
from ensemw2s.errors import ModelError
from ensemw2s.models.inference.decode import Generation, generate
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
    found = ensemble.compatibility()
    union = found.how("generate") == "union"
    out = _write_from_union(writer) if union else _write_by_tokens(writer, found.common_size)
    if agreement_of_experts:
        greedy = decoding.model_copy(update={"method": "greedy"})
        own = [normalised(writer.texts_of(k, writer.decode([k], greedy))) for k in range(len(ensemble.experts))]
        texts = normalised(str(row["text"]) for row in out)
        for row, share in zip(out, agreement(own, ensemble.alphas, texts), strict=True):
            row["agreement"] = round(float(share), 6)
    return out


class _Writer:
    """Experts in memory, and the prompts in the tokens of each."""

    def __init__(
        self,
        ensemble: EnsembleSpec,
        examples: Sequence[Example],
        decoding: DecodingConfig,
        seed: int,
        first: int,
        sink: EventSink,
    ) -> None:
        self.ensemble, self.examples, self.decoding, self.sink = ensemble, examples, decoding, sink
        self.seed, self.first = seed, first
        self.models: list[LoadedModel] = []
        self._prompts: dict[int, list[Any]] = {}
        self.shared_prompts = True

    def load(self) -> None:
        """Read the experts' weights."""
        self.models = self.ensemble.load_experts()

    def prompts(self, k: int) -> list[Any]:
        """The prompts as tokens of expert ``k``."""
        k = 0 if self.shared_prompts else k
        if k not in self._prompts:
            tokenizer = self.models[k].tokenizer
            self._prompts[k] = prompts_of(self.ensemble, k, self.examples, tokenizer, self.decoding)
        return self._prompts[k]

    def decode(self, members: list[int], decoding: DecodingConfig) -> list[Generation]:
        """Answers from experts that share their tokens."""
        alone = len(members) == 1
        return generate(
            [self.models[k] for k in members],
            [1.0] if alone else [self.ensemble.alphas[k] for k in members],
            self.prompts(members[0]),
            decoding=decoding,
            rule="mixture" if alone else self.ensemble.config.rule,
            seed=self.seed,
            first=self.first,
            compute=self.ensemble.compute,
            keep_top_k=2,
            sink=self.sink,
            tag="generate",
        )

    def texts_of(self, k: int, answers: list[Generation]) -> list[str]:
        """Answers in the tokens of expert ``k`` as text."""
        return [clean_text(self.models[k].tokenizer, answer.token_ids) for answer in answers]


def _write_by_tokens(writer: _Writer, size: int | None) -> list[dict[str, Any]]:
    writer.load()
    for model in writer.models:
        cut_vocabulary(model, size)
    answers = writer.decode(list(range(len(writer.models))), writer.decoding)
    texts = writer.texts_of(0, answers)
    return [
        _row(example, text, answer.token_ids.tolist(), answer)
        for example, text, answer in zip(writer.examples, texts, answers, strict=True)
    ]


def _write_from_union(writer: _Writer) -> list[dict[str, Any]]:
    """Answers from experts with different tokenizers."""
    ensemble = writer.ensemble
    if writer.decoding.draws_experts:
        raise ModelError(
            "Experts with different tokenizers cannot draw one expert for each token.",
            hint="Set decoding.experts: all.",
        )
    active = [k for k, alpha in enumerate(ensemble.alphas) if alpha > 0.0]
    texts = {k: token_texts(load_tokenizer(ensemble.model_config(k))) for k in active}  # errors come before the weights
    writer.shared_prompts = False
    writer.load()
    hidden = [example.hide_answer() for example in writer.examples]
    prompts = {}
    for k in active:
        plain = prompt_texts(hidden, writer.models[k].tokenizer, ensemble.template)
        with naming_expert(str(ensemble.experts[k])):
            prompts[k] = list(zip(plain, writer.prompts(k), strict=True))
    decoder = UnionDecoder(
        [Reader(writer.models[k], texts[k]) for k in active],
        [ensemble.alphas[k] for k in active],
        writer.decoding,
        ensemble.config.rule,
        writer.seed,
        ensemble.compute.backend,
    )
    tokens, sink = ensemble.compute.batch_tokens, writer.sink
    answers = decoder.decode_all([prompts[k] for k in active], tokens, sink, first=writer.first)
    return [
        _row(example, answer.text.strip(), answer.token_ids, answer.generation)
        for example, answer in zip(writer.examples, answers, strict=True)
    ]


def _row(example: Example, text: str, token_ids: list[int], answer: Generation) -> dict[str, Any]:
    return {
        "prompt": example.prompt,
        "text": text,
        "token_ids": [int(t) for t in token_ids],
        "confidence": round(confidence_of(answer), 6),
        "margin": round(margin_of(answer), 6),
        "ended": bool(answer.ended),
    }


def prompts_of(
    ensemble: EnsembleSpec, k: int, examples: Sequence[Example], tokenizer: Any, decoding: DecodingConfig
) -> list[Any]:
    """The prompts as tokens of expert ``k``, int32 each.

    Raises:
        DataError: a prompt leaves no room for the answer.
    """
    limit = configured_context_length(ensemble.model_config(k))
    room = None if limit is None else limit - decoding.max_new_tokens
    return encode_prompts([example.hide_answer() for example in examples], tokenizer, ensemble.template, room)
