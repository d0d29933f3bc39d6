# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, assignment"
"""Triton: combining experts from hidden states and heads; tiles of logits live in registers only.

A *tile* is ``block_rows`` rows by ``block`` tokens. The first pass forms every tile of logits once and keeps four
numbers of each row in it: maximum, sum of exponentials, first token at the maximum, and the bound of the combined
distribution that follows from them. A later pass forms again only the tiles that some of their rows still need.

Logits are float32 sums of exact products for float16 and bfloat16 tensors; nothing is rounded to the tensors' type.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ensemw2s.kernels.gpu.rows import slack_of
from ensemw2s.kernels.gpu.tiles import NEG_INF, finite_or_zero, weights_of


@triton.jit
def pick(values, k, count: tl.constexpr):
    """Element ``k`` of a tuple; ``k`` is known when the kernel runs only."""
    out = values[0]
    for j in tl.static_range(1, count):
        out = tl.where(k == j, values[j], out)
    return out


@triton.jit
def logits_of(
    heads, k, row, token, rows, vocabulary,
    count: tl.constexpr, width: tl.constexpr, even: tl.constexpr, biased: tl.constexpr, block_width: tl.constexpr,
    widen: tl.constexpr,
):  # fmt: skip
    """The logits ``hidden[row] · weight[token] + bias[token]`` of expert ``k``, float32; −inf beyond the vocabulary.

    ``heads``: hidden states, heads, biases, their row strides and widths, a tuple of each. Steps go to the largest
    ``width``; they are masked unless ``even`` says that all experts have this width and it is a multiple of a step.
    Rows and tokens that do not exist repeat the last one. ``widen`` multiplies in float32: Triton's interpreter takes
    the bits of bfloat16 for integers.
    """
    hidden, weight = pick(heads[0], k, count), pick(heads[1], k, count)
    lane = tl.arange(0, block_width)
    left = tl.minimum(row, rows - 1).to(tl.int64)[:, None] * pick(heads[3], k, count) + lane[None, :]
    right = tl.minimum(token, vocabulary - 1).to(tl.int64)[None, :] * pick(heads[4], k, count) + lane[:, None]
    own_width = pick(heads[5], k, count)
    total = tl.zeros([row.shape[0], token.shape[0]], tl.float32)
    for start in range(0, width, block_width):
        if even:
            a, b = tl.load(hidden + start + left), tl.load(weight + start + right)
        else:
            inside = lane < own_width - start
            a = tl.load(hidden + start + left, mask=inside[None, :], other=0.0)
            b = tl.load(weight + start + right, mask=inside[:, None], other=0.0)
        if widen:
            a, b = a.to(tl.float32), b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision="ieee")
    if biased:
        total += tl.load(pick(heads[2], k, count) + tl.minimum(token, vocabulary - 1)).to(tl.float32)[None, :]
    return tl.where((token < vocabulary)[None, :], total, NEG_INF)


@triton.jit
def place_of(row_blocks, block_rows: tl.constexpr, block: tl.constexpr):
    """This program's tile, its rows and its tokens. Neighbouring programs share the tile, and so the head's rows."""
    pid = tl.program_id(0)
    tile = pid // row_blocks
    row = (pid % row_blocks) * block_rows + tl.arange(0, block_rows)
    return tile, row, tile * block + tl.arange(0, block)


@triton.jit
def target_of(x, targets, row, token, stored):
    """The logits of the rows' targets, and in which rows the target is among ``token``."""
    hit = token[None, :] == tl.load(targets + row, mask=stored, other=-1)[:, None]
    return tl.sum(tl.where(hit, x, 0.0), axis=1), tl.max(hit.to(tl.int32), axis=1) > 0


