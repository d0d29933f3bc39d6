"""A trained ensemble writes answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ensemw2s.config.method import DecodingConfig
from ensemw2s.data.example import Example
from ensemw2s.ensemble.answers import clean_text, confidence_of, margin_of, normalised
from ensemw2s.ensemble.options import agreement
from ensemw2s.seeds import sub_seed
from ensemw2s.sink import EventSink

if TYPE_CHECKING:
    from ensemw2s.ensemble.ensemble import Ensemble
    from ensemw2s.models.decode import Generation
    from ensemw2s.models.load import LoadedModel


def write_answers(
    ensemble: Ensemble,
    examples: Sequence[Example],
    decoding: DecodingConfig,
    *,
    seed: int,
    agreement_of_experts: bool,
    sink: EventSink,
) -> list[dict[str, Any]]:
    """Decode answers; see :meth:`ensemw2s.ensemble.Ensemble.answer`."""
    models = ensemble.load_experts()
    prompts = _prompts(ensemble, examples, models[0], decoding)

    def decode(group: list[LoadedModel], alphas: list[float], how: DecodingConfig) -> list[Generation]:
        from ensemw2s.models.decode import generate

        return generate(
            group,
            alphas,
            prompts,
            decoding=how,
            rule=ensemble.config.rule if len(group) > 1 else "mixture",
            seed=sub_seed(seed, "decoding"),
            compute=ensemble.compute,
            keep_top_k=2,
            sink=sink,
            tag="generate",
        )

    answers = decode(models, ensemble.alphas, decoding)
    texts = [clean_text(models[0].tokenizer, answer.token_ids) for answer in answers]
    out = [_row(*parts) for parts in zip(examples, texts, answers, strict=True)]
    if agreement_of_experts:
        greedy = decoding.model_copy(update={"method": "greedy"})
        own = []
        for model in models:
            alone = decode([model], [1.0], greedy)
            own.append(normalised(clean_text(model.tokenizer, answer.token_ids) for answer in alone))
        for row, share in zip(out, agreement(own, ensemble.alphas, normalised(texts)), strict=True):
            row["agreement"] = round(float(share), 6)
    return out


def _row(example: Example, text: str, answer: Generation) -> dict[str, Any]:
    return {
        "prompt": example.prompt,
        "text": text,
        "token_ids": [int(t) for t in answer.token_ids],
        "confidence": round(confidence_of(answer), 6),
        "margin": round(margin_of(answer), 6),
        "ended": bool(answer.ended),
    }


def _prompts(
    ensemble: Ensemble, examples: Sequence[Example], model: LoadedModel, decoding: DecodingConfig
) -> list[Any]:
    from ensemw2s.data.encode import encode_prompts
    from ensemw2s.models.info import configured_context_length

    limit = configured_context_length(ensemble.model_config(0))
    room = None if limit is None else limit - decoding.max_new_tokens
    return encode_prompts([example.hide_answer() for example in examples], model.tokenizer, ensemble.template, room)
