"""Labels for ``task: generate``: answers decoded from the teacher's distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ensemw2s.config.method import EnsembleConfig, LabellingConfig
from ensemw2s.config.training import ComputeConfig
from ensemw2s.data.encode import encode_prompts
from ensemw2s.data.example import Example
from ensemw2s.ensemble.ensemble import clean_text, confidence_of, normalised
from ensemw2s.ensemble.options import agreement
from ensemw2s.labelling.labels import Floats, Labels, SoftTargets
from ensemw2s.seeds import sub_seed
from ensemw2s.sink import EventSink

if TYPE_CHECKING:
    from ensemw2s.config.data import TemplateConfig
    from ensemw2s.models.decode import Generation
    from ensemw2s.models.load import LoadedModel


def label_by_generating(
    teacher: str,
    models: Sequence[LoadedModel],
    alphas: Sequence[float],
    examples: list[Example],
    *,
    template: TemplateConfig,
    max_length: int | None,
    config: LabellingConfig,
    ensemble: EnsembleConfig,
    keep_soft: bool,
    seed: int,
    compute: ComputeConfig,
    sink: EventSink,
) -> Labels:
    """Decode an answer for every example, and every expert's own greedy answer for the agreement.

    Args:
        teacher: name for the labels and the progress.
        models: the teacher's experts, all in memory.
        alphas: ``α_t``, not normalised.
        examples: the hard pool; answers are not read.
        template: how prompts become text.
        max_length: longest sequence of the models; None is unlimited.
        config: decoding, and how many candidates soft labels keep.
        ensemble: rule of combination.
        keep_soft: also keep the top-k distribution at every token.
        seed: the run's seed.
        compute: device and batch size.
        sink: gets progress.
    """
    from ensemw2s.models.decode import generate

    tokenizer = models[0].tokenizer
    room = None if max_length is None else max_length - config.decoding.max_new_tokens
    prompts = encode_prompts(examples, tokenizer, template, room)

    def decode(group: Sequence[LoadedModel], weights: Sequence[float], greedy: bool, tag: str, top: int | None) -> Any:
        decoding = config.decoding.model_copy(update={"method": "greedy"}) if greedy else config.decoding
        return generate(
            list(group),
            list(weights),
            prompts,
            decoding=decoding,
            rule=ensemble.rule,
            seed=sub_seed(seed, "labelling", teacher),
            compute=compute,
            keep_top_k=top,
            sink=sink,
            tag=tag,
        )

    keep = max(2, config.soft_top_k if keep_soft else 2)
    answers: list[Generation] = decode(models, alphas, False, f"labels/{teacher}", keep)
    texts = [clean_text(tokenizer, answer.token_ids) for answer in answers]
    if len(models) == 1 and config.decoding.method == "greedy":
        share: Floats = np.ones(len(texts))
    else:
        own = []
        for k, model in enumerate(models, start=1):
            alone = decode([model], [1.0], True, f"labels/{teacher}/{k}", None)
            own.append(normalised(clean_text(tokenizer, answer.token_ids) for answer in alone))
        share = agreement(own, alphas, normalised(texts))
    return Labels(
        teacher=teacher,
        ids=[example.id for example in examples],
        texts=texts,
        token_ids=[np.asarray(answer.token_ids, dtype=np.int32) for answer in answers],
        options=np.full(len(texts), -1, dtype=np.int64),
        confidence=np.array([confidence_of(answer) for answer in answers]),
        margin=np.array([_margin(answer) for answer in answers]),
        agreement=share,
        ended=np.array([bool(answer.ended) for answer in answers], dtype=np.bool_),
        soft=_soft_targets(answers) if keep_soft else None,
    )


def _margin(answer: Generation) -> float:
    """Mean log-probability of the chosen tokens less that of the best other token; 0 for an empty answer."""
    m = len(answer.token_ids)
    if m == 0 or answer.topk_ids is None or answer.topk_logprob is None:
        return 0.0
    others = np.where(answer.topk_ids[:m] == np.asarray(answer.token_ids)[:, None], -np.inf, answer.topk_logprob[:m])
    difference = np.asarray(answer.logprobs[:m], dtype=np.float64) - others.max(axis=1)
    finite = difference[np.isfinite(difference)]
    return float(finite.mean()) if finite.size else 0.0


def _soft_targets(answers: Sequence[Generation]) -> SoftTargets:
    lengths = [len(answer.logprobs) for answer in answers]
    ids = [answer.topk_ids for answer in answers if answer.topk_ids is not None]
    logs = [answer.topk_logprob for answer in answers if answer.topk_logprob is not None]
    return SoftTargets(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ids=np.concatenate(ids).astype(np.int32),
        logprob=np.concatenate(logs).astype(np.float32),
    )
