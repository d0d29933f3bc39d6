# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Triton: one draw a row, by inverting the cumulative probabilities in the order of the token ids."""

from __future__ import annotations

import triton
import triton.language as tl

from ensemw2s.kernels.gpu.tiles import token_values, weights_of

SAMPLE_TAG = tl.constexpr(0x53414D50)


@triton.jit
def row_uniform(seed, index):
    """The number in ``[0, 1)`` that :func:`ensemw2s.kernels.reference.row_uniforms` gives, bit for bit; float64."""
    bits = index.to(tl.uint64)
    low = (bits & 0xFFFFFFFF).to(tl.uint32)
    high = (bits >> 32).to(tl.uint32)
    first, second, _, _ = tl.philox(seed, low, high, tl.zeros_like(low), tl.zeros_like(low) + SAMPLE_TAG)
    whole = first.to(tl.uint64) | (second.to(tl.uint64) << 32)
    return (whole >> 11).to(tl.float64) * 1.1102230246251565e-16


@triton.jit
def uniforms(out, index, seed, rows, block: tl.constexpr):
    """``row_uniform`` of ``index`` int64 ``[N]``, into float64 ``[N]``."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(out + row, row_uniform(seed, tl.load(index + row, mask=row < rows, other=0)), mask=row < rows)


@triton.jit
def draw_tokens(
    experts, weights, centre, offset, base, shift, mass, argmax, index, out, seed, row_stride, col_stride, rows,
    vocabulary, tiles, inv_temp,
    active: tl.constexpr, product: tl.constexpr, block: tl.constexpr, tiles_padded: tl.constexpr,
    contiguous: tl.constexpr,
):  # fmt: skip
    """One program for each row: the tile from the tiles' masses (float64 prefix sums), then the token in that tile.

    ``out`` int64 ``[N]`` gets −1 in rows whose ``argmax`` is negative.
    """
    row = tl.program_id(0).to(tl.int64)
    if tl.load(argmax + row) < 0:
        tl.store(out + row, -1)
    else:
        tile = tl.arange(0, tiles_padded)
        masses = tl.load(mass + row * tiles + tile, mask=tile < tiles, other=0.0).to(tl.float64)
        prefix = tl.cumsum(masses, axis=0)
        goal = row_uniform(seed, tl.load(index + row)) * tl.max(prefix, axis=0)
        last = tl.max(tl.where(masses > 0.0, tile, 0), axis=0)
        chosen = tl.min(tl.where((prefix > goal) & (masses > 0.0), tile, last), axis=0)
        chosen_mass = tl.sum(tl.where(tile == chosen, masses, 0.0), axis=0)
        rest = goal - tl.sum(tl.where(tile == chosen, prefix - masses, 0.0), axis=0)
        token = chosen * block + tl.arange(0, block)
        value = token_values(
            experts, weights, centre, offset, base, row, token, token < vocabulary, row_stride, col_stride, rows,
            active, product, contiguous,
        )  # fmt: skip
        weight = weights_of(value, tl.load(shift + row), inv_temp)
        # the tile's mass was rounded along another path: what is left of the goal is taken as a share of it
        goal_here = (rest / chosen_mass * tl.sum(weight, axis=0).to(tl.float64)).to(tl.float32)
        possible = weight > 0.0  # a parallel prefix sum may step by its rounding at a token of weight 0
        past = possible & (tl.cumsum(weight, axis=0) > goal_here)
        found = tl.min(tl.where(past, token, vocabulary), axis=0)
        fallback = tl.max(tl.where(possible, token, 0), axis=0)
        tl.store(out + row, tl.where(found < vocabulary, found, fallback).to(tl.int64))
