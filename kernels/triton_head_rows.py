# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Triton: from the tiles of a row of logits that were never stored to its results.

What :mod:`~ensemw2s.kernels.gpu.rows` does, for the many narrow tiles of a fused head: a program looks at ``chunk``
of them at a time, and never at logits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ensemw2s.kernels.gpu.rows import as_vector, mixture_bound, scalar_of, slack_of, write_experts
from ensemw2s.kernels.gpu.tiles import NEG_INF, at_most_zero, finite_or_zero, order_norm
from ensemw2s.kernels.triton_head_tiles import add_term


@triton.jit
def tiles_of_row(tile_max, row, rows, tiles, lane, tile, count: tl.constexpr):
    """Where the numbers of a row's tiles ``tile`` are for each expert, which of them exist, and their maxima."""
    where = (lane[:, None].to(tl.int64) * rows + row) * tiles + tile[None, :]
    exist = (lane < count)[:, None] & (tile < tiles)[None, :]
    return where, exist, tl.load(tile_max + where, mask=exist, other=NEG_INF)


@triton.jit
def product_bound(shares, relative, lane, active: tl.constexpr):
    """Bounds ``[tiles]`` of ``Σ ᾱ_k (l_k − centre_k)``, short of ``product_max``, from the maxima less the centres."""
    taking_part = (lane < active)[:, None]
    if active > 1:
        scaled = as_vector(shares, lane, active)[:, None] * relative
        bound = tl.sum(tl.where(taking_part, scaled, 0.0), axis=0)
    else:
        bound = tl.max(tl.where(taking_part, relative, NEG_INF), axis=0)
    return bound


@triton.jit
def bounds_of(shares, product_max, relative, held, row, tiles, lane, tile, active: tl.constexpr, product: tl.constexpr):
    """Upper bounds of the combined value in the tiles ``tile`` of a row, from the maxima less the row's maxima.

    Of the product less its ``base`` and normaliser; of the mixture as log-probabilities.
    """
    if product:
        bound = product_bound(shares, relative, lane, active)
        bound += tl.load(product_max + row * tiles + tile, mask=tile < tiles, other=NEG_INF)
    else:
        bound = mixture_bound(relative, held, lane, active)
    return bound


@triton.jit
def row_stats(
    tile_max, tile_sum, tile_first, row, rows, vocabulary, tiles, lane, count: tl.constexpr, chunk: tl.constexpr
):  # fmt: skip
    """Of each expert ``[K]``: the largest logit, ``Σ exp(l − centre)``, and the first token at the maximum."""
    peak = tl.zeros_like(lane).to(tl.float32) + NEG_INF
    start = tl.full([], 0, tl.int32)
    while start < tiles:
        _, _, top = tiles_of_row(tile_max, row, rows, tiles, lane, start + tl.arange(0, chunk), count)
        peak = tl.maximum(peak, tl.max(top, axis=1))
        start += chunk
    total = tl.zeros_like(peak)
    winner = tl.zeros_like(lane) + vocabulary
    start = tl.full([], 0, tl.int32)
    while start < tiles:
        where, exist, top = tiles_of_row(tile_max, row, rows, tiles, lane, start + tl.arange(0, chunk), count)
        part = tl.load(tile_sum + where, mask=exist, other=0.0)
        # a sum of 0 belongs to a tile of −inf, whose scale may be infinite
        scale = tl.exp(finite_or_zero(top) - finite_or_zero(peak)[:, None])
        total += tl.sum(tl.where(part == 0.0, 0.0, part * scale), axis=1)
        first = tl.load(tile_first + where, mask=exist & (top == peak[:, None]), other=vocabulary)
        winner = tl.minimum(winner, tl.min(first, axis=1))
        start += chunk
    return peak, total, winner


