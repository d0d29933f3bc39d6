"""Accuracy of options, tokens and arms, with intervals.

Generated text is compared in :mod:`ensemw2s.evaluation.matching`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ensemw2s.evaluation.comparisons import correctness
from ensemw2s.evaluation.intervals import clustered_bootstrap, wilson
from ensemw2s.evaluation.record import Record

LengthNorm = Literal["mean", "sum", "byte"]


@dataclass(frozen=True, slots=True)
class TokenAccuracy(Record):
    """Share of right answer tokens, teacher-forced, micro average, end-of-sequence excluded."""

    value: float
    low: float
    high: float
    tokens: int


@dataclass(frozen=True, slots=True)
class ArmResult(Record):
    """Accuracy of one arm on one split.

    Attributes:
        accuracy: share of right examples.
        low: lower end of Wilson's interval.
        high: upper end.
        n: distinct examples.
        correct: right examples.
        token_accuracy: token accuracy with its bootstrap interval, or None where it was not measured.
    """

    accuracy: float
    low: float
    high: float
    n: int
    correct: int
    token_accuracy: TokenAccuracy | None = None


def _check_offsets(offsets: npt.ArrayLike, total: int, what: str) -> npt.NDArray[np.int64]:
    """Offsets ``[n + 1]`` that cut ``total`` values into ``n`` parts of at least one value each."""
    cuts = np.asarray(offsets, dtype=np.int64)
    if cuts.ndim != 1 or cuts.size < 2 or cuts[0] != 0 or cuts[-1] != total:
        raise ValueError(f"offsets must run from 0 to the number of {what}, {total}")
    if (np.diff(cuts) < 1).any():
        raise ValueError(f"every example needs at least one of the {what}")
    return cuts


def length_normalise(
    logprobs: npt.ArrayLike, tokens: npt.ArrayLike, option_bytes: npt.ArrayLike, norm: LengthNorm
) -> npt.NDArray[np.float64]:
    """Scores of options from the sums of their tokens' log-probabilities, end-of-sequence left out.

    Args:
        logprobs: sum over an option's tokens, float ``[S]``; −inf is allowed.
        tokens: number of tokens of each option, int ``[S]``.
        option_bytes: UTF-8 bytes of each option's text, int ``[S]``.
        norm: ``mean`` divides by tokens, ``byte`` by bytes, ``sum`` by nothing.

    Raises:
        ValueError: shapes that differ, an unknown norm, or an option of length 0 where its length divides.
    """
    total = np.asarray(logprobs, dtype=np.float64)
    if norm == "sum":
        return total.copy()
    if norm not in ("mean", "byte"):
        raise ValueError(f"norm must be mean, sum or byte, got {norm!r}")
    length = np.asarray(tokens if norm == "mean" else option_bytes, dtype=np.float64)
    if length.shape != total.shape:
        raise ValueError(f"one length an option is needed, got {length.shape} for {total.shape}")
    if (length <= 0).any():
        raise ValueError(f"an option has no {'tokens' if norm == 'mean' else 'bytes'}")
    return np.asarray(total / length)


def choose(scores: npt.ArrayLike, offsets: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The best option of every example, int64 ``[n]`` within the example; ties go to the lowest index.

    Scores are float ``[S]``, those of example ``i`` at ``offsets[i] : offsets[i + 1]``.

    Returns:
        Index of the chosen option within its example, int64 ``[n]``.

    Raises:
        ValueError: a score is NaN, or the offsets do not fit.
    """
    values = np.asarray(scores, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("an option's score is NaN")
    cuts = _check_offsets(offsets, values.size, "option scores")
    best = np.repeat(np.maximum.reduceat(values, cuts[:-1]), np.diff(cuts))
    at = np.where(values == best, np.arange(values.size), values.size)
    return np.asarray(np.minimum.reduceat(at, cuts[:-1]) - cuts[:-1], dtype=np.int64)


def choice_correct(scores: npt.ArrayLike, offsets: npt.ArrayLike, answer_index: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether the best-scoring option is the true one, bool ``[n]``.

    Raises:
        ValueError: as :func:`choose`, or an answer that is hidden (−1) or not among the options.
    """
    chosen = choose(scores, offsets)
    answers = np.asarray(answer_index, dtype=np.int64)
    if answers.shape != chosen.shape:
        raise ValueError(f"one answer an example is needed, got {answers.shape} for {chosen.shape}")
    if ((answers < 0) | (answers >= np.diff(np.asarray(offsets, dtype=np.int64)))).any():
        raise ValueError("an answer is hidden or not among the options")
    return np.asarray(chosen == answers, dtype=np.bool_)


def token_accuracy(
    token_correct: npt.ArrayLike, offsets: npt.ArrayLike, *, level: float, resamples: int, seed: int
) -> TokenAccuracy:
    """Micro token accuracy with a bootstrap interval clustered by example.

    ``token_correct`` is bool ``[A]`` for every answer token (no end-of-sequence), those of example ``i`` at
    ``offsets[i] : offsets[i + 1]``.

    Raises:
        ValueError: no tokens, values other than 0 and 1, or offsets that do not fit.
    """
    right = correctness(token_correct, "token_correct")
    cuts = _check_offsets(offsets, right.size, "tokens")
    clusters = np.repeat(np.arange(cuts.size - 1), np.diff(cuts))
    interval = clustered_bootstrap(right, clusters, level=level, resamples=resamples, seed=seed)
    return TokenAccuracy(float(right.mean()), interval.low, interval.high, right.size)


def summarise(correct: npt.ArrayLike, *, level: float = 0.95, tokens: TokenAccuracy | None = None) -> ArmResult:
    """Accuracy of one arm on one split, bool ``[n]``, with Wilson's interval; ``tokens`` is its token accuracy.

    Raises:
        ValueError: no examples, or values other than 0 and 1.
    """
    right = correctness(correct, "correct")
    hits = int(right.sum())
    interval = wilson(hits, right.size, level)
    return ArmResult(hits / right.size, interval.low, interval.high, right.size, hits, tokens)
