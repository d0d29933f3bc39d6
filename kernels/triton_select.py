# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Triton: the most probable tokens of a row (top-k, top-p), by bisection on the bits of what orders them.

Works on a float32 row of ranks and the maxima of its tiles; a step of the bisection skips every tile whose maximum lies
below the threshold that it tries. Tokens tied at the threshold are kept by falling priority of their ids, lowest first.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ensemw2s.kernels.triton_sampling import row_uniform
from ensemw2s.kernels.triton_tiles import weights_of


@triton.jit
def key_of(x):
    """An int32 that is ordered as the float32 ``x`` is (−0 below 0)."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def value_of(key):
    """The float32 whose key it is: :func:`key_of` is its own inverse on the bits."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def above(rank, tile_top, here, best, inv_temp, vocabulary, tiles, threshold, block: tl.constexpr):
    """Number (int32) and mass (float64) of the tokens of a row whose key is at least ``threshold``."""
    number = tl.full([], 0, tl.int32)
    mass = tl.full([], 0.0, tl.float64)
    for tile in range(0, tiles):
        if key_of(tl.load(tile_top + here * tiles + tile)) >= threshold:
            token = tile * block + tl.arange(0, block)
            x = tl.load(rank + here * vocabulary + token, mask=token < vocabulary, other=float("-inf"))
            kept = (key_of(x) >= threshold) & (token < vocabulary)
            number += tl.sum(kept.to(tl.int32), axis=0)
            mass += tl.sum(tl.where(kept, weights_of(x, best, inv_temp), 0.0), axis=0).to(tl.float64)
    return number, mass


@triton.jit
def select_tokens(
    rank,
    tile_top,
    argmax,
    index,
    out,
    out_rank,
    seed,
    vocabulary,
    tiles,
    inv_temp,
    top_k,
    top_p_bits,
    has_top_p: tl.constexpr,
    draw: tl.constexpr,
    block: tl.constexpr,
    tiles_padded: tl.constexpr,
):
    """One program for each row: top-k, then top-p on what is left; then a draw, or the kept ids.

    With ``draw``, ``out`` int64 ``[N]`` gets a token (−1 where ``argmax`` is negative). Else ``out`` int64 and
    ``out_rank`` float32 ``[N, top_k]`` get the kept ids in rising order and their ranks. ``top_k`` is at most ``V``;
    ``top_p_bits`` are the bits of a float64.
    """
    row = tl.program_id(0).to(tl.int64)
    if tl.load(argmax + row) < 0:
        if draw:
            tl.store(out + row, -1)
        else:
            for position in range(0, top_k):
                tl.store(out + row * top_k + position, position)
    else:
        tile_lane = tl.arange(0, tiles_padded)
        tops = tl.load(tile_top + row * tiles + tile_lane, mask=tile_lane < tiles, other=float("-inf"))
        best = tl.max(tops, axis=0)
        ceiling = key_of(best)
        # the largest threshold that top_k tokens reach: number(floor) >= top_k > number(limit)
        floor = key_of(tl.full([], float("-inf"), tl.float32))
        limit = ceiling + 1
        if top_k < vocabulary:
            while floor + 1 < limit:
                middle = (floor >> 1) + (limit >> 1) + (floor & limit & 1)
                number, _ = above(rank, tile_top, row, best, inv_temp, vocabulary, tiles, middle, block)
                enough = number >= top_k
                floor = tl.where(enough, middle, floor)
                limit = tl.where(enough, limit, middle)
        number, over = above(rank, tile_top, row, best, inv_temp, vocabulary, tiles, floor + 1, block)
        quota = top_k - number
        tied = weights_of(value_of(floor), best, inv_temp).to(tl.float64)
        total = over + tied * quota
        if has_top_p:
            top_p = top_p_bits.to(tl.int64).to(tl.float64, bitcast=True)
            wanted = top_p * total
            # V tokens below this hold less than 1 − top_p of the mass, of which the best token alone is 1
            reach = tl.log(((1.0 - top_p) / vocabulary).to(tl.float32)) / inv_temp
            low = tl.maximum(floor, key_of(best + reach * 1.001))
            high = ceiling + 1
            while low + 1 < high:
                middle = (low >> 1) + (high >> 1) + (low & high & 1)
                _, mass = above(rank, tile_top, row, best, inv_temp, vocabulary, tiles, middle, block)
                enough = mass >= wanted
                low = tl.where(enough, middle, low)
                high = tl.where(enough, high, middle)
            if low > floor:
                _, over = above(rank, tile_top, row, best, inv_temp, vocabulary, tiles, low + 1, block)
                tied = weights_of(value_of(low), best, inv_temp).to(tl.float64)
                quota = vocabulary + 0
            # a tied token stays while those before it do not suffice; the first of all always stays
            steps = tl.ceil((wanted - over) / tl.where(tied > 0.0, tied, 1.0))
            allowed = tl.minimum(tl.maximum(steps, 1.0), quota.to(tl.float64)).to(tl.int32)
            quota = allowed
            floor = low
            total = over + tied * quota
        goal = total
        if draw:
            goal = row_uniform(seed, tl.load(index + row)) * total
        taken = tl.full([], 0, tl.int32)
        ties = tl.full([], 0, tl.int32)
        mass = tl.full([], 0.0, tl.float64)
        found = tl.full([], -1, tl.int32)
        fallback = tl.full([], 0, tl.int32)
        for tile in range(0, tiles):
            if (key_of(tl.load(tile_top + row * tiles + tile)) >= floor) & (found < 0):
                token = tile * block + tl.arange(0, block)
                inside = token < vocabulary
                x = tl.load(rank + row * vocabulary + token, mask=inside, other=float("-inf"))
                key = key_of(x)
                equal = ((key == floor) & inside).to(tl.int32)
                order = ties + tl.cumsum(equal, axis=0) - equal
                kept = ((key > floor) | ((equal > 0) & (order < quota))) & inside
                ties += tl.sum(equal, axis=0)
                if draw:
                    weight = tl.where(kept, weights_of(x, best, inv_temp), 0.0)
                    here = tl.cumsum(weight, axis=0).to(tl.float64) + mass
                    first = tl.min(tl.where((weight > 0.0) & (here > goal), token, vocabulary), axis=0)
                    found = tl.where(first < vocabulary, first, found)
                    fallback = tl.maximum(fallback, tl.max(tl.where(weight > 0.0, token, 0), axis=0))
                    mass += tl.sum(weight, axis=0).to(tl.float64)
                else:
                    flags = kept.to(tl.int32)
                    position = taken + tl.cumsum(flags, axis=0) - flags
                    tl.store(out + row * top_k + position, token.to(tl.int64), mask=kept)
                    tl.store(out_rank + row * top_k + position, x, mask=kept)
                    taken += tl.sum(flags, axis=0)
        if draw:
            tl.store(out + row, tl.where(found < 0, fallback, found).to(tl.int64))
