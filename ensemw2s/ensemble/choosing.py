"""A trained ensemble chooses options: its experts are loaded one after the other and score them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ensemw2s.data.example import Example
from ensemw2s.ensemble.by_option import choices_by_option
from ensemw2s.ensemble.choices import EnsembleChoices, final_choices
from ensemw2s.ensemble.compatibility import cut_vocabulary, told_about
from ensemw2s.ensemble.options import Ints
from ensemw2s.sink import EventSink

if TYPE_CHECKING:
    from ensemw2s.config.training import ModelConfig
    from ensemw2s.data.encode import EncodedSplit
    from ensemw2s.ensemble.ensemble import Ensemble
    from ensemw2s.models.scores import ScoreTable


def choose_options(ensemble: Ensemble, examples: Sequence[Example], sink: EventSink) -> tuple[EnsembleChoices, Ints]:
    """What an ensemble chooses.

    Args:
        ensemble: the experts.
        examples: questions with choices.
        sink: gets progress.

    Returns:
        The choices, and int64 [n+1]: the scores of example i are those from ``[i]`` up to ``[i + 1]``.
    """
    found = ensemble.compatibility()
    if found.how("choice") == "options":
        return _by_option(ensemble, examples, sink)
    enc = ensemble.encode_for(0, examples)
    return _by_tokens(ensemble, enc, found.common_size, sink), enc.example_offsets


def _by_option(ensemble: Ensemble, examples: Sequence[Example], sink: EventSink) -> tuple[EnsembleChoices, Ints]:
    active = [k for k, alpha in enumerate(ensemble.alphas) if alpha > 0.0]
    encoded = []
    for k in active:
        with told_about(str(ensemble.experts[k])):
            encoded.append(ensemble.encode_for(k, examples))
    tables = [
        _scores(ensemble, ensemble.model_config(k), enc, None, sink, f"expert {k + 1}")
        for k, enc in zip(active, encoded, strict=True)
    ]
    alphas = [ensemble.alphas[k] for k in active]
    return choices_by_option(tables, encoded, alphas, ensemble.effective_config), encoded[0].example_offsets


def _by_tokens(ensemble: Ensemble, enc: EncodedSplit, size: int | None, sink: EventSink) -> EnsembleChoices:
    from ensemw2s.models.joint import score_joint, sequence_rows
    from ensemw2s.models.load import opened_models

    configs = [ensemble.model_config(k) for k in range(len(ensemble.experts))]
    tables = [_scores(ensemble, config, enc, size, sink, f"expert {k}") for k, config in enumerate(configs, start=1)]
    product = None
    if ensemble.config.rule == "product" and len(configs) > 1:
        rows = sequence_rows(enc, np.arange(enc.seq_example.size))
        with opened_models(configs, ensemble.compute) as models:
            for model in models:
                cut_vocabulary(model, size)
            found = score_joint(models, ensemble.alphas, enc, rows, rule="product", compute=ensemble.compute)
        product = found.target_logprob
    return final_choices(tables, ensemble.alphas, enc, ensemble.config, product)


def _scores(
    ensemble: Ensemble, config: ModelConfig, enc: EncodedSplit, size: int | None, sink: EventSink, tag: str
) -> ScoreTable:
    """One expert's scores; it is in memory for as long as that takes."""
    from ensemw2s.models.scoring import opened, score_split

    if size is None:
        return score_split(config, enc, compute=ensemble.compute, top_k=1, sink=sink, tag=tag)
    loaded = cut_vocabulary(opened(config, ensemble.compute), size)
    return score_split(loaded, enc, compute=ensemble.compute, top_k=1, sink=sink, tag=tag)
