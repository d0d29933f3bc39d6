"""What experts choose together, from their kept scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemw2s.config.method import EnsembleConfig
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.ensemble.combine.option_scores import (
    Choices,
    Floats,
    agreement,
    choose,
    mixture,
    normalise,
    sequence_scores,
    vote_scores,
)
from ensemw2s.models.inference.score_table import ScoreTable


@dataclass(frozen=True)
class EnsembleChoices:
    """The choices of an ensemble.

    Attributes:
        choices: chosen option of every example, with scores and margins.
        confidence: float64 [n], geometric mean probability of the chosen option's tokens.
        agreement: float64 [n], share of ᾱ whose own choice is the same.
    """

    choices: Choices
    confidence: Floats
    agreement: Floats


def own_choices(table: ScoreTable, enc: EncodedSplit, config: EnsembleConfig) -> Choices:
    """What one model chooses by itself."""
    return choose(sequence_scores(table.target_logprob, enc, config.length_norm), enc)


def final_choices(
    tables: Sequence[ScoreTable],
    alphas: Sequence[float],
    enc: EncodedSplit,
    config: EnsembleConfig,
    product_rows: NDArray[np.floating] | None = None,
) -> EnsembleChoices:
    """The choices of all given experts together.

    Args:
        tables: scores of the experts on ``enc``.
        alphas: ``α_t``, not normalised.
        enc: the encoded split.
        config: rule and length norm.
        product_rows: [rows], log-probability of each row's token under the combined experts; needed by
            ``rule: product`` with more than one expert of positive weight, since its normaliser needs the models.

    Raises:
        ValueError: ``product_rows`` are missing.
    """
    experts = [own_choices(table, enc, config) for table in tables]
    shares = normalise(alphas)
    if config.rule == "product" and np.count_nonzero(shares) > 1:
        if product_rows is None:
            raise ValueError("rule: product needs the row log-probabilities of the combined experts")
        rows = np.asarray(product_rows, dtype=np.float64)
    else:
        rows = mixture([table.target_logprob for table in tables], alphas)
    scores = sequence_scores(rows, enc, config.length_norm)
    vote = config.rule == "vote"
    chosen = choose(vote_scores(experts, alphas, scores, enc), enc, noise=0.0) if vote else choose(scores, enc)
    confidence = np.exp(sequence_scores(rows, enc, "mean")[chosen.sequence])
    return EnsembleChoices(chosen, confidence, agreement([e.option for e in experts], alphas, chosen.option))
