"""Labels for ``task: generate``: answers decoded from the teacher's distribution."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ensemw2s.config.method import DecodingConfig
from ensemw2s.config.training import ComputeConfig
from ensemw2s.data.example import Example
from ensemw2s.ensemble.combine.answers import clean_text, confidence_of, margin_of, normalised
from ensemw2s.ensemble.combine.option_scores import agreement
from ensemw2s.labelling.labels import Labels, SoftTargets
from ensemw2s.seeds import sub_seed
from ensemw2s.sink import EventSink

if TYPE_CHECKING:
    from ensemw2s.models.inference.decode import Generation
    from ensemw2s.models.loading.load import LoadedModel


def label_by_generating(
    teacher: str,
    models: Sequence[LoadedModel],
    alphas: Sequence[float],
    examples: Sequence[Example],
    prompts: Sequence[NDArray[np.int32]],
    *,
    own: Sequence[Iterable[str]] | None,
    decoding: DecodingConfig,
    rule: str,
    soft_top_k: int | None,
    seed: int,
    compute: ComputeConfig,
    sink: EventSink,
) -> Labels:
    """Decode an answer for every example.

    Args:
        teacher: name for the labels and the progress.
        models: the teacher's experts, all in memory.
        alphas: ``α_t``, not normalised.
        examples: the hard pool; answers are not read.
        prompts: their tokens.
        own: each expert's own greedy answers, for the agreement; None for an expert that labels alone and greedily.
        decoding: greedy or sampled.
        rule: of combination.
        soft_top_k: how many candidates soft labels keep at every token; None keeps none.
        seed: the run's seed.
        compute: device and batch size.
        sink: gets progress.
    """
    from ensemw2s.models.inference.decode import generate

    answers = generate(
        models,
        alphas,
        prompts,
        decoding=decoding,
        rule=rule,
        seed=sub_seed(seed, "labelling", teacher),
        compute=compute,
        keep_top_k=soft_top_k or 1,
        sink=sink,
        tag=f"labels/{teacher}",
    )
    texts = [clean_text(models[0].tokenizer, answer.token_ids) for answer in answers]
    share = np.ones(len(texts)) if own is None else agreement([normalised(t) for t in own], alphas, normalised(texts))
    soft = None if soft_top_k is None else _soft_targets(answers)
    ids = [example.id for example in examples]
    return Labels(teacher=teacher, ids=ids, texts=texts, agreement=share, soft=soft, **_of(answers))


def _of(answers: Sequence[Generation]) -> dict[str, Any]:
    """What of the labels stands in the decoded answers."""
    return {
        "token_ids": [np.asarray(answer.token_ids, dtype=np.int32) for answer in answers],
        "options": np.full(len(answers), -1, dtype=np.int64),
        "confidence": np.array([confidence_of(answer) for answer in answers], dtype=np.float64),
        "margin": np.array([margin_of(answer) for answer in answers], dtype=np.float64),
        "ended": np.array([bool(answer.ended) for answer in answers], dtype=np.bool_),
    }


def _soft_targets(answers: Sequence[Generation]) -> SoftTargets:
    lengths = [len(answer.logprobs) for answer in answers]
    ids = [answer.topk_ids for answer in answers if answer.topk_ids is not None]
    logs = [answer.topk_logprob for answer in answers if answer.topk_logprob is not None]
    return SoftTargets(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ids=np.concatenate(ids).astype(np.int32),
        logprob=np.concatenate(logs).astype(np.float32),
    )
