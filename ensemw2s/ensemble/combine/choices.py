"""Choices of an ensemble from kept scores, combined token by token or option by option.

Where the experts' tokens differ there is nothing to combine token by token. So every expert reads the questions in its
own tokens and scores each option; a softmax over the options of a question makes ``p_t(o)`` of its scores, and the rule
combines these: ``Σ ᾱ_t p_t`` (mixture), ``softmax(Σ ᾱ_t log p_t)`` (product), or the share of ᾱ that chooses an option
(vote, ties by the mixture).

Scores of different experts are only of one unit if their length norm does not count tokens. With ``mean``, an expert
with short tokens has flatter scores than one with long tokens, and so less say. ``sum`` and ``byte`` do not depend on
the tokenizer, and ``byte`` does not prefer short options either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemw2s.config.method import CombineConfig
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


def own_choices(table: ScoreTable, enc: EncodedSplit, config: CombineConfig) -> Choices:
    """The choices of one model alone."""
    return choose(sequence_scores(table.target_logprob, enc, config.length_norm), enc)


def final_choices(
    tables: Sequence[ScoreTable],
    alphas: Sequence[float],
    enc: EncodedSplit,
    config: CombineConfig,
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


def option_logprobs(scores: Floats, enc: EncodedSplit) -> Floats:
    """Log-softmax of scores over the options of each example, float64 [S]; equal where all scores are −inf."""
    if not scores.size:
        return np.zeros(0)
    starts, counts = enc.example_offsets[:-1], np.diff(enc.example_offsets)
    peak = np.repeat(np.maximum.reduceat(scores, starts), counts)
    lowered = np.zeros_like(scores)
    np.subtract(scores, peak, out=lowered, where=np.isfinite(peak))
    return np.asarray(lowered - np.repeat(np.log(np.add.reduceat(np.exp(lowered), starts)), counts))


def combined_logprobs(parts: Sequence[Floats], alphas: Sequence[float], enc: EncodedSplit, rule: str) -> Floats:
    """``log p(o)`` of all experts together, float64 [S]; with ``vote`` that of the mixture, which breaks its ties.

    Args:
        parts: ``log p_t`` of every expert, as :func:`option_logprobs` gives it.
        alphas: ``α_t``, not normalised. An expert with α = 0 is ignored.
        enc: any of the experts' encoded splits: they agree in examples and options.
        rule: ``mixture``, ``product`` or ``vote``.
    """
    if rule != "product":
        return mixture(parts, alphas)
    weighted = [share * part for part, share in zip(parts, normalise(alphas), strict=True) if share > 0.0]
    return option_logprobs(np.sum(weighted, axis=0), enc)


def choices_by_option(
    tables: Sequence[ScoreTable], encoded: Sequence[EncodedSplit], alphas: Sequence[float], config: CombineConfig
) -> EnsembleChoices:
    """The choices of experts whose tables score the same examples and options, encoded in the tokens of each.

    Returns:
        Scores are ``log p(o)`` (with ``vote`` the share of ᾱ), the margin is the best one's less the runner-up's.
        Confidence is the experts' ᾱ-weighted mean of the geometric mean probability that each gives to its own tokens
        of the chosen option. Where one expert alone has weight, it chooses exactly as by itself.
    """
    own = [own_choices(table, enc, config) for table, enc in zip(tables, encoded, strict=True)]
    shares, enc = normalise(alphas), encoded[0]
    parts = [option_logprobs(choices.scores, each) for choices, each in zip(own, encoded, strict=True)]
    joint = combined_logprobs(parts, alphas, enc, config.rule)
    vote = config.rule == "vote"
    scores = vote_scores(own, alphas, joint, enc) if vote else joint
    chosen = choose(scores, enc, noise=0.0) if vote else choose(scores, enc)
    if np.count_nonzero(shares) == 1:
        alone = own[int(np.argmax(shares))]
        chosen = Choices(scores, alone.option, alone.sequence, alone.margin)
    confidence = np.zeros(len(enc))
    for table, each, share in zip(tables, encoded, shares, strict=True):
        if share > 0.0:
            confidence += share * np.exp(sequence_scores(table.target_logprob, each, "mean")[chosen.sequence])
    return EnsembleChoices(chosen, confidence, agreement([choices.option for choices in own], alphas, chosen.option))
