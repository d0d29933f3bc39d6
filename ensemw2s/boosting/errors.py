"""Token errors ``s`` (level, window), and held-out estimates of an expert's error: out-of-bag and cross-fitting."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

import ensemw2s._native as _native
from ensemw2s.boosting.alpha import WeightedError, weighted_error
from ensemw2s.boosting.draws import Draw
from ensemw2s.boosting.weights import Floats, TokenLayout, example_weights


def smooth_errors(
    layout: TokenLayout,
    weights: Floats,
    wrong: NDArray[np.floating],
    *,
    level: Literal["token", "example"],
    window: int,
) -> Floats:
    """Apply the ``level`` and ``window`` options to raw errors.

    Args:
        layout: tokens of each example.
        weights: ``D_t``, float64 [N].
        wrong: raw ``s``, [N], 0 or 1.
        level: ``example`` gives all tokens of an example its ``D_t``-weighted mean of ``s``.
        window: mean of ``s`` over so many neighbouring answer tokens of the same example, shortened at its ends; an
            even window reaches one token further back than ahead.

    Returns:
        ``s``, float64 [N] in [0, 1].
    """
    s = np.asarray(wrong, dtype=np.float64)
    if level == "example":
        mass = example_weights(layout, weights)
        mean = _native.segment_sum(weights * s, layout.offsets) / np.where(mass > 0.0, mass, 1.0)
        return np.repeat(np.clip(mean, 0.0, 1.0), layout.lengths)
    if window == 1:
        return s
    position = np.arange(layout.tokens)
    starts = np.repeat(layout.offsets[:-1], layout.lengths)
    ends = np.repeat(layout.offsets[1:], layout.lengths)
    low = np.maximum(position - window // 2, starts)
    high = np.minimum(position + (window - 1) // 2 + 1, ends)
    running = np.concatenate([[0.0], np.cumsum(s)])
    return np.asarray((running[high] - running[low]) / (high - low))


def left_out_weights(layout: TokenLayout, weights: Floats, draw: Draw) -> Floats:
    """``D_t/q_i`` on the examples that a round did not draw and 0 elsewhere; ``q_i = (1 − D_t(i))^n``. float64 [N].

    Heavy examples are rarely left out; dividing by the probability ``q_i`` of being left out removes that bias.
    """
    mass = np.minimum(example_weights(layout, weights), 1.0)
    with np.errstate(divide="ignore"):  # an example that holds all the mass: q = 0, and it is never left out
        log_q = layout.examples * np.log1p(-mass)
    # Only ratios matter (the estimate is self-normalised), so the largest factor is made 1.
    log_factor = np.where(draw.left_out, -log_q, -np.inf)
    if not np.any(draw.left_out):
        return np.zeros_like(weights)
    factor = np.exp(log_factor - log_factor.max())
    return np.asarray(weights * np.repeat(factor, layout.lengths))


def out_of_bag_error(
    layout: TokenLayout, weights: Floats, wrong: Floats, draw: Draw, among: NDArray[np.bool_] | None = None
) -> WeightedError | None:
    """``ε_t`` from the examples that the round did not draw, self-normalised; None if none was left out.

    ``n_eff`` counts examples, ``(Σ w_i)²/Σ w_i²`` with ``w_i = D_t(i)/q_i``: tokens of one example err together.
    ``among``, bool [n], restricts it to some examples.
    """
    w = left_out_weights(layout, weights, draw)
    if among is not None:
        w *= np.repeat(among, layout.lengths)
    if not np.any(w > 0.0):
        return None
    by_example = example_weights(layout, w)
    n_eff = float(by_example.sum() ** 2 / np.dot(by_example, by_example))
    return WeightedError(value=weighted_error(w, wrong).value, n_eff=n_eff)


def unseen_mass(layout: TokenLayout, weights: Floats, among: NDArray[np.bool_] | None = None) -> float:
    """Share of ``D_t`` on the heaviest examples of which, all together, fewer than one is expected to be left out.

    Out-of-bag weights ``D_t/q_i`` are unbiased over all draws, but an example with ``q_i = (1 − D_t(i))^n`` near 0 is
    out of the bag in hardly any of them. In the one draw at hand the estimate is then of the other examples, and its
    effective sample size, which is theirs, does not show it. A set of examples is out of the bag ``Σ q_i`` times on
    average, and none of them is with a probability of about ``exp(−Σ q_i)``. Whatever the errors of such a set are, the
    estimate is off by no more than its share. With ``among``, bool [n], of the weight of these examples.
    """
    mass = np.minimum(example_weights(layout, weights), 1.0)
    mass = np.sort(mass if among is None else mass[among])[::-1]
    with np.errstate(divide="ignore"):  # all the mass: q = 0
        expected = np.cumsum(np.exp(layout.examples * np.log1p(-mass)))
    share = float(mass[expected < 1.0].sum())
    return share if among is None else share / float(mass.sum())


def fold_of_example(n: int, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of every example for cross-fitting: sizes differ by one at most, membership is drawn by seed."""
    order = np.random.default_rng(seed).permutation(n)
    fold = np.empty(n, dtype=np.int64)
    fold[order] = np.arange(n) % folds
    return fold