@triton.jit
def head_stats(
    hidden, weight, bias, hidden_strides, weight_strides, widths, shares, targets, tile_max, tile_sum, tile_first,
    product_max, product_sum, target_logit, rows, vocabulary, tiles, row_blocks, inv_temp,
    width: tl.constexpr, even: tl.constexpr, biased: tl.constexpr, count: tl.constexpr, active: tl.constexpr,
    product: tl.constexpr, has_targets: tl.constexpr, block_rows: tl.constexpr, block: tl.constexpr,
    block_width: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    """First pass: one program for each tile, over all experts.

    Writes what :func:`~ensemw2s.kernels.gpu.tiles.tile_stats_product` does, of ``q = Σ ᾱ_k (l_k − m_k)`` in float32
    with ``m_k`` the tile's own maxima; and ``tile_first`` int32 ``[K, N, tiles]``, the first token at the maximum, and
    ``target_logit`` ``[K, N]``.
    """
    tile, row, token = place_of(row_blocks, block_rows, block)
    stored = row < rows
    heads = (hidden, weight, bias, hidden_strides, weight_strides, widths)
    q = tl.zeros([block_rows, block], tl.float32)
    k = tl.full([], 0, tl.int32)
    while k < count:  # a loop that is not unrolled holds the addresses of one expert at a time
        x = logits_of(heads, k, row, token, rows, vocabulary, count, width, even, biased, block_width, widen)
        top = tl.max(x, axis=1)
        first = tl.min(tl.where(x == top[:, None], token[None, :], vocabulary), axis=1)
        if has_targets:
            logit, hit = target_of(x, targets, row, token, stored)
            tl.store(target_logit + k * rows + row, logit, mask=stored & hit)
        x -= finite_or_zero(top)[:, None]
        here = (row.to(tl.int64) + k * rows) * tiles + tile
        tl.store(tile_max + here, top, mask=stored)
        tl.store(tile_sum + here, tl.sum(tl.exp(x), axis=1), mask=stored)
        tl.store(tile_first + here, first, mask=stored)
        if product:
            q = tl.where(k < active, q + pick(shares, k, active) * x, q)
        k += 1
    if product:
        here = row.to(tl.int64) * tiles + tile
        q = tl.where((token < vocabulary)[None, :], q, NEG_INF)
        best = tl.max(q, axis=1)
        tl.store(product_max + here, best, mask=stored)
        total = tl.sum(tl.exp((q - finite_or_zero(best)[:, None]) * inv_temp), axis=1)
        tl.store(product_sum + here, total, mask=stored)


@triton.jit
def add_term(top, total, term):
    """Add ``exp(term)`` to ``exp(top) · total``; begins with −inf and 0."""
    higher = tl.maximum(top, term)
    shift = finite_or_zero(higher)
    return higher, total * tl.exp(top - shift) + tl.exp(term - shift)


@triton.jit
def combined_values(
    heads, shares, centre, offset, row_base, row_norm, row, token, stored, rows, vocabulary,
    active: tl.constexpr, product: tl.constexpr, width: tl.constexpr, even: tl.constexpr, biased: tl.constexpr,
    block_width: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    """What orders the tokens of a tile, formed from the hidden states; −inf beyond the vocabulary."""
    top = tl.full([row.shape[0], token.shape[0]], NEG_INF, tl.float32)
    value = tl.zeros([row.shape[0], token.shape[0]], tl.float32)
    k = tl.full([], 0, tl.int32)
    while k < active:
        x = logits_of(heads, k, row, token, rows, vocabulary, active, width, even, biased, block_width, widen)
        if active == 1:
            value = x
        else:
            x -= tl.load(centre + k * rows + row, mask=stored, other=0.0)[:, None]
            if product:
                value += pick(shares, k, active) * x
            else:
                held = tl.load(offset + k * rows + row, mask=stored, other=0.0)
                top, value = add_term(top, value, x + held[:, None])
        k += 1
    if active > 1:
        value = (value - row_base[:, None]) - row_norm[:, None] if product else finite_or_zero(top) + tl.log(value)
    return tl.where((token < vocabulary)[None, :], value, NEG_INF)


@triton.jit
def head_values(
    hidden, weight, bias, hidden_strides, weight_strides, widths, shares, centre, offset, base, norm, shift, bound,
    threshold, slot, tile_out, token_out, value_out, rows, vocabulary, tiles, slots, row_blocks, inv_temp,
    width: tl.constexpr, even: tl.constexpr, biased: tl.constexpr, active: tl.constexpr, product: tl.constexpr,
    mode: tl.constexpr, block_rows: tl.constexpr, block: tl.constexpr, block_width: tl.constexpr,
    widen: tl.constexpr,
):  # fmt: skip
    """A later pass: the combined values in the tiles whose bound reaches the ``threshold`` ``[N]`` of some row.

    What is not reached is left as it is. ``mode`` "best": ``tile_out`` and ``token_out`` ``[N, tiles]`` get the largest
    value and its first token, where ``tile_out`` is still −inf. "mass" (of a mixture): ``tile_out`` gets
    ``Σ exp((value − shift) · inv_temp)``. "rank": ``value_out`` ``[N, slots, block]`` gets what orders tokens, at the
    place that ``slot`` int32 ``[N, tiles]`` gives the tile; ``tile_out`` ``[N, slots]`` its maxima.
    """
    tile, row, token = place_of(row_blocks, block_rows, block)
    stored = row < rows
    here = row.to(tl.int64) * tiles + tile
    raw = tl.load(bound + here, mask=stored, other=NEG_INF)
    row_norm = tl.load(norm + row, mask=stored, other=0.0)
    row_base = tl.load(base + row, mask=stored, other=0.0)
    limit = ((raw + slack_of(raw)) - row_base) - row_norm
    needed = stored & (limit >= tl.load(threshold + row, mask=stored, other=float("inf")))
    if mode == "best":
        needed = needed & (tl.load(tile_out + here, mask=stored, other=0.0) == NEG_INF)
    if tl.max(needed.to(tl.int32), axis=0) > 0:
        heads = (hidden, weight, bias, hidden_strides, weight_strides, widths)
        value = combined_values(
            heads, shares, centre, offset, row_base, row_norm, row, token, stored, rows, vocabulary,
            active, product, width, even, biased, block_width, widen,
        )  # fmt: skip
        if mode == "mass":
            row_shift = tl.load(shift + row, mask=stored, other=0.0)
            tl.store(tile_out + here, tl.sum(weights_of(value, row_shift[:, None], inv_temp), axis=1), mask=needed)
        else:
            value = tl.where(value == 0.0, 0.0, value)  # −0 and 0 are a tie: the selection compares bits
            highest = tl.max(value, axis=1)
            if mode == "best":
                found = tl.min(tl.where(value == highest[:, None], token[None, :], vocabulary), axis=1)
                tl.store(tile_out + here, highest, mask=needed)
                tl.store(token_out + here, found, mask=needed)
            else:
                place = row.to(tl.int64) * slots + tl.load(slot + here, mask=needed, other=0)
                tl.store(tile_out + place, highest, mask=needed)
                into = place[:, None] * block + tl.arange(0, block)[None, :]
                tl.store(value_out + into, value, mask=needed[:, None])
