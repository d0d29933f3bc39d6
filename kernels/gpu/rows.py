# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Triton: a row's results from the statistics of its tiles; the arg-max re-reads only tiles that can hold it."""

from __future__ import annotations

import triton
import triton.language as tl

from ensemw2s.kernels.gpu.tiles import NEG_INF, at_most_zero, finite_or_zero, load_logits, order_norm, token_values

SLACK = tl.constexpr(2e-6)  # bounds and values are rounded differently


@triton.jit
def scalar_of(vector, lanes, lane):
    """Element ``lane`` of a vector (lanes that are not chosen may hold NaN)."""
    return tl.sum(tl.where(lanes == lane, vector, tl.zeros_like(vector)), axis=0)


@triton.jit
def slack_of(bound):
    """By how much a value can exceed its tile's bound through rounding alone; 0 where the bound is not finite."""
    return tl.where(tl.abs(bound) < float("inf"), SLACK * (1.0 + tl.abs(bound)), 0.0)


@triton.jit
def as_vector(values, lanes, count: tl.constexpr):
    """The scalars ``values`` as a vector; lanes beyond ``count`` repeat the first."""
    out = tl.zeros_like(lanes).to(tl.float32) + values[0]
    for k in tl.static_range(1, count):
        out = tl.where(lanes == k, values[k], out)
    return out


@triton.jit
def row_totals(tile_max, tile_sum, row, rows, tiles, lane, tile, count: tl.constexpr):
    """The tiles' maxima ``[K, tiles]`` of a row, its maxima ``[K]``, and the tiles' sums relative to these maxima."""
    where = (lane[:, None] * rows + row) * tiles + tile[None, :]
    loaded = (lane < count)[:, None] & (tile < tiles)[None, :]
    top = tl.load(tile_max + where, mask=loaded, other=NEG_INF)
    part = tl.load(tile_sum + where, mask=loaded, other=0.0)
    peak = tl.max(top, axis=1)
    # a sum of 0 belongs to a tile of −inf, whose scale may be infinite
    scale = tl.exp(finite_or_zero(top) - finite_or_zero(peak)[:, None])
    return top, peak, tl.where(part == 0.0, 0.0, part * scale)


@triton.jit
def first_of_peak(
    pointer, row, first_tile, peak, defined, row_stride, col_stride, vocabulary, tiles,
    block: tl.constexpr, contiguous: tl.constexpr,
):  # fmt: skip
    """The first token of the tile whose logit is ``peak``; 0 where the row is undefined."""
    token = tl.minimum(first_tile, tiles - 1) * block + tl.arange(0, block)  # a row with NaN may match no tile
    x = load_logits(pointer, row, token, token < vocabulary, row_stride, col_stride, contiguous)
    return tl.where(defined, tl.min(tl.where(x == peak, token, vocabulary), axis=0), 0)


@triton.jit
def write_experts(
    log_weights, logsumexp, centre, offset, peak, total, row, rows, lane, count: tl.constexpr, active: tl.constexpr
):  # fmt: skip
    """Write every expert's log-sum-exp, and ``centre`` and ``offset`` for later passes.

    Gives, for each expert ``[K]``: centre, log-total relative to it, offset, whether its row is defined; and whether
    the row is undefined for the ensemble.
    """
    good = (total > 0.0) & (total < float("inf"))
    anchor = finite_or_zero(peak)
    log_total = tl.log(total)
    held = as_vector(log_weights, lane, active) - log_total
    undefined = tl.max(tl.where((lane < active) & (good == 0), 1, 0), axis=0) > 0
    tl.store(logsumexp + lane * rows + row, anchor + log_total, mask=lane < count)
    tl.store(centre + lane * rows + row, anchor, mask=lane < count)
    tl.store(offset + lane * rows + row, held, mask=lane < count)
    return anchor, log_total, held, good, undefined


@triton.jit
def product_tiles(
    product_max, product_sum, relative, row, tiles, lane, tile, inv_temp, active: tl.constexpr
):  # fmt: skip
    """Of the product rule in each tile: largest values and masses ``[tiles]``; and the row's ``base`` and ``norm``.

    Rounded as the values themselves are, so that a tile's largest value is that of one of its tokens.
    """
    here = row * tiles + tile
    bound = tl.load(product_max + here, mask=tile < tiles, other=NEG_INF)
    if active == 1:  # a lone expert's are less its largest logit
        bound += tl.max(tl.where((lane < 1)[:, None], relative, NEG_INF), axis=0)
    base = tl.max(bound, axis=0)
    impossible = base == NEG_INF
    base = finite_or_zero(base)
    bound = (bound - base).to(tl.float32)
    mass = tl.load(product_sum + here, mask=tile < tiles, other=0.0)
    mass = tl.where(mass == 0.0, 0.0, mass * tl.exp(bound * inv_temp))
    norm = tl.log(tl.sum(mass, axis=0))
    return bound - order_norm(norm, inv_temp), mass, base, norm, impossible


