"""Scores the options of questions with an ensemble's experts, loaded one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemw2s.data.encode import EncodedSplit
from ensemw2s.data.example import Example
from ensemw2s.ensemble.combine.choices import EnsembleChoices, choices_by_option, final_choices
from ensemw2s.ensemble.combine.option_scores import Ints
from ensemw2s.ensemble.mixed.compatibility import cut_vocabulary, naming_expert
from ensemw2s.ensemble.spec import EnsembleSpec
from ensemw2s.errors import DataError, shortened
from ensemw2s.models.inference.joint_scoring import score_joint, sequence_rows
from ensemw2s.models.inference.score_table import ScoreTable
from ensemw2s.models.inference.scoring import score_split
from ensemw2s.sink import EventSink


def check_choices(ensemble: EnsembleSpec, examples: Sequence[Example]) -> None:
    """Check that every question has options to choose from.

    Raises:
        DataError: a question has fewer than two, or the ensemble writes its answers.
    """
    for example in examples:
        if example.choices is None or len(example.choices) < 2:
            raise DataError(
                f"Question {example.id!r} has fewer than two choices, which scoring needs.",
                hint="Use `ew2s generate` for questions without choices.",
            )
    if examples and ensemble.task != "choice":
        raise DataError(
            "This ensemble was trained with task: generate; it has no options to score.", hint="Use `ew2s generate`."
        )


def readers(ensemble: EnsembleSpec, task: str) -> list[int]:
    """The experts that each read questions in tokens of their own: the first stands for all that share them."""
    if ensemble.compatibility().how(task) == "tokens":
        return [0]
    return [k for k, alpha in enumerate(ensemble.alphas) if alpha > 0.0]


def score_options(ensemble: EnsembleSpec, examples: Sequence[Example], sink: EventSink) -> list[dict[str, Any]]:
    """Score the options of questions; see :meth:`ensemw2s.ensemble.Ensemble.score`."""
    check_choices(ensemble, examples)
    if not examples:
        return []
    ensemble.report_mixing_once("choice", sink)
    common = ensemble.compatibility()
    if common.how("choice") == "options":
        found, starts, indistinct = _by_option(ensemble, examples, sink)
    else:
        enc = ensemble.encode_for(0, examples)
        found = _by_tokens(ensemble, enc, common.common_size, sink)
        starts, indistinct = enc.example_offsets, enc.indistinct
    if indistinct.any():
        first = next(example.id for example, alike in zip(examples, indistinct, strict=True) if alike)
        text = (
            f"{int(indistinct.sum())} of {len(examples)} questions (the first is {shortened(first)!r}) have "
            "options with the same tokens, which no model tells apart: the label among those is arbitrary."
        )
        sink.event("message", level="warning", text=text)
    out = []
    for i, example in enumerate(examples):
        option = int(found.choices.option[i])
        row: dict[str, Any] = {
            "id": example.id,
            "label": (example.choices or ())[option],
            "option": option,
            "scores": [round(float(s), 6) for s in found.choices.scores[starts[i] : starts[i + 1]]],
            "confidence": round(float(found.confidence[i]), 6),
            "margin": round(float(found.choices.margin[i]), 6),
            "agreement": round(float(found.agreement[i]), 6),
        }
        if indistinct[i]:
            row["indistinct"] = True
        elif example.answer is not None:
            row["correct"] = option == example.answer_index
        out.append(row)
    return out


def _by_option(
    ensemble: EnsembleSpec, examples: Sequence[Example], sink: EventSink
) -> tuple[EnsembleChoices, Ints, NDArray[np.bool_]]:
    """The choices; int64 [n+1], where each example's scores start; bool [n], whether any expert finds options alike."""
    active = readers(ensemble, "choice")
    encoded = []
    for k in active:
        with naming_expert(str(ensemble.experts[k])):
            encoded.append(ensemble.encode_for(k, examples))
    tables = [_scores(ensemble, k, enc, None, sink) for k, enc in zip(active, encoded, strict=True)]
    alphas = [ensemble.alphas[k] for k in active]
    chosen = choices_by_option(tables, encoded, alphas, ensemble.effective_config)
    indistinct = np.logical_or.reduce([enc.indistinct for enc in encoded])
    return chosen, encoded[0].example_offsets, indistinct


def _by_tokens(ensemble: EnsembleSpec, enc: EncodedSplit, size: int | None, sink: EventSink) -> EnsembleChoices:
    tables = [_scores(ensemble, k, enc, size, sink) for k in range(len(ensemble.experts))]
    product = None
    if ensemble.config.rule == "product" and len(tables) > 1:
        rows = sequence_rows(enc, np.arange(enc.seq_example.size))
        with ensemble.kept_in_memory():
            models = [cut_vocabulary(model, size) for model in ensemble.load_experts()]
            found = score_joint(models, ensemble.alphas, enc, rows, rule="product", compute=ensemble.compute)
        product = found.target_logprob
    return final_choices(tables, ensemble.alphas, enc, ensemble.config, product)


def _scores(ensemble: EnsembleSpec, k: int, enc: EncodedSplit, size: int | None, sink: EventSink) -> ScoreTable:
    """One expert's scores; it is in memory for as long as that takes, unless the ensemble keeps it."""
    loaded = cut_vocabulary(ensemble.expert(k), size)
    return score_split(loaded, enc, compute=ensemble.compute, top_k=1, sink=sink, tag=f"expert {k + 1}")
