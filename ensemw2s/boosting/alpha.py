"""Weighted errors, and the α rules that turn them into expert weights.

Every rule is a difference of log-odds. With ``logit x = log(x / (1 − x))`` the paper's rule is
``α_t = logit ε_0 − logit ε_t``: SAMME's ``log(K − 1)`` is ``log(1/(1/K) − 1)``, the log-odds of guessing among ``K``
classes, and the accuracy ``1/K`` of guessing is replaced by the accuracy ``1 − ε_0`` of the pre-trained base.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import ensemw2s._native as _native


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


@dataclass(frozen=True, slots=True)
class AlphaRule:
    """A rule that turns an expert's error into its weight ``α_t``.

    Attributes:
        weight: ``α_t`` from ``ε_t`` under ``D_t``, ``ε_0`` of the pre-trained base, and the number of classes ``K``
            (at least 2). The errors come unclipped: see :attr:`WeightedError.clipped`.
        factor: ``κ``: the token weights are multiplied by ``exp(ν·κ·α_t·s)``.
        prior: the weights under which ``ε_0`` is measured: ``first`` is ``D_1``, ``current`` is ``D_t``.
        updates: whether the token weights change at all. Where they do not, an expert without errors ends nothing.
    """

    weight: Callable[[WeightedError, WeightedError, int], float]
    factor: float = 1.0
    prior: Literal["first", "current"] = "first"
    updates: bool = True

    def __post_init__(self) -> None:
        if self.prior not in ("first", "current"):
            raise ValueError(f"prior is {self.prior!r}; expected 'first' or 'current'")


def _over_prior(error: WeightedError, prior: WeightedError, classes: int) -> float:
    return logit(prior.clipped) - logit(error.clipped)


PRIOR = AlphaRule(_over_prior)
"""``logit ε_0 − logit ε_t``."""
ADAPTIVE = AlphaRule(_over_prior, prior="current")
"""The same with the base's error under ``D_t``."""
SAMME = AlphaRule(lambda error, _prior, classes: math.log(classes - 1) - logit(error.clipped))
"""``log((1−ε)/ε) + log(K−1)`` (Zhu et al. 2009)."""
BINARY = AlphaRule(lambda error, _prior, _classes: -0.5 * logit(error.clipped), factor=2.0)
"""``½·log((1−ε)/ε)`` (Freund and Schapire 1997); with ``κ = 2`` the update is the two-sided ``exp(±α)``, normalised."""
UNIFORM = AlphaRule(lambda _error, _prior, _classes: 1.0, updates=False)
"""1."""