@triton.jit
def mixture_tiles(part, relative, held, lane, active: tl.constexpr):
    """Bounds and masses of the mixture in each tile at temperature 1, ``[tiles]``."""
    term = tl.where((lane < active)[:, None], relative + held[:, None], NEG_INF)
    ceiling = finite_or_zero(tl.max(term, axis=0))
    bound = ceiling + tl.log(tl.sum(tl.exp(term - ceiling[None, :]), axis=0))
    mass = tl.sum(tl.where((lane < active)[:, None], tl.exp(held)[:, None] * part, 0.0), axis=0)
    return bound + slack_of(bound), mass


@triton.jit
def write_tiles(
    product_max, product_sum, base, shift, norm, mass, top, part, anchor, held, undefined, row, tiles, lane,
    tile, inv_temp, active: tl.constexpr, product: tl.constexpr, want_mass: tl.constexpr,
):  # fmt: skip
    """Write the row's ``base``, ``shift`` and ``norm``, and the masses of its tiles.

    Gives the tiles' bounds ``[tiles]``, shift and norm, and whether the row is undefined.
    """
    relative = top - anchor[:, None]
    row_norm = tl.full([], 0.0, tl.float32)
    row_shift = tl.full([], 0.0, tl.float32)
    if product:
        bound, tile_mass, row_base, row_norm, impossible = product_tiles(
            product_max, product_sum, relative, row, tiles, lane, tile, inv_temp, active
        )
        undefined = undefined | impossible
        tl.store(base + row, row_base)
        if active == 1:
            row_shift = scalar_of(anchor, lane, 0)
    else:
        bound, tile_mass = mixture_tiles(part, relative, held, lane, active)
    if want_mass:
        tl.store(mass + row * tiles + tile, tl.where(undefined, 0.0, tile_mass), mask=tile < tiles)
    tl.store(shift + row, row_shift)
    tl.store(norm + row, tl.where(undefined, float("nan"), row_norm))
    return bound, row_shift, row_norm, undefined


@triton.jit
def search(
    experts, weights, centre, offset, base, bound, row_norm, row, row_stride, col_stride, rows, vocabulary, tile,
    active: tl.constexpr, product: tl.constexpr, block: tl.constexpr, tiles_padded: tl.constexpr,
    contiguous: tl.constexpr,
):  # fmt: skip
    """The best token and what it was ordered by: reads the tiles by falling bound while one can still win or tie."""
    best = tl.full([], NEG_INF, tl.float32)
    winner = tl.full([], 0, tl.int32)
    ahead = tl.max(bound, axis=0)
    while (ahead > NEG_INF) & (ahead >= best):
        candidate = tl.min(tl.where(bound == ahead, tile, tiles_padded), axis=0)
        token = candidate * block + tl.arange(0, block)
        value = token_values(
            experts, weights, centre, offset, base, row, token, token < vocabulary, row_stride, col_stride, rows,
            active, product, contiguous,
        )  # fmt: skip
        if product:
            value -= row_norm
        highest = tl.max(value, axis=0)
        found = tl.min(tl.where(value == highest, token, vocabulary), axis=0)
        better = (highest > best) | ((highest == best) & (found < winner))
        winner = tl.where(better, found, winner)
        best = tl.where(better, highest, best)
        bound = tl.where(tile == candidate, NEG_INF, bound)
        ahead = tl.max(bound, axis=0)
    return winner, best


@triton.jit
def expert_winners(
    experts, expert_argmax, top, peak, defined, row, row_stride, col_stride, rows, vocabulary, tiles, lane, tile,
    count: tl.constexpr, want_all: tl.constexpr, want_first: tl.constexpr, block: tl.constexpr,
    tiles_padded: tl.constexpr, contiguous: tl.constexpr,
):  # fmt: skip
    """Write the arg-max of all experts, or of the first, or of none; gives that of the first, else 0."""
    first_tile = tl.min(tl.where(top == peak[:, None], tile[None, :], tiles_padded), axis=1)
    winner = tl.full([], 0, tl.int32)
    for k in tl.static_range(count):
        if want_all or (want_first and k == 0):
            found = first_of_peak(
                experts[k], row, scalar_of(first_tile, lane, k), scalar_of(peak, lane, k),
                scalar_of(defined, lane, k) > 0, row_stride, col_stride, vocabulary, tiles, block, contiguous,
            )  # fmt: skip
            tl.store(expert_argmax + k * rows + row, found.to(tl.int64))
            if k == 0:
                winner = found
    return winner


