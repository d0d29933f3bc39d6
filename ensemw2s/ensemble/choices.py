"""What every prefix of the experts chooses, from their kept scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemw2s.config.method import EnsembleConfig
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.ensemble.options import (
    Choices,
    Floats,
    agreement,
    choose,
    sequence_scores,
    staged_mixture,
    vote_scores,
)
from ensemw2s.models.scores import ScoreTable

#: Gives the row log-probabilities of ``rule: product`` for the first t experts: its normaliser needs the models.
ProductRows = Callable[[int], NDArray[np.floating]]


@dataclass(frozen=True)
class EnsembleChoices:
    """The choices of one prefix of the ensemble.

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


def staged_choices(
    tables: Sequence[ScoreTable],
    alphas: Sequence[float],
    enc: EncodedSplit,
    config: EnsembleConfig,
    product_rows: ProductRows | None = None,
) -> Iterator[EnsembleChoices]:
    """The ensemble's choices for every prefix 1…t.

    Args:
        tables: scores of the experts on ``enc``.
        alphas: ``α_t``, not normalised.
        enc: the encoded split.
        config: rule and length norm.
        product_rows: needed by ``rule: product`` with more than one expert.
    """
    experts = [own_choices(table, enc, config) for table in tables]
    for t, mixture in enumerate(staged_mixture([table.target_logprob for table in tables], alphas), start=1):
        rows = mixture
        if config.rule == "product" and t > 1:
            if product_rows is None:
                raise ValueError("rule: product needs the row log-probabilities of the combined experts")
            rows = np.asarray(product_rows(t), dtype=np.float64)
        scores = sequence_scores(rows, enc, config.length_norm)
        if config.rule == "vote":
            scores = vote_scores(experts[:t], alphas[:t], scores, enc)
        chosen = choose(scores, enc)
        mean_log = sequence_scores(rows, enc, "mean")[chosen.sequence]
        share = agreement([e.option for e in experts[:t]], alphas[:t], chosen.option)
        yield EnsembleChoices(chosen, np.exp(mean_log), share)


def final_choices(
    tables: Sequence[ScoreTable],
    alphas: Sequence[float],
    enc: EncodedSplit,
    config: EnsembleConfig,
    product_rows: ProductRows | None = None,
) -> EnsembleChoices:
    """The choices of all given experts together."""
    *_, last = staged_choices(tables, alphas, enc, config, _only_last(product_rows, len(tables)))
    return last


def _only_last(product_rows: ProductRows | None, last: int) -> ProductRows | None:
    """Spare the models for prefixes that nobody asked for."""
    if product_rows is None:
        return None
    full: NDArray[np.floating] = np.asarray(product_rows(last)) if last > 1 else np.zeros(0)
    return lambda _t: full
