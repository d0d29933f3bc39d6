"""Options scored by an ensemble, from the experts' kept token log-probabilities: no model is run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemw2s.data.encode import EncodedSplit
from ensemw2s.evaluation.metrics import LengthNorm, length_normalise
from ensemw2s.evaluation.metrics import choose as best_option

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def normalise(alphas: Sequence[float]) -> Floats:
    """``ᾱ = α/Σα``, float64 [K].

    Raises:
        ValueError: an α is negative or not finite, or all are zero.
    """
    weights = np.asarray(alphas, dtype=np.float64)
    if weights.ndim != 1 or weights.size == 0 or not np.all(np.isfinite(weights)) or np.any(weights < 0.0):
        raise ValueError(f"expert weights must be finite and not negative, not {list(alphas)}")
    total = weights.sum()
    if total <= 0.0:
        raise ValueError("expert weights are all zero")
    return np.asarray(weights / total)


def mixture(logprobs: Sequence[NDArray[np.floating]], alphas: Sequence[float]) -> Floats:
    """``log Σ_t ᾱ_t P_t`` of given tokens, float64 [rows].

    Args:
        logprobs: one array [rows] an expert: its log-probability of each row's token.
        alphas: ``α_t``, not normalised. An expert with α = 0 is ignored, even where it holds NaN.
    """
    total: Floats | None = None
    for logprob, share in zip(logprobs, normalise(alphas), strict=True):
        if share > 0.0:
            term = np.asarray(logprob, dtype=np.float64) + np.log(share)
            total = term if total is None else np.logaddexp(total, term)
    if total is None:
        raise ValueError("an ensemble needs at least one expert")
    return total


def sequence_scores(row_logprob: NDArray[np.floating], enc: EncodedSplit, norm: LengthNorm) -> Floats:
    """Scores of all (example, option) sequences from the log-probabilities of their tokens.

    Args:
        row_logprob: [rows], laid out as ``enc.row_offsets`` says; the end-of-sequence rows are left out.
        enc: the encoded split.
        norm: ``mean`` over tokens, ``sum``, or ``byte``: divided by the UTF-8 bytes of the option.

    Returns:
        float64 [S].
    """
    values = np.where(enc.is_eos, 0.0, np.asarray(row_logprob, dtype=np.float64))
    sums = np.add.reduceat(values, enc.row_offsets[:-1]) if values.size else np.zeros(0)
    return length_normalise(sums, np.diff(enc.row_offsets) - 1, enc.option_bytes, norm)


@dataclass(frozen=True)
class Choices:
    """What was chosen for every example, by scores of its options.

    Attributes:
        scores: float64 [S].
        option: int64 [n], the best-scoring option (ties: the lowest index).
        sequence: int64 [n], its row in ``scores``.
        margin: float64 [n], score of the best less that of the runner-up; inf with a single option.
    """

    scores: Floats
    option: Ints
    sequence: Ints
    margin: Floats


def choose(scores: Floats, enc: EncodedSplit) -> Choices:
    """Choose the best-scoring option of every example."""
    if not enc.ids:
        empty = np.zeros(0, dtype=np.int64)
        return Choices(scores, empty, empty, np.zeros(0))
    starts = enc.example_offsets
    option = best_option(scores, starts)
    sequence = starts[:-1] + option
    others = scores.copy()
    others[sequence] = -np.inf
    margin = scores[sequence] - np.maximum.reduceat(others, starts[:-1])
    return Choices(scores, option, sequence, margin)


def vote_scores(experts: Sequence[Choices], alphas: Sequence[float], mixture: Floats, enc: EncodedSplit) -> Floats:
    """Option scores of ``rule: vote``: the share of ᾱ that chooses an option; ties are broken by the mixture.

    The mixture enters as a rank below one millionth of a vote, so it decides ties only.
    """
    share = np.zeros(enc.seq_example.size)
    for choices, weight in zip(experts, normalise(alphas), strict=True):
        share[choices.sequence] += weight
    starts = enc.example_offsets
    # Equal mixtures: the lower index ranks higher.
    order = np.lexsort((-np.arange(mixture.size), mixture, enc.seq_example))
    rank = np.empty(order.size)
    rank[order] = np.arange(order.size) - np.repeat(starts[:-1], np.diff(starts))
    return np.asarray(np.round(share, 12) + 1e-6 * rank / np.maximum(np.diff(starts)[enc.seq_example], 1))


def agreement(experts: Sequence[NDArray[np.generic]], alphas: Sequence[float], label: NDArray[np.generic]) -> Floats:
    """The share of ᾱ whose own choice is the label, float64 [n]."""
    out = np.zeros(label.shape[0])
    for own, weight in zip(experts, normalise(alphas), strict=True):
        out += weight * (own == label)
    return out
