# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Triton: from the tiles of a row to its results; the arg-max reads again only the tiles that can hold it."""

from __future__ import annotations

import triton
import triton.language as tl

from ensemw2s.kernels.triton_tiles import NEG_INF, finite_or_zero, load_logits, token_values

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
def finish_rows(
    experts,
    weights,
    log_weights,
    tile_max,
    tile_sum,
    product_max,
    product_sum,
    targets,
    argmax,
    best_value,
    logprob,
    target_logprob,
    expert_argmax,
    logsumexp,
    expert_target,
    centre,
    offset,
    base,
    shift,
    norm,
    mass,
    row_stride,
    col_stride,
    rows,
    vocabulary,
    tiles,
    inv_temp,
    count: tl.constexpr,
    count_padded: tl.constexpr,
    active: tl.constexpr,
    product: tl.constexpr,
    has_targets: tl.constexpr,
    want_best: tl.constexpr,
    want_mass: tl.constexpr,
    want_experts: tl.constexpr,
    block: tl.constexpr,
    tiles_padded: tl.constexpr,
    contiguous: tl.constexpr,
):
    """One program for each row.

    Reads the tiles' statistics; writes every expert's arg-max and log-sum-exp (``[K, N]``), the combined arg-max and
    log-probabilities (``[N]``; of a mixture at temperature 1 only), the row's constants for later passes and, with
    ``want_mass``, the mass of each tile ``[N, tiles]``. Undefined rows: ``argmax`` −1, floating point NaN.
    """
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, count_padded)
    tile = tl.arange(0, tiles_padded)
    valid = lane < count
    where = (lane[:, None] * rows + row) * tiles + tile[None, :]
    loaded = valid[:, None] & (tile < tiles)[None, :]
    top = tl.load(tile_max + where, mask=loaded, other=NEG_INF)
    part = tl.load(tile_sum + where, mask=loaded, other=0.0)
    peak = tl.max(top, axis=1)
    anchor = finite_or_zero(peak)
    part = tl.where(part == 0.0, 0.0, part * tl.exp(finite_or_zero(top) - anchor[:, None]))
    total = tl.sum(part, axis=1)
    good = (total > 0.0) & (total < float("inf"))
    log_total = tl.log(total)
    tl.store(logsumexp + lane * rows + row, anchor + log_total, mask=valid)
    undefined = tl.max(((lane < active) & (good == 0)).to(tl.int32), axis=0) > 0
    held = as_vector(log_weights, lane, active) - log_total
    tl.store(centre + lane * rows + row, anchor, mask=valid)
    tl.store(offset + lane * rows + row, held, mask=valid)

    chosen_tile = tl.min(tl.where(top == peak[:, None], tile[None, :], tiles_padded), axis=1)
    lone = tl.full([], 0, tl.int32)
    if want_experts or (active == 1 and want_best):
        for k in tl.static_range(count):
            if want_experts or k == 0:
                defined = scalar_of(good.to(tl.int32), lane, k) > 0
                first = tl.minimum(scalar_of(chosen_tile, lane, k), tiles - 1)  # NaN rows may match no tile
                token = first * block + tl.arange(0, block)
                x = load_logits(experts[k], row, token, token < vocabulary, row_stride, col_stride, contiguous)
                found = tl.min(tl.where(x == scalar_of(peak, lane, k), token, vocabulary), axis=0)
                found = tl.where(defined, found, 0)
                tl.store(expert_argmax + k * rows + row, found.to(tl.int64))
                if k == 0:
                    lone = found

    # what each tile can hold at most
    relative = tl.where((lane < active)[:, None], top - anchor[:, None], NEG_INF)
    row_norm = tl.full([], 0.0, tl.float32)
    row_shift = tl.full([], 0.0, tl.float32)
    if product:
        if active > 1:
            scaled = tl.where((lane < active)[:, None], as_vector(weights, lane, active)[:, None] * relative, 0.0)
            bound = tl.sum(scaled, axis=0)
        else:
            bound = tl.max(relative, axis=0)
        here = row * tiles + tile
        bound += tl.load(product_max + here, mask=tile < tiles, other=NEG_INF)
        row_base = tl.max(bound, axis=0)
        undefined = undefined | (row_base == NEG_INF)
        row_base = finite_or_zero(row_base)
        weight = tl.load(product_sum + here, mask=tile < tiles, other=0.0)
        weight = tl.where(weight == 0.0, 0.0, weight * tl.exp((bound - row_base) * inv_temp))
        row_norm = tl.log(tl.sum(weight, axis=0))
        if active == 1:
            row_shift = scalar_of(anchor, lane, 0)
        bound = ((bound + slack_of(bound)) - row_base) - row_norm
        tl.store(base + row, row_base)
    else:
        term = tl.where((lane < active)[:, None], relative + held[:, None], NEG_INF)
        ceiling = finite_or_zero(tl.max(term, axis=0))
        bound = ceiling + tl.log(tl.sum(tl.exp(term - ceiling[None, :]), axis=0))
        bound += slack_of(bound)
        weight = tl.exp(as_vector(log_weights, lane, active) - log_total)[:, None] * part
        weight = tl.sum(tl.where((lane < active)[:, None], weight, 0.0), axis=0)
    bound = tl.where(undefined, NEG_INF, bound)
    if want_mass:
        tl.store(mass + row * tiles + tile, tl.where(undefined, 0.0, weight), mask=tile < tiles)
    tl.debug_barrier()  # the row's constants, written above, are read below

    best = tl.full([], NEG_INF, tl.float32)
    winner = tl.full([], 0, tl.int32)
    if want_best and active > 1:
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
    elif want_best:
        winner = lone
        best = row_shift
    if want_best:
        tl.store(argmax + row, tl.where(undefined, -1, winner).to(tl.int64))
        tl.store(best_value + row, best)
        if product:
            untempered = best - row_shift
            if active > 1:
                untempered += row_norm
            result = untempered * inv_temp - row_norm
        else:
            result = best
        tl.store(logprob + row, tl.where(undefined, float("nan"), result))
    else:
        tl.store(argmax + row, tl.where(undefined, -1, 0).to(tl.int64))
    tl.store(shift + row, row_shift)
    tl.store(norm + row, row_norm)

    if has_targets:
        target = tl.load(targets + row).to(tl.int32) + tl.arange(0, 1)
        here = target >= 0
        for k in tl.static_range(count):
            x = load_logits(experts[k], row, target, here, row_stride, col_stride, contiguous)
            own = (x - scalar_of(anchor, lane, k)) - scalar_of(log_total, lane, k)
            defined = scalar_of(good.to(tl.int32), lane, k) > 0
            tl.store(expert_target + k * rows + row + tl.arange(0, 1), tl.where(defined, own, float("nan")))
        value = token_values(
            experts, weights, centre, offset, base, row, target, here, row_stride, col_stride, rows,
            active, product, contiguous,
        )  # fmt: skip
        result = (value - row_shift) * inv_temp - row_norm if product else value
        tl.store(target_logprob + row + tl.arange(0, 1), tl.where(undefined, float("nan"), result))