@triton.jit
def target_log_probs(
    experts, weights, centre, offset, base, targets, expert_target, anchor, log_total, row, row_stride, col_stride,
    rows, lane, row_shift, row_norm, inv_temp, count: tl.constexpr, active: tl.constexpr, product: tl.constexpr,
    contiguous: tl.constexpr,
):  # fmt: skip
    """Write every expert's log-probability of the row's target; gives the combined one (of a mixture at 1)."""
    one = tl.arange(0, 1)
    target = tl.load(targets + row).to(tl.int32) + one
    here = target >= 0
    for k in tl.static_range(count):
        x = load_logits(experts[k], row, target, here, row_stride, col_stride, contiguous)
        mass_of_k = scalar_of(log_total, lane, k)  # NaN, +inf or −inf in an undefined row
        own = tl.where(mass_of_k < float("inf"), (x - scalar_of(anchor, lane, k)) - mass_of_k, float("nan"))
        tl.store(expert_target + k * rows + row + one, at_most_zero(own))
    value = token_values(
        experts, weights, centre, offset, base, row, target, here, row_stride, col_stride, rows,
        active, product, contiguous,
    )  # fmt: skip
    return at_most_zero((value - row_shift) * inv_temp - row_norm if product else value)


@triton.jit
def write_best(
    best_value, logprob, best, row, row_shift, row_norm, undefined, inv_temp, active: tl.constexpr,
    product: tl.constexpr,
):  # fmt: skip
    """Write what the row's best token was ordered by, and its log-probability (of a mixture at temperature 1)."""
    tl.store(best_value + row, best)
    result = best
    if product:
        untempered = best + order_norm(row_norm, inv_temp) if active > 1 else best - row_shift
        result = untempered * inv_temp - row_norm
    tl.store(logprob + row, tl.where(undefined, float("nan"), at_most_zero(result)))


@triton.jit
def finish_rows(
    experts, weights, log_weights, tile_max, tile_sum, product_max, product_sum, targets, argmax, best_value,
    logprob, target_logprob, expert_argmax, logsumexp, expert_target, centre, offset, base, shift, norm, mass,
    row_stride, col_stride, rows, vocabulary, tiles, inv_temp,
    count: tl.constexpr, count_padded: tl.constexpr, active: tl.constexpr, product: tl.constexpr,
    has_targets: tl.constexpr, want_best: tl.constexpr, want_mass: tl.constexpr, want_experts: tl.constexpr,
    block: tl.constexpr, tiles_padded: tl.constexpr, contiguous: tl.constexpr,
):  # fmt: skip
    """One program for each row.

    Reads the tiles' statistics; writes every expert's arg-max and log-sum-exp (``[K, N]``), the combined arg-max and
    log-probabilities (``[N]``; of a mixture at temperature 1 only), the row's constants for later passes and, with
    ``want_mass``, the mass of each tile ``[N, tiles]``. Undefined rows: ``argmax`` −1, floating point NaN.
    """
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, count_padded)
    tile = tl.arange(0, tiles_padded)
    top, peak, part = row_totals(tile_max, tile_sum, row, rows, tiles, lane, tile, count)
    anchor, log_total, held, good, undefined = write_experts(
        log_weights, logsumexp, centre, offset, peak, tl.sum(part, axis=1), row, rows, lane, count, active
    )
    winner = expert_winners(
        experts, expert_argmax, top, peak, good.to(tl.int32), row, row_stride, col_stride, rows, vocabulary, tiles,
        lane, tile, count, want_experts, active == 1 and want_best, block, tiles_padded, contiguous,
    )  # fmt: skip
    bound, row_shift, row_norm, undefined = write_tiles(
        product_max, product_sum, base, shift, norm, mass, top, part, anchor, held, undefined, row, tiles, lane, tile,
        inv_temp, active, product, want_mass,
    )  # fmt: skip
    tl.debug_barrier()  # the row's constants, written above, are read below

    if has_targets:
        result = target_log_probs(
            experts, weights, centre, offset, base, targets, expert_target, anchor, log_total, row, row_stride,
            col_stride, rows, lane, row_shift, row_norm, inv_temp, count, active, product, contiguous,
        )  # fmt: skip
        tl.store(target_logprob + row + tl.arange(0, 1), tl.where(undefined, float("nan"), result))

    best = row_shift
    if want_best and active > 1:
        bound = tl.where(undefined, NEG_INF, bound)
        winner, best = search(
            experts, weights, centre, offset, base, bound, order_norm(row_norm, inv_temp), row, row_stride, col_stride,
            rows, vocabulary, tile, active, product, block, tiles_padded, contiguous,
        )  # fmt: skip
    tl.store(argmax + row, tl.where(undefined, -1, winner).to(tl.int64))
    if want_best:
        write_best(best_value, logprob, best, row, row_shift, row_norm, undefined, inv_temp, active, product)
