"""Fits on validation, by log score: the weights of a vote, and the temperature of a distribution over options."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Pseudo-observations of the equal vote, divided among the experts.
PSEUDO_COUNT = 30.0

#: In place of −inf, so that a question whose options are all impossible has a distribution.
_IMPOSSIBLE = -1e30


def fitted_vote(logprob: NDArray[np.floating], pseudo_count: float = PSEUDO_COUNT, tolerance: float = 1e-9) -> Floats:
    """The vote with the best log score, ``argmax_ᾱ Σ_i log Σ_t ᾱ_t P_t(y_i) + (c/T) Σ_t log ᾱ_t``, float64 ``[T]``.

    Stacking of predictive distributions (Yao et al. 2018) with a Dirichlet prior at the equal vote. The objective is
    concave on the simplex; expectation-maximisation, ``ᾱ_t ← (Σ_i r_it + c/T)/(n + c)`` with
    ``r_it = ᾱ_t P_t(y_i)/Σ_s ᾱ_s P_s(y_i)``, never lowers it. It ends where the optimality conditions of the simplex
    hold: no expert's gradient ``Σ_i P_t/Σ_s ᾱ_s P_s + c/(T·ᾱ_t)`` exceeds ``n + c`` by more than ``tolerance·(n + c)``.

    Args:
        logprob: ``[T, n]``, natural logarithm of what each expert gives the true answer of each observation; −inf where
            it gives nothing. Observations that no expert gives anything say nothing about the vote and are left out.
        pseudo_count: ``c``; 0 fits without shrinkage.
        tolerance: of the conditions, relative.

    Raises:
        ValueError: NaN, +inf, or no expert.
    """
    values = np.asarray(logprob, dtype=np.float64)
    if values.ndim != 2 or len(values) == 0 or np.isnan(values).any() or np.isposinf(values).any():
        raise ValueError("logprob must be [T, n] with T >= 1, without NaN and +inf")
    values = values[:, np.isfinite(values).any(axis=0)]
    experts, n = values.shape
    share = np.full(experts, 1.0 / experts)
    if n == 0:
        return share
    prob = np.exp(values - values.max(axis=0))
    for _ in range(100_000):
        pull = (prob / (share @ prob)).sum(axis=1)  # the log score's gradient
        gradient = pull + pseudo_count / (experts * np.maximum(share, 1e-300))
        if gradient.max() <= (n + pseudo_count) * (1.0 + tolerance):
            break
        share = (share * pull + pseudo_count / experts) / (n + pseudo_count)
    return np.asarray(share / share.sum())


def option_logprob(scores: NDArray[np.floating], offsets: Ints, sharpness: float = 1.0) -> Floats:
    """``log softmax_o(κ · score(o))`` over the options of each question, float64 ``[S]``.

    Args:
        scores: ``[S]``, of all options, question after question.
        offsets: ``[n + 1]``, the options of each question.
        sharpness: ``κ``.
    """
    values = np.maximum(sharpness * np.asarray(scores, dtype=np.float64), _IMPOSSIBLE)
    counts = np.diff(offsets)
    lowered = values - np.repeat(np.maximum.reduceat(values, offsets[:-1]), counts)
    return np.asarray(lowered - np.repeat(np.log(np.add.reduceat(np.exp(lowered), offsets[:-1])), counts))


def fitted_sharpness(scores: NDArray[np.floating], offsets: Ints, answers: Ints) -> float:
    """``κ`` with the best log score of the true options, ``argmax_κ Σ_i log softmax_{y_i}(κ · score_i)``.

    Concave in ``κ``; its derivative is the true option's score less the mean score under the distribution. Kept within
    ``[2⁻¹⁰, 2¹⁰]``: scores that tell nothing, or separate every question, have no finite optimum. Questions whose true
    option has no probability (−inf) say nothing about ``κ`` and are left out.

    Args:
        scores: ``[S]``.
        offsets: ``[n + 1]``.
        answers: ``[n]``, the true option of each question.
    """
    from scipy.optimize import brentq

    values = np.asarray(scores, dtype=np.float64)
    possible = values > 1e-6 * _IMPOSSIBLE  # mixed distributions hold a share of it
    told = possible[offsets[:-1] + answers]
    mean_of = np.where(possible & np.repeat(told, np.diff(offsets)), values, 0.0)
    true = float(values[offsets[:-1] + answers][told].sum())

    def slope(log_kappa: float) -> float:
        prob = np.exp(option_logprob(values, offsets, 2.0**log_kappa))
        return true - float(prob @ mean_of)

    low, high = -10.0, 10.0
    if slope(low) <= 0.0:
        return float(2.0**low)
    if slope(high) >= 0.0:
        return float(2.0**high)
    return float(2.0 ** brentq(slope, low, high, xtol=1e-10))
