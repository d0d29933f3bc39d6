"""Option scores of an ensemble from the experts' kept token log-probabilities; no model is run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemw2s.data.encode import EncodedSplit
from ensemw2s.evaluation.metrics import LengthNorm, length_normalise
from ensemw2s.evaluation.metrics import choose as best_option

#: Scores that differ by less are equal but for rounding: float32 log-probabilities of other batches or threads.
NOISE = 1e-6

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: The largest weight: sums of any number of them are finite in single precision.
MAX_ALPHA = 1e30


def normalise(alphas: Sequence[float]) -> Floats:
    """``ᾱ = α/Σα``, float64 [K].

    Raises:
        ValueError: an α is negative, not finite or above 1e30, or all are zero.
    """
    weights = np.asarray(alphas, dtype=np.float64)
    if weights.ndim != 1 or weights.size == 0 or not np.all((weights >= 0.0) & (weights <= MAX_ALPHA)):
        raise ValueError(f"expert weights must be between 0 and {MAX_ALPHA:g}, not {list(alphas)}")
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
        float64 [S]; the same for options of a question that have the same tokens.
    """
    values = np.where(enc.is_eos, 0.0, np.asarray(row_logprob, dtype=np.float64))
    sums = np.add.reduceat(values, enc.row_offsets[:-1]) if values.size else np.zeros(0)
    scores = length_normalise(sums, np.diff(enc.row_offsets) - 1, enc.option_bytes, norm)
    if not enc.indistinct.any():
        return scores
    best = scores.copy()  # what a batch's rounding or another number of bytes makes of the same tokens
    np.maximum.at(best, enc.twins, scores)
    return np.asarray(best[enc.twins])


@dataclass(frozen=True)
class Choices:
    """Chosen option of every example, by the scores of its options.

    Attributes:
        scores: float64 [S].
        option: int64 [n], the best-scoring option; see :func:`choose`.
        sequence: int64 [n], its row in ``scores``.
        margin: float64 [n], score of the best less that of the runner-up, 0 for a tie; inf with a single option.
    """

    scores: Floats
    option: Ints
    sequence: Ints
    margin: Floats


def choose(scores: Floats, enc: EncodedSplit, noise: float = NOISE) -> Choices:
    """Choose the best-scoring option of every example.

    Scores that differ by rounding alone are tied, and a tie is decided by a hash of the question's tokens and the
    option's text: independent of the order of options, the batch and the number of threads.

    Args:
        scores: float64 [S], none NaN.
        enc: the encoded split.
        noise: what counts as rounding, relative to the best score where that is beyond 1.
    """
    if not enc.ids:
        empty = np.zeros(0, dtype=np.int64)
        return Choices(scores, empty, empty, np.zeros(0))
    starts = enc.example_offsets
    best = scores[starts[:-1] + best_option(scores, starts)]
    slack = noise * np.maximum(1.0, np.abs(best, where=np.isfinite(best), out=np.zeros_like(best)))
    close = scores >= np.repeat(best - slack, np.diff(starts))
    sequence = starts[:-1] + best_option(close.astype(np.float64), starts)
    for i in np.flatnonzero(np.add.reduceat(close.astype(np.int64), starts[:-1]) > 1):
        tied = starts[i] + np.flatnonzero(close[starts[i] : starts[i + 1]])
        sequence[i] = min(tied, key=lambda s: _coin(enc, int(s)))
    others = scores.copy()
    others[sequence] = -np.inf
    second = np.maximum.reduceat(others, starts[:-1])
    margin = np.subtract(best, second, where=best != second, out=np.zeros_like(best))
    return Choices(scores, sequence - starts[:-1], sequence, np.maximum(margin, 0.0))


def _coin(enc: EncodedSplit, sequence: int) -> bytes:
    example, option = int(enc.seq_example[sequence]), int(enc.seq_option[sequence])
    text = enc.option_texts[example][option].encode("utf-8", "surrogatepass")
    return hashlib.blake2b(enc.prompts[example].tobytes() + text, digest_size=16).digest()


def vote_scores(experts: Sequence[Choices], alphas: Sequence[float], mixture: Floats, enc: EncodedSplit) -> Floats:
    """Option scores of ``rule: vote``: the share of ᾱ that chooses an option; ties are broken by the mixture.

    The mixture enters as a rank below one millionth of a vote, so it decides ties only; mixtures that differ by
    rounding alone have the same rank. Choose among them with ``noise=0``.
    """
    share = np.zeros(enc.seq_example.size)
    for choices, weight in zip(experts, normalise(alphas), strict=True):
        share[choices.sequence] += weight
    order = np.lexsort((mixture, enc.seq_example))
    sorted_mixture, example = mixture[order], enc.seq_example[order]
    step = np.zeros(order.size)
    with np.errstate(invalid="ignore"):  # -inf less -inf is no step
        step[1:] = np.diff(sorted_mixture) > NOISE * np.maximum(1.0, np.abs(sorted_mixture[1:]))
    total = np.cumsum(step)
    first = np.flatnonzero(np.diff(example, prepend=-1))
    rank = np.empty(order.size)
    rank[order] = total - total[first][example]
    return np.asarray(np.round(share, 12) + 1e-6 * rank / np.maximum(np.diff(enc.example_offsets)[enc.seq_example], 1))


def agreement(experts: Sequence[NDArray[np.generic]], alphas: Sequence[float], label: NDArray[np.generic]) -> Floats:
    """The share of ᾱ whose own choice is the label, float64 [n]."""
    out = np.zeros(label.shape[0])
    for own, weight in zip(experts, normalise(alphas), strict=True):
        out += weight * (own == label)
    return out
