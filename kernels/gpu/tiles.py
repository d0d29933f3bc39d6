# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
"""Triton: tile statistics from one read of the logits, and the combined values of any tile afterwards.

A *tile* is ``block`` consecutive tokens of a row. The first pass gives each tile's maximum and sum of exponentials;
from these follow every expert's log-sum-exp, an upper bound of the combined distribution in each tile, and, where the
distribution needs no second normaliser, the probability mass of each tile. So what comes after (arg-max, draws) only
reads the few tiles that matter.

The *value* of a token orders the tokens and gives its log-probability as ``(value − shift) · inv_temp − norm``:
the mixture's log-probability, the product's ``Σ ᾱ_k l_k − base``, or a lone expert's logit (rule "product" with one
expert), each at temperature 1. The product's sum is formed in float64: experts that disagree cancel in it, and only
there is the most probable token found to be exactly 0 below itself, wherever it is computed.

Sums of ``block`` terms are formed in float32, and in the same order on every launch. Exact ties stay ties: the value of
a token is the same function of its logits whatever the tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

NEG_INF = tl.constexpr(float("-inf"))


@triton.jit
def finite_or_zero(x):
    """``x`` where it is finite, else 0, so that a shift by it never forms ``∞ − ∞``."""
    return tl.where(tl.abs(x) < float("inf"), x, 0.0)


@triton.jit
def at_most_zero(x):
    """``x``, or 0 where rounding has brought a log-probability above it; NaN stays."""
    return tl.where(x > 0.0, 0.0, x)


@triton.jit
def order_norm(norm, inv_temp):
    """Normaliser of the product's values in their order: at temperature 1 they are ordered as they are returned.

    At another one the values themselves order the tokens: what the subtraction rounds off would be divided by it.
    """
    return tl.where(inv_temp == 1.0, norm, 0.0)


@triton.jit
def weighted_sum(total, weights, k: tl.constexpr, x):
    """``total`` and the weighted logits of expert ``k``, float64; ``weights`` float64 ``[K]``."""
    return total + tl.load(weights + k) * x.to(tl.float64)


@triton.jit
def load_logits(pointer, row, token, mask, row_stride, col_stride, contiguous: tl.constexpr):
    """Logits of the tokens ``token`` in ``row`` as float32, −inf where masked."""
    offset = token if contiguous else token.to(tl.int64) * col_stride
    return tl.load(pointer + row * row_stride + offset, mask=mask, other=NEG_INF).to(tl.float32)


@triton.jit
def tile_stats(
    experts, tile_max, tile_sum, row_stride, col_stride, rows, vocabulary, tiles,
    count: tl.constexpr, block: tl.constexpr, contiguous: tl.constexpr,
):  # fmt: skip
    """First pass, mixture and vote: one program for each (expert, row, tile).

    Writes ``tile_max`` and ``tile_sum`` float32 ``[K, N, tiles]``: ``m = max l`` and ``Σ exp(l − m)``. Where ``m`` is
    not finite the sum is unshifted: NaN if the tile holds NaN, else +inf if it holds +inf, else 0.
    """
    pid = tl.program_id(0).to(tl.int64)
    tile = (pid % tiles).to(tl.int32)
    row = (pid // tiles) % rows
    expert = pid // (rows * tiles)
    pointer = experts[0]
    for k in tl.static_range(1, count):
        pointer = tl.where(expert == k, experts[k], pointer)
    token = tile * block + tl.arange(0, block)
    x = load_logits(pointer, row, token, token < vocabulary, row_stride, col_stride, contiguous)
    top = tl.max(x, axis=0)
    tl.store(tile_max + pid, top)
    tl.store(tile_sum + pid, tl.sum(tl.exp(x - finite_or_zero(top)), axis=0))


@triton.jit
def tile_stats_product(
    experts, weights, tile_max, tile_sum, product_max, product_sum, row_stride, col_stride, rows, vocabulary, tiles,
    inv_temp,
    count: tl.constexpr, active: tl.constexpr, block: tl.constexpr, contiguous: tl.constexpr,
):  # fmt: skip
    """First pass, product rule and lone experts: one program for each (row, tile), over all experts.

    Writes what :func:`tile_stats` does, and of ``q = Σ ᾱ_k l_k`` over the first ``active`` experts (of a lone one, the
    logits less their maximum) ``product_max`` ``max q`` float64, and ``product_sum`` ``Σ exp((q − max q) · inv_temp)``
    float32, ``[N, tiles]``.
    """
    pid = tl.program_id(0).to(tl.int64)
    tile = (pid % tiles).to(tl.int32)
    row = pid // tiles
    token = tile * block + tl.arange(0, block)
    inside = token < vocabulary
    q = tl.zeros([block], tl.float32 if active == 1 else tl.float64)
    for k in tl.static_range(count):
        x = load_logits(experts[k], row, token, inside, row_stride, col_stride, contiguous)
        top = tl.max(x, axis=0)
        centred = x - finite_or_zero(top)
        tl.store(tile_max + k * rows * tiles + pid, top)
        tl.store(tile_sum + k * rows * tiles + pid, tl.sum(tl.exp(centred), axis=0))
        if k < active:
            q = centred if active == 1 else weighted_sum(q, weights, k, x)
    q = tl.where(inside, q, NEG_INF)
    best = tl.max(q, axis=0)
    tl.store(product_max + pid, best)
    tl.store(product_sum + pid, tl.sum(tl.exp((q - finite_or_zero(best)).to(tl.float32) * inv_temp), axis=0))


@triton.jit
def token_values(
    experts, weights, centre, offset, base, row, token, mask, row_stride, col_stride, rows,
    active: tl.constexpr, product: tl.constexpr, contiguous: tl.constexpr,
):  # fmt: skip
    """Values of the tokens ``token`` of one row, −inf where masked.

    ``centre`` ``[K, N]``: each expert's largest logit; ``offset`` ``[K, N]``: ``log ᾱ_k − log Σ exp(l_k − centre)``;
    ``base`` float64 ``[N]``: the product's largest sum.
    """
    if active == 1:
        value = load_logits(experts[0], row, token, mask, row_stride, col_stride, contiguous)
    elif product:
        total = tl.zeros_like(token).to(tl.float64)
        for k in tl.static_range(active):
            x = load_logits(experts[k], row, token, mask, row_stride, col_stride, contiguous)
            total = weighted_sum(total, weights, k, x)  # −inf where masked
        value = (total - tl.load(base + row)).to(tl.float32)
    else:
        x = load_logits(experts[0], row, token, mask, row_stride, col_stride, contiguous)
        terms = ((x - tl.load(centre + row)) + tl.load(offset + row),)
        top = terms[0]
        for k in tl.static_range(1, active):
            x = load_logits(experts[k], row, token, mask, row_stride, col_stride, contiguous)
            term = (x - tl.load(centre + k * rows + row)) + tl.load(offset + k * rows + row)
            terms = terms + (term,)  # noqa: RUF005 (unpacking is not Triton)
            top = tl.maximum(top, term)
        shift = finite_or_zero(top)
        mass = tl.exp(terms[0] - shift)
        for k in tl.static_range(1, active):
            mass += tl.exp(terms[k] - shift)
        value = shift + tl.log(mass)
    return value


@triton.jit
def weights_of(value, shift, inv_temp):
    """``exp((value − shift) · inv_temp)``, at most 1: ``shift`` is no smaller than any value but for rounding."""
    return tl.exp(tl.minimum(value - shift, 0.0) * inv_temp)


@triton.jit
def tile_values(
    experts, weights, centre, offset, base, shift, norm, tile_max, row_out, tile_out, row_stride, col_stride, rows,
    vocabulary, tiles, inv_temp,
    active: tl.constexpr, product: tl.constexpr, block: tl.constexpr, contiguous: tl.constexpr, mode: tl.constexpr,
):  # fmt: skip
    """A second pass over (row, tile), for what needs one.

    ``mode`` "mass": ``tile_out`` ``[N, tiles]`` gets ``Σ exp((value − shift) · inv_temp)``; tiles whose bound says that
    all of them together hold less than 2^-26 of the mass are not read and get 0. "log_probs": ``row_out`` ``[N, V]``
    gets the log-probabilities. "rank": ``row_out`` gets what tokens are ordered by, ``tile_out`` its maxima.
    """
    pid = tl.program_id(0).to(tl.int64)
    tile = (pid % tiles).to(tl.int32)
    row = pid // tiles
    token = tile * block + tl.arange(0, block)
    inside = token < vocabulary
    if mode == "mass":
        bound = tl.full([], NEG_INF, tl.float32)
        for k in tl.static_range(active):
            term = tl.load(tile_max + (k * rows + row) * tiles + tile) - tl.load(centre + k * rows + row)
            bound = tl.maximum(bound, term + tl.load(offset + k * rows + row))
        crowd = tl.log(active * 1.0) * inv_temp + tl.log(vocabulary * 1.0)
        if (bound - tl.load(shift + row)) * inv_temp + crowd < -18.1:
            tl.store(tile_out + pid, 0.0)
        else:
            value = token_values(
                experts, weights, centre, offset, base, row, token, inside, row_stride, col_stride, rows,
                active, product, contiguous,
            )  # fmt: skip
            tl.store(tile_out + pid, tl.sum(weights_of(value, tl.load(shift + row), inv_temp), axis=0))
    else:
        value = token_values(
            experts, weights, centre, offset, base, row, token, inside, row_stride, col_stride, rows,
            active, product, contiguous,
        )  # fmt: skip
        if mode == "log_probs":
            value = at_most_zero((value - tl.load(shift + row)) * inv_temp - tl.load(norm + row))
        else:
            if product and active > 1:
                value -= order_norm(tl.load(norm + row), inv_temp)
            value = tl.where(value == 0.0, 0.0, value)  # −0 and 0 are a tie: the selection compares bits
            tl.store(tile_out + pid, tl.max(value, axis=0))
        tl.store(row_out + row * vocabulary + token, value, mask=inside)
