"""A trained ensemble chooses options: its experts are loaded one after the other and score them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ensemw2s.data.example import Example
from ensemw2s.ensemble.combine.by_option import choices_by_option
from ensemw2s.ensemble.combine.choices import EnsembleChoices, final_choices
from ensemw2s.ensemble.combine.option_scores import Ints
from ensemw2s.ensemble.mixed.compatibility import cut_vocabulary, told_about
from ensemw2s.errors import DataError
from ensemw2s.sink import EventSink

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit
    from ensemw2s.ensemble.ensemble import Ensemble
    from ensemw2s.models.inference.score_table import ScoreTable


def check_choices(ensemble: Ensemble, examples: Sequence[Example]) -> None:
    """Whether there are options to choose from.

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


def readers(ensemble: Ensemble, task: str) -> list[int]:
    """The experts that each read questions in tokens of their own: the first stands for all that share them."""
    if ensemble.compatibility().how(task) == "tokens":
        return [0]
    return [k for k, alpha in enumerate(ensemble.alphas) if alpha > 0.0]


def choose_options(
    ensemble: Ensemble, examples: Sequence[Example], sink: EventSink
) -> tuple[EnsembleChoices, Ints, NDArray[np.bool_]]:
    """What an ensemble chooses.

    Args:
        ensemble: the experts.
        examples: questions with choices.
        sink: gets progress.

    Returns:
        The choices; int64 [n+1]: the scores of example i are those from ``[i]`` up to ``[i + 1]``; and bool [n]:
        whether two options of an example have the same tokens for one of the experts.
    """
    found = ensemble.compatibility()
    if found.how("choice") == "options":
        return _by_option(ensemble, examples, sink)
    enc = ensemble.encode_for(0, examples)
    return _by_tokens(ensemble, enc, found.common_size, sink), enc.example_offsets, enc.indistinct


def _by_option(
    ensemble: Ensemble, examples: Sequence[Example], sink: EventSink
) -> tuple[EnsembleChoices, Ints, NDArray[np.bool_]]:
    active = readers(ensemble, "choice")
    encoded = []
    for k in active:
        with told_about(str(ensemble.experts[k])):
            encoded.append(ensemble.encode_for(k, examples))
    tables = [_scores(ensemble, k, enc, None, sink) for k, enc in zip(active, encoded, strict=True)]
    alphas = [ensemble.alphas[k] for k in active]
    chosen = choices_by_option(tables, encoded, alphas, ensemble.effective_config)
    indistinct = np.logical_or.reduce([enc.indistinct for enc in encoded])
    return chosen, encoded[0].example_offsets, indistinct


def _by_tokens(ensemble: Ensemble, enc: EncodedSplit, size: int | None, sink: EventSink) -> EnsembleChoices:
    from ensemw2s.models.inference.joint_scoring import score_joint, sequence_rows

    tables = [_scores(ensemble, k, enc, size, sink) for k in range(len(ensemble.experts))]
    product = None
    if ensemble.config.rule == "product" and len(tables) > 1:
        rows = sequence_rows(enc, np.arange(enc.seq_example.size))
        with ensemble.kept_in_memory():
            models = [cut_vocabulary(model, size) for model in ensemble.load_experts()]
            found = score_joint(models, ensemble.alphas, enc, rows, rule="product", compute=ensemble.compute)
        product = found.target_logprob
    return final_choices(tables, ensemble.alphas, enc, ensemble.config, product)


def _scores(ensemble: Ensemble, k: int, enc: EncodedSplit, size: int | None, sink: EventSink) -> ScoreTable:
    """One expert's scores; it is in memory for as long as that takes, unless the ensemble keeps it."""
    from ensemw2s.models.inference.scoring import score_split

    loaded = cut_vocabulary(ensemble.expert(k), size)
    return score_split(loaded, enc, compute=ensemble.compute, top_k=1, sink=sink, tag=f"expert {k + 1}")
