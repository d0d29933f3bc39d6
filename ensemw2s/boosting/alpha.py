"""Weighted errors and the rules that turn them into expert weights.

Every rule is a difference of log-odds. With ``logit x = log(x / (1 − x))`` the paper's rule is
``α_t = logit ε_0 − logit ε_t``: SAMME's ``log(K − 1)`` is ``log(1/(1/K) − 1)``, the log-odds of guessing among ``K``
classes, and the accuracy ``1/K`` of guessing is replaced by the accuracy ``1 − ε_0`` of the pre-trained base.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ensemw2s import _native

AlphaRule = Literal["prior", "adaptive", "samme", "binary", "uniform"]


@dataclass(frozen=True, slots=True)
class WeightedError:
    """A weighted mean of ``s`` with the size of the sample that it stands on.

    Attributes:
        value: ``Σ w·s / Σ w``, in [0, 1].
        n_eff: effective sample size ``(Σ w)² / Σ w²``; for a distribution this is ``1 / ΣD²``.
        total: ``Σ w``.
        binary: ``s`` is known to be 0 or 1 everywhere.
    """

    value: float
    n_eff: float
    total: float = 1.0
    binary: bool = False

    @property
    def clipped(self) -> float:
        """The error moved into ``[δ, 1 − δ]`` with ``δ = 1 / (2·n_eff)``, so that its log-odds are finite."""
        delta = 1.0 / (2.0 * self.n_eff)
        return min(max(self.value, delta), 1.0 - delta)

    def grown_total(self, exponent: float) -> float | None:
        """``Σ w·exp(exponent·s)``, which is ``Σ w·(1 + ε·(exp(exponent) − 1))`` where ``s`` is binary; else None."""
        if not self.binary or abs(exponent) > 300.0:  # far inside the range of exp
            return None
        return self.total * (1.0 + self.value * math.expm1(exponent))


def weighted_error(weights: NDArray[np.floating], wrong: NDArray[np.floating]) -> WeightedError:
    """The error of one expert under given weights.

    Args:
        weights: float [N], non-negative with a positive sum.
        wrong: ``s``, float [N] in [0, 1].

    Raises:
        ValueError: the weights sum to zero, or something is not finite or outside its range.
    """
    weights, wrong = np.ascontiguousarray(weights), np.ascontiguousarray(wrong)
    sums = _native.weighted_error(weights, wrong)
    total = given = sums["total"]
    if not 0.0 < total < math.inf:
        raise ValueError(f"weights must have a positive finite sum, not {total}")
    if not 1e-100 < total < 1e100:  # the squares would leave the range of float64
        sums = _native.weighted_error(weights / weights.max(), wrong)
        total = sums["total"]
    return WeightedError(
        value=min(sums["wrong"] / total, 1.0),
        n_eff=max(total * total / sums["squares"], 1.0),
        total=given,
        binary=sums["binary"],
    )


def logit(p: float) -> float:
    """``log(p / (1 − p))``."""
    return math.log(p) - math.log1p(-p)


def expert_weight(rule: AlphaRule, error: WeightedError, prior: WeightedError, classes: int) -> float:
    """The expert weight ``α_t``.

    Args:
        rule: ``prior`` and ``adaptive`` give ``logit ε_0 − logit ε_t`` (they differ in the weights of ``prior``);
            ``samme`` gives ``log((1−ε)/ε) + log(K−1)`` (Zhu et al. 2009); ``binary`` gives ``½·log((1−ε)/ε)``
            (Freund and Schapire 1997); ``uniform`` gives 1.
        error: ``ε_t`` under ``D_t``.
        prior: ``ε_0`` of the pre-trained base; under ``D_1``, or for ``adaptive`` under ``D_t``.
        classes: ``K`` of ``samme``, at least 2.
    """
    if rule == "uniform":
        return 1.0
    log_odds = -logit(error.clipped)
    if rule == "samme":
        return log_odds + math.log(classes - 1)
    if rule == "binary":
        return 0.5 * log_odds
    return log_odds + logit(prior.clipped)


def update_factor(rule: AlphaRule) -> float:
    """``κ``: 2 for ``binary``, which then equals the two-sided update ``exp(±α)`` after normalising; otherwise 1."""
    return 2.0 if rule == "binary" else 1.0
