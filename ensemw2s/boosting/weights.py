"""The token weights ``D_t``: a distribution over all answer tokens of the training set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import ensemw2s._native as _native
from ensemw2s.boosting.alpha import WeightedError
from ensemw2s.files import replaced

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TokenLayout:
    """Layout of tokens by example: tokens of example ``i`` are ``offsets[i]:offsets[i+1]``.

    Attributes:
        offsets: int64 [n+1], increasing from 0 to N; every example has at least one token.
    """

    offsets: Ints

    def __post_init__(self) -> None:
        if self.offsets.ndim != 1 or self.offsets.size < 2 or self.offsets[0] != 0 or np.any(np.diff(self.offsets) < 1):
            raise ValueError("offsets must start at 0 and grow by at least one token an example")

    @property
    def examples(self) -> int:
        """Number of examples ``n``."""
        return int(self.offsets.size - 1)

    @property
    def tokens(self) -> int:
        """Number of answer tokens ``N``."""
        return int(self.offsets[-1])

    @property
    def lengths(self) -> Ints:
        """Answer tokens of each example ``m_i``, int64 [n]."""
        return np.diff(self.offsets)


def initial_weights(layout: TokenLayout, init: Literal["token", "example"]) -> Floats:
    """``D_1``: ``1/N`` for every token, or ``1/(n·m_i)`` for every token of example ``i``. float64 [N]."""
    if init == "token":
        return np.full(layout.tokens, 1.0 / layout.tokens)
    lengths = layout.lengths
    return np.repeat(1.0 / (layout.examples * lengths), lengths)


def example_weights(layout: TokenLayout, weights: Floats) -> Floats:
    """``D_t(i) = Σ_j D_t(i,j)``, float64 [n]."""
    return _native.segment_sum(weights, layout.offsets)


@dataclass(frozen=True, slots=True)
class Concentration:
    """Concentration of the weights: effective sample size ``1/ΣD²`` and the share of the heaviest 1 % of tokens."""

    n_eff: float
    top1_share: float


def concentration(weights: Floats) -> Concentration:
    """Measure the concentration of a distribution over tokens."""
    heavy = max(1, weights.size // 100)
    top = np.partition(weights, weights.size - heavy)[weights.size - heavy :]
    return Concentration(n_eff=1.0 / float(np.dot(weights, weights)), top1_share=float(top.sum() / weights.sum()))


def update_weights(
    weights: Floats, wrong: Floats, exponent: float, cap: float | None, layout: TokenLayout, error: WeightedError
) -> Floats:
    """``D_{t+1} ∝ D_t · exp(exponent · s)`` in place, normalised and capped at ``cap/N``.

    Args:
        weights: ``D_t``, float64 [N]; overwritten.
        wrong: ``s``, float64 [N] in [0, 1].
        exponent: ``ν·κ·α_t``.
        cap: ``c ≥ 1``, or None.
        layout: tokens of each example.
        error: of these ``weights`` and ``wrong``: where ``s`` is binary it tells the sum to divide by without a sweep.

    Returns:
        ``D_{t+1}(i)``, float64 [n], from the same sweep.
    """
    total = error.grown_total(exponent)
    updated = _native.boost_update(weights, wrong, exponent, cap, total=total, offsets=layout.offsets)
    return np.asarray(updated["segment_sums"])


def update_left_out(
    weights: Floats, wrong: Floats, left_out: NDArray[np.bool_], exponent: float, cap: float | None
) -> None:
    """The same update for the tokens that a round left out, whose total mass stays what it was.

    Tokens that the round trained on keep their weight: their errors are training errors.

    Args:
        weights: ``D_t``, float64 [N]; overwritten.
        wrong: ``s``, float64 [N]; only read where ``left_out``.
        left_out: bool [N].
        exponent: ``ν·κ·α_t``.
        cap: ``c`` of the global cap ``c/N``, or None.
    """
    part = np.ascontiguousarray(weights[left_out])
    mass = float(part.sum())
    if part.size == 0 or mass <= 0.0:
        return
    # The cap is c/N of the whole: inside a part of this mass and size that is a cap of c·size/(N·mass).
    inner = None if cap is None else max(1.0, cap * part.size / (weights.size * mass))
    if inner is not None and inner >= part.size:  # it cannot bind, and may be infinite
        inner = None
    part /= mass
    _native.boost_update(part, np.ascontiguousarray(wrong[left_out]), exponent, inner)
    weights[left_out] = part * mass


def save_weights(path: Path, weights: Floats) -> None:
    """Write ``D_t`` as ``.npy``, to a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, weights)
