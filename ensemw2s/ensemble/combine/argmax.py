"""The ensemble's arg-max token at answer positions, from the experts' kept top-k candidates.

A candidate's probability is known where it is among an expert's top k, and bounded by that expert's smallest kept
probability elsewhere. Where the bounds leave the ensemble's arg-max open, the position is reported as undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ensemw2s.ensemble.combine.option_scores import normalise
from ensemw2s.models.inference.score_table import ScoreTable

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

_CHUNK = 2048
#: Kept log-probabilities are float32: their probabilities add up to 1 within this.
_ROUNDING = 1e-5


def ensemble_argmax(
    tables: Sequence[ScoreTable],
    alphas: Sequence[float],
    rule: Literal["mixture", "product", "vote"],
    vocab_size: int,
) -> tuple[Ints, Bools]:
    """The ensemble's arg-max at every kept answer position.

    Args:
        tables: one an expert, with ``topk_ids`` and ``topk_logprob`` [A, k].
        alphas: ``α_t``, not normalised.
        rule: how experts are combined.
        vocab_size: V; with ``k ≥ V`` everything is known.

    Returns:
        (arg-max int64 [A], decided bool [A]); the arg-max of an undecided position is a best guess. Ties go to the
        lowest token id.
    """
    kept = [(t, w) for t, w in zip(tables, normalise(alphas), strict=True) if w > 0.0]
    rows = kept[0][0].topk_ids.shape[0]
    argmax = np.zeros(rows, dtype=np.int64)
    decided = np.zeros(rows, dtype=np.bool_)
    for start in range(0, rows, _CHUNK):
        part = slice(start, min(start + _CHUNK, rows))
        ids = [np.asarray(t.topk_ids[part], dtype=np.int64) for t, _ in kept]
        logs = [np.asarray(t.topk_logprob[part], dtype=np.float64) for t, _ in kept]
        weights = [w for _, w in kept]
        found, sure = _argmax_chunk(ids, logs, weights, rule, vocab_size)
        # No rule puts another token above one that is every expert's own arg-max.
        own = np.stack([each[:, 0] for each in ids])
        same = (own == own[0]).all(axis=0)
        argmax[part], decided[part] = np.where(same, own[0], found), sure | same
    return argmax, decided


def _lookup(candidates: Ints, ids: Ints, logs: Floats) -> tuple[Floats, Bools]:
    """Log-probability of each candidate at one expert and whether it was kept there. [a, C] from [a, k]."""
    order = np.argsort(ids, axis=1, kind="stable")
    by_id = np.take_along_axis(ids, order, axis=1)
    logs_by_id = np.take_along_axis(logs, order, axis=1)
    # One searchsorted for all rows: row r's ids are shifted into their own range.
    span = int(max(by_id.max(initial=0), candidates.max(initial=0))) + 1
    shift = (np.arange(ids.shape[0], dtype=np.int64) * span)[:, None]
    flat = (by_id + shift).ravel()
    place = np.minimum(np.searchsorted(flat, (candidates + shift).ravel()), flat.size - 1)
    known = (flat[place] == (candidates + shift).ravel()).reshape(candidates.shape)
    values = logs_by_id.ravel()[place].reshape(candidates.shape)
    return np.where(known, values, -np.inf), known


def _argmax_chunk(
    ids: list[Ints], logs: list[Floats], weights: list[float], rule: str, vocab_size: int
) -> tuple[Ints, Bools]:
    candidates = np.sort(np.concatenate(ids, axis=1), axis=1)
    looked = [_lookup(candidates, i, lp) for i, lp in zip(ids, logs, strict=True)]
    complete = all(i.shape[1] >= vocab_size for i in ids)
    floors = [_unseen_bound(lp) for lp in logs]  # [a]: no token that was not kept is more probable than this
    if rule == "product":
        return _product(candidates, looked, floors, weights, complete)
    low = np.asarray(sum(w * np.exp(values) for (values, _), w in zip(looked, weights, strict=True)))
    slack = np.zeros(low.shape)
    for (_, known), w, floor in zip(looked, weights, floors, strict=True):
        slack += w * np.where(known, 0.0, floor[:, None])
    if rule == "vote":
        return _vote(candidates, ids, weights, low, low + slack)
    unseen = np.zeros(low.shape[0])
    if not complete:
        unseen += sum(w * floor for w, floor in zip(weights, floors, strict=True))
    return _settled(candidates, low, low + slack, slack.max(axis=1) == 0.0, unseen)


def _settled(candidates: Ints, low: Floats, high: Floats, exact: Bools, unseen: Floats) -> tuple[Ints, Bools]:
    """The candidate with the largest lower bound, and whether no other token can beat it.

    Args:
        candidates: [a, C], rising ids.
        low: [a, C], what a candidate has at least.
        high: [a, C], and at most.
        exact: bool [a], whether both are the same everywhere.
        unseen: [a], what a token outside the candidates has at most.
    """
    best = np.argmax(low, axis=1)[:, None]
    chosen = np.take_along_axis(candidates, best, axis=1)
    floor = np.take_along_axis(low, best, axis=1)[:, 0]
    runner_up = np.where(candidates == chosen, -np.inf, high).max(axis=1)
    # A rival that has exactly the same and a higher id loses the tie.
    sure = (floor > runner_up) | (exact & (floor >= runner_up))
    return chosen[:, 0], sure & (floor > unseen)


def _product(
    candidates: Ints, looked: list[tuple[Floats, Bools]], floors: list[Floats], weights: list[float], complete: bool
) -> tuple[Ints, Bools]:
    """``Σ_t ᾱ_t log P_t`` orders tokens as its normalised exponential does; where one was not kept, it is bounded."""
    high = np.zeros(candidates.shape)
    unseen = np.zeros(candidates.shape[0])
    everywhere = np.ones(candidates.shape, dtype=np.bool_)
    with np.errstate(divide="ignore"):
        bounds = [np.log(floor) for floor in floors]
    for (values, known), w, bound in zip(looked, weights, bounds, strict=True):
        high += w * np.where(known, values, bound[:, None])
        unseen += w * bound
        everywhere &= known
    low = np.where(everywhere, high, -np.inf)
    exact = np.asarray(everywhere.all(axis=1))
    return _settled(candidates, low, high, exact, np.full(unseen.shape, -np.inf) if complete else unseen)


def _unseen_bound(logs: Floats) -> Floats:
    """Largest probability that a token outside the top k can have: the smallest kept one, or what mass is left."""
    p = np.exp(logs)
    return np.asarray(np.minimum(p.min(axis=1), np.maximum(1.0 - p.sum(axis=1), 0.0) + _ROUNDING))


def _vote(candidates: Ints, ids: list[Ints], weights: list[float], low: Floats, high: Floats) -> tuple[Ints, Bools]:
    """Shares of the experts' arg-maxes; equal shares are decided by the mixture where its bounds allow."""
    share = np.zeros(candidates.shape)
    for own, w in zip(ids, weights, strict=True):
        share += w * (candidates == own[:, :1])
    share = np.round(share, 12)
    tied = share == share.max(axis=1, keepdims=True)
    best = np.argmax(np.where(tied, low, -np.inf), axis=1)
    chosen = np.take_along_axis(candidates, best[:, None], axis=1)[:, 0]
    floor = np.take_along_axis(low, best[:, None], axis=1)[:, 0]
    runner_up = np.where(tied & (candidates != chosen[:, None]), high, -np.inf).max(axis=1)
    known = np.take_along_axis(high, best[:, None], axis=1)[:, 0] == floor
    return chosen, (floor > runner_up) | (known & (floor >= runner_up))