@triton.jit
def write_bounds(
    shares, tile_max, product_max, bound, tile_best, anchor, held, undefined, row, rows, tiles, lane,
    count: tl.constexpr, active: tl.constexpr, product: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    """Write the bounds of a row's tiles and that nothing is known of their best tokens; gives the largest bound."""
    largest = tl.full([], NEG_INF, tl.float32)
    start = tl.full([], 0, tl.int32)
    while start < tiles:
        tile = start + tl.arange(0, chunk)
        _, _, top = tiles_of_row(tile_max, row, rows, tiles, lane, tile, count)
        limit = bounds_of(shares, product_max, top - anchor[:, None], held, row, tiles, lane, tile, active, product)
        tl.store(bound + row * tiles + tile, tl.where(undefined, NEG_INF, limit), mask=tile < tiles)
        tl.store(tile_best + row * tiles + tile, NEG_INF, mask=tile < tiles)
        largest = tl.maximum(largest, tl.max(limit, axis=0))
        start += chunk
    return largest


@triton.jit
def product_norm(
    shares, tile_max, product_max, product_sum, anchor, held, row_base, row, rows, tiles, lane, inv_temp,
    count: tl.constexpr, active: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    """The logarithm of the product's mass relative to ``row_base``, at the temperature."""
    mass = tl.full([], 0.0, tl.float32)
    start = tl.full([], 0, tl.int32)
    while start < tiles:
        tile = start + tl.arange(0, chunk)
        _, _, top = tiles_of_row(tile_max, row, rows, tiles, lane, tile, count)
        limit = bounds_of(shares, product_max, top - anchor[:, None], held, row, tiles, lane, tile, active, True)
        part = tl.load(product_sum + row * tiles + tile, mask=tile < tiles, other=0.0)
        mass += tl.sum(tl.where(part == 0.0, 0.0, part * tl.exp((limit - row_base) * inv_temp)), axis=0)
        start += chunk
    return tl.log(mass)


@triton.jit
def target_log_prob(
    shares, target_logit, expert_target, anchor, log_total, held, row_base, row_norm, row, rows, lane, inv_temp,
    count: tl.constexpr, active: tl.constexpr, product: tl.constexpr,
):  # fmt: skip
    """Write every expert's log-probability of the row's target; gives the combined one (of a mixture at 1)."""
    x = tl.load(target_logit + lane * rows + row, mask=lane < count, other=0.0)
    own = tl.where(log_total < float("inf"), (x - anchor) - log_total, float("nan"))
    tl.store(expert_target + lane * rows + row, at_most_zero(own), mask=lane < count)
    highest = tl.full([], NEG_INF, tl.float32)
    value = tl.full([], 0.0, tl.float32)
    for k in tl.static_range(active):
        centred = scalar_of(x - anchor, lane, k)
        if product:
            value += shares[k] * centred
        else:
            highest, value = add_term(highest, value, centred + scalar_of(held, lane, k))
    return at_most_zero(
        (value - row_base) * inv_temp - row_norm if product else finite_or_zero(highest) + tl.log(value)
    )


@triton.jit
def finish_head(
    shares, log_shares, tile_max, tile_sum, tile_first, product_max, product_sum, target_logit, bound, tile_best,
    threshold, argmax, target_logprob, expert_argmax, logsumexp, expert_target, centre, offset, base, norm, rows,
    vocabulary, tiles, inv_temp,
    count: tl.constexpr, count_padded: tl.constexpr, active: tl.constexpr, product: tl.constexpr,
    has_targets: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    """One program for each row: from the tiles' numbers to everything that needs no further logits.

    Writes every expert's results (``[K, N]``), the row's constants for later passes, the combined log-probability of
    the target (of a mixture at temperature 1), and for the search ``bound`` ``[N, tiles]``, ``tile_best``
    ``[N, tiles]`` (−inf: nothing known) and ``threshold`` ``[N]``, which the tile of the largest bound reaches alone.
    ``argmax`` is that of the first expert. Undefined rows: ``argmax`` −1, floating point NaN, no tile reaches the
    threshold.
    """
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, count_padded)
    peak, total, winner = row_stats(tile_max, tile_sum, tile_first, row, rows, vocabulary, tiles, lane, count, chunk)
    anchor, log_total, held, good, undefined = write_experts(
        log_shares, logsumexp, centre, offset, peak, total, row, rows, lane, count, active
    )
    winner = tl.where(good, winner, 0)
    tl.store(expert_argmax + lane * rows + row, winner.to(tl.int64), mask=lane < count)
    largest = write_bounds(
        shares, tile_max, product_max, bound, tile_best, anchor, held, undefined, row, rows, tiles, lane,
        count, active, product, chunk,
    )  # fmt: skip
    row_base = tl.full([], 0.0, tl.float32)
    row_norm = tl.full([], 0.0, tl.float32)
    if product:
        undefined = undefined | (largest == NEG_INF)
        row_base = finite_or_zero(largest)
        row_norm = product_norm(
            shares, tile_max, product_max, product_sum, anchor, held, row_base, row, rows, tiles, lane, inv_temp,
            count, active, chunk,
        )  # fmt: skip
    tl.store(base + row, row_base)
    tl.store(norm + row, tl.where(undefined, float("nan"), row_norm))
    reached = ((largest + slack_of(largest)) - row_base) - order_norm(row_norm, inv_temp)
    tl.store(threshold + row, tl.where(undefined, float("inf"), reached))
    tl.store(argmax + row, tl.where(undefined, -1, scalar_of(winner, lane, 0)).to(tl.int64))

    if has_targets:
        result = target_log_prob(
            shares, target_logit, expert_target, anchor, log_total, held, row_base, row_norm, row, rows, lane, inv_temp,
            count, active, product,
        )  # fmt: skip
        tl.store(target_logprob + row, tl.where(undefined, float("nan"), result))
