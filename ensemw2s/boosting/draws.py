"""The training set of a round from the token weights: three draws with the same expected loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import ensemw2s._native as _native
from ensemw2s.boosting.weights import Floats, Ints, TokenLayout, example_weights
from ensemw2s.seeds import sub_seed

#: Largest loss weight of an end-of-sequence token outside ``D``. It bounds the one step in which a light example is
#: drawn, and leaves the expectation at 1 for every example with a tenth of the mean weight or more.
EOS_CAP = 10.0


@dataclass(frozen=True)
class Draw:
    """A round's training set.

    Attributes:
        index: int64 [m], examples in the order drawn, with repeats.
        token_weights: float32 [N], loss weight of every answer token each time its example is used.
        eos_weights: float32 [n], loss weight of every example's end-of-sequence token where that is no part of ``D``.
        left_out: bool [n], examples that do not occur in ``index``.
    """

    index: Ints
    token_weights: NDArray[np.float32]
    eos_weights: NDArray[np.float32]
    left_out: NDArray[np.bool_]


def draw_training_set(
    layout: TokenLayout,
    weights: Floats,
    draw: Literal["example", "token", "none"],
    *,
    seed: int,
    stream: int,
    mass: Floats | None = None,
) -> Draw:
    """Turn ``D_t`` into what one expert is trained on.

    The expected loss of one pass is ``N·Σ D_t(i,j)·nll(i,j)`` for all three draws, plus the end-of-sequence tokens with
    weight 1 each where they are no part of ``D``: example ``i`` is drawn ``n·D_t(i)`` times on average, so each time
    its end-of-sequence token weighs ``1/(n·D_t(i))``, at most :data:`EOS_CAP`. Where some examples have no weight (a
    fold of cross-fitting), ``n`` in that weight is the number of those that have: its mean over draws stays 1.

    Args:
        layout: tokens of each example.
        weights: ``D_t``, float64 [N].
        draw: ``example`` draws ``n`` examples with replacement with probability ``D_t(i)`` and weights token ``j``
            of a drawn example by ``(N/n)·D_t(i,j)/D_t(i)``; ``token`` draws ``N`` tokens with replacement and weights
            by counts; ``none`` keeps every example once and weights by ``N·D_t(i,j)``.
        seed: the run's seed.
        stream: the round, or another number that tells draws apart.
        mass: ``D_t(i)``, float64 [n], where it is known already.
    """
    n, total = layout.examples, layout.tokens
    everything, ones = np.arange(n, dtype=np.int64), np.ones(n, dtype=np.float32)
    if draw == "none":
        return Draw(everything, (total * weights).astype(np.float32), ones, np.zeros(n, dtype=np.bool_))
    key = sub_seed(seed, "boosting", "draw")
    if draw == "token":
        tokens = _native.WeightedSampler(weights).sample(total, key, stream)
        counts = np.bincount(tokens, minlength=total)
        return Draw(everything, counts.astype(np.float32), ones, np.zeros(n, dtype=np.bool_))
    if mass is None:
        mass = example_weights(layout, weights)
    index = _native.WeightedSampler(mass).sample(n, key, stream)
    safe = np.where(mass > 0.0, mass, 1.0)  # an example without weight is never drawn
    token_weights = (total / n) * weights / np.repeat(safe, layout.lengths)
    eos_weights = np.minimum(1.0 / (np.count_nonzero(mass) * safe), EOS_CAP)
    left_out = np.bincount(index, minlength=n) == 0
    return Draw(index, token_weights.astype(np.float32), eos_weights.astype(np.float32), left_out)


def loss_constant(layout: TokenLayout, eos_included: bool) -> float:
    """The constant that a sequence's summed loss is divided by: the mean number of trained tokens of a sequence.

    Where the end-of-sequence token is no part of ``D`` it is trained on all the same, with weight 1 in expectation.
    """
    return layout.tokens / layout.examples + (0.0 if eos_included else 1.0)
