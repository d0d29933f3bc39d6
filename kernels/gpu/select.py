# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Triton: draws by inverting the cumulative probabilities in the order of the token ids, and top-k and top-p.

Top-k and top-p bisect the bits of what orders the tokens, a float32 row of ranks; a step of the bisection skips every
tile whose maximum lies below the threshold that it tries. Tokens tied at the threshold are kept lowest id first.

Loops over a number that the kernel gets are ``while`` loops: the interpreter of Triton 3.6 cannot form a ``range`` of
it with numpy 2.4, which no longer makes an integer of an array of one element.
"""

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
    tile = tl.full([], 0, tl.int32)
    while tile < tiles:
        if key_of(tl.load(tile_top + here * tiles + tile)) >= threshold:
            token = tile * block + tl.arange(0, block)
            x = tl.load(rank + here * vocabulary + token, mask=token < vocabulary, other=float("-inf"))
            kept = (key_of(x) >= threshold) & (token < vocabulary)
            number += tl.sum(kept.to(tl.int32), axis=0)
            mass += tl.sum(tl.where(kept, weights_of(x, best, inv_temp), 0.0), axis=0).to(tl.float64)
        tile += 1
    return number, mass


@triton.jit
def middle_of(low, high):
    """``(low + high) / 2`` rounded down, without overflow."""
    return (low >> 1) + (high >> 1) + (low & high & 1)


@triton.jit
def floor_of_count(rank, tile_top, row, best, inv_temp, vocabulary, tiles, top_k, block: tl.constexpr):
    """The largest key that at least ``top_k`` tokens reach."""
    floor = key_of(tl.full([], float("-inf"), tl.float32))
    limit = key_of(best) + 1
    if top_k < vocabulary:
        while floor + 1 < limit:
            middle = middle_of(floor, limit)
            number, _ = above(rank, tile_top, row, best, inv_temp, vocabulary, tiles, middle, block)
            enough = number >= top_k
            floor = tl.where(enough, middle, floor)
            limit = tl.where(enough, limit, middle)
    return floor


@triton.jit
def floor_of_mass(
    rank, tile_top, row, best, inv_temp, vocabulary, tiles, floor, wanted, top_p, block: tl.constexpr
):  # fmt: skip
    """The largest key, ``floor`` at least, at which the tokens that reach it have the mass ``wanted``."""
    # V tokens below this hold less than 1 − top_p of the mass, of which the best token alone is 1
    reach = tl.log(((1.0 - top_p) / vocabulary).to(tl.float32)) / inv_temp
    low = tl.maximum(floor, key_of(best + reach * 1.001))
    high = key_of(best) + 1
    while low + 1 < high:
        middle = middle_of(low, high)
        _, mass = above(rank, tile_top, row, best, inv_temp, vocabulary, tiles, middle, block)
        enough = mass >= wanted
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
    return low


@triton.jit
def kept_in_tile(rank, row, tile, vocabulary, floor, ties, quota, block: tl.constexpr):
    """A tile's tokens and ranks, which of them are kept, and the number of ties so far.

    Kept is what lies above ``floor`` and the first ``quota`` tokens that lie on it.
    """
    token = tile * block + tl.arange(0, block)
    inside = token < vocabulary
    x = tl.load(rank + row * vocabulary + token, mask=inside, other=float("-inf"))
    key = key_of(x)
    equal = ((key == floor) & inside).to(tl.int32)
    order = ties + tl.cumsum(equal, axis=0) - equal
    kept = ((key > floor) | ((equal > 0) & (order < quota))) & inside
    return token, x, kept, ties + tl.sum(equal, axis=0)


@triton.jit
def draw_kept(
    rank, tile_top, row, best, inv_temp, vocabulary, tiles, floor, quota, goal, block: tl.constexpr
):  # fmt: skip
    """The first kept token at which the masses add up to more than ``goal``."""
    ties = tl.full([], 0, tl.int32)
    mass = tl.full([], 0.0, tl.float64)
    found = tl.full([], -1, tl.int32)
    fallback = tl.full([], 0, tl.int32)
    tile = tl.full([], 0, tl.int32)
    while (tile < tiles) & (found < 0):
        if key_of(tl.load(tile_top + row * tiles + tile)) >= floor:
            token, x, kept, ties = kept_in_tile(rank, row, tile, vocabulary, floor, ties, quota, block)
            weight = tl.where(kept, weights_of(x, best, inv_temp), 0.0)
            here = tl.cumsum(weight, axis=0).to(tl.float64) + mass
            first = tl.min(tl.where((weight > 0.0) & (here > goal), token, vocabulary), axis=0)
            found = tl.where(first < vocabulary, first, found)
            fallback = tl.maximum(fallback, tl.max(tl.where(weight > 0.0, token, 0), axis=0))
            mass += tl.sum(weight, axis=0).to(tl.float64)
        tile += 1
    return tl.where(found < 0, fallback, found)


@triton.jit
def store_kept(out, out_rank, rank, tile_top, row, vocabulary, tiles, top_k, floor, quota, block: tl.constexpr):
    """Write the kept ids in rising order, and their ranks."""
    taken = tl.full([], 0, tl.int32)
    ties = tl.full([], 0, tl.int32)
    tile = tl.full([], 0, tl.int32)
    while tile < tiles:
        if key_of(tl.load(tile_top + row * tiles + tile)) >= floor:
            token, x, kept, ties = kept_in_tile(rank, row, tile, vocabulary, floor, ties, quota, block)
            flags = kept.to(tl.int32)
            position = taken + tl.cumsum(flags, axis=0) - flags
            tl.store(out + row * top_k + position, token.to(tl.int64), mask=kept)
            tl.store(out_rank + row * top_k + position, x, mask=kept)
            taken += tl.sum(flags, axis=0)
        tile += 1


@triton.jit
def select_tokens(
    rank, tile_top, argmax, index, out, out_rank, seed, vocabulary, tiles, inv_temp, top_k, top_p_bits,
    has_top_p: tl.constexpr, draw: tl.constexpr, block: tl.constexpr, tiles_padded: tl.constexpr,
):  # fmt: skip
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
            position = tl.full([], 0, tl.int64)
            while position < top_k:
                tl.store(out + row * top_k + position, position)
                position += 1
    else:
        tile_lane = tl.arange(0, tiles_padded)
        tops = tl.load(tile_top + row * tiles + tile_lane, mask=tile_lane < tiles, other=float("-inf"))
        best = tl.max(tops, axis=0)
        floor = floor_of_count(rank, tile_top, row, best, inv_temp, vocabulary, tiles, top_k, block)
        number, over = above(rank, tile_top, row, best, inv_temp, vocabulary, tiles, floor + 1, block)
        quota = top_k - number
        tied = weights_of(value_of(floor), best, inv_temp).to(tl.float64)
        total = over + tied * quota
        if has_top_p:
            top_p = top_p_bits.to(tl.int64).to(tl.float64, bitcast=True)
            wanted = top_p * total
            low = floor_of_mass(rank, tile_top, row, best, inv_temp, vocabulary, tiles, floor, wanted, top_p, block)
            if low > floor:
                _, over = above(rank, tile_top, row, best, inv_temp, vocabulary, tiles, low + 1, block)
                tied = weights_of(value_of(low), best, inv_temp).to(tl.float64)
                quota = vocabulary + 0
            # a tied token stays while those before it do not suffice; the first of all always stays
            steps = tl.ceil((wanted - over) / tl.where(tied > 0.0, tied, 1.0))
            quota = tl.minimum(tl.maximum(steps, 1.0), quota.to(tl.float64)).to(tl.int32)
            floor = low
            total = over + tied * quota
        if draw:
            goal = row_uniform(seed, tl.load(index + row)) * total
            found = draw_kept(rank, tile_top, row, best, inv_temp, vocabulary, tiles, floor, quota, goal, block)
            tl.store(out + row, found.to(tl.int64))
        else:
            store_kept(out, out_rank, rank, tile_top, row, vocabulary, tiles, top_k, floor, quota, block)
