"""Launches the Triton kernels: buffers, grids, and which passes a question needs.

With α = 0 for an expert, its logits are read for its own fields only. One read of the logits is enough for the
arg-max, targets and draws at temperature 1, for the product rule and lone experts at any temperature, and for votes;
what needs a second read: a mixture's normaliser at another temperature, whole rows, top-k and top-p.
"""

from __future__ import annotations

import contextlib
import math
import struct
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ensemw2s.kernels import triton_rows, triton_sampling, triton_select, triton_tiles
from ensemw2s.kernels.request import Inputs
from ensemw2s.kernels.triton_configs import Config, choose

SMALLEST = 1.1754943508222875e-38  # weights and temperatures are kept in the range of normal float32 numbers
LARGEST = 3.0e38
# Without contraction of multiply and add, one token's value has the same bits in every kernel that computes it.
OPTIONS: dict[str, Any] = {"enable_fp_fusion": False}


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below ``n ≥ 1``."""
    return 1 << (n - 1).bit_length()


@dataclass(slots=True)
class Problem:
    """The logits and the constants of one launch. Experts with a part in the ensemble come first."""

    experts: tuple[Tensor, ...]
    """K tensors ``[N, V]`` of one data type and one pair of strides."""
    order: list[int]
    """``experts[i]`` is the request's expert ``order[i]``."""
    weights: tuple[float, ...]
    log_weights: tuple[float, ...]
    product: bool
    inv_temp: float
    config: Config

    @property
    def rows(self) -> int:
        """N."""
        return self.experts[0].shape[0]

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.experts[0].shape[1]

    @property
    def tiles(self) -> int:
        """Tiles in a row."""
        return -(-self.vocabulary // self.config.block)

    @property
    def active(self) -> int:
        """Number of experts with a part in the ensemble."""
        return len(self.weights)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """An uninitialised tensor on the logits' device."""
        return torch.empty(shape, dtype=dtype, device=self.experts[0].device)

    def restored(self, by_expert: Tensor) -> Tensor:
        """``[K, …]`` in the request's order of experts."""
        if self.order == sorted(self.order):
            return by_expert
        back = torch.tensor(self.order, device=by_expert.device).argsort()
        return by_expert.index_select(0, back)

    def launch(self, kernel: Any, programs: int, warps: int, **arguments: Any) -> None:
        """Start ``programs`` programs of a kernel on the logits' device."""
        device = self.experts[0].device
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            if programs:
                kernel[(programs,)](**arguments, num_warps=warps, **OPTIONS)

    def reading(self) -> dict[str, Any]:
        """The arguments that all kernels share that read logits."""
        return {
            "experts": self.experts,
            "row_stride": self.experts[0].stride(0),
            "col_stride": self.experts[0].stride(1),
            "rows": self.rows,
            "vocabulary": self.vocabulary,
            "tiles": self.tiles,
            "block": self.config.block,
            "contiguous": self.experts[0].stride(1) == 1,
        }


def prepare(request: Inputs, config: Config | None = None) -> Problem:
    """Order the experts and choose a configuration; logits are copied only where their types or strides differ."""
    order = request.active + [k for k, weight in enumerate(request.weights) if weight == 0.0]
    experts = [request.experts[k] for k in order]
    if len({x.dtype for x in experts}) > 1:
        experts = [x.to(torch.float32) for x in experts]
    if len({x.stride() for x in experts}) > 1:
        experts = [x.contiguous() for x in experts]
    weights = [request.weights[k] for k in request.active]
    return Problem(
        experts=tuple(experts),
        order=order,
        weights=tuple(max(w, SMALLEST) for w in weights),
        log_weights=tuple(math.log(w) for w in weights),
        product=request.rule == "product" or len(weights) == 1,
        inv_temp=1.0 if request.rule == "vote" else min(max(1.0 / request.temperature, SMALLEST), LARGEST),
        config=config or choose(experts[0].element_size(), len(experts), request.vocabulary),
    )


@dataclass(slots=True)
class Rows:
    """What is known of every row after the first pass; float32 unless said otherwise."""

    undefined: Tensor
    """bool ``[N]``."""
    argmax: Tensor
    """int64 ``[N]``, −1 in undefined rows; 0 elsewhere unless it was asked for."""
    value: Tensor
    """``[N]``: the value of the arg-max."""
    logprob: Tensor
    """``[N]``; of a mixture at temperature 1."""
    target_logprob: Tensor
    """``[N]``; of a mixture at temperature 1."""
    expert_argmax: Tensor
    logsumexp: Tensor
    expert_target: Tensor
    """``[K, N]``, in the problem's order."""
    shift: Tensor
    norm: Tensor
    """``[N]``: a token's log-probability is ``(value − shift) · inv_temp − norm``."""
    tile_max: Tensor
    """``[K, N, tiles]``."""
    mass: Tensor
    """``[N, tiles]``: weights ``exp((value − shift) · inv_temp)`` summed over each tile."""
    constants: dict[str, Any]
    """Arguments with which later kernels compute values."""


def first_pass(
    problem: Problem, targets: Tensor | None = None, *, best: bool = True, experts: bool = True, mass: bool = False
) -> Rows:
    """Read the logits once and finish the rows.

    Args:
        problem: what to read.
        targets: int64 ``[N]``, or None.
        best: find the combined arg-max.
        experts: find every expert's arg-max.
        mass: give the mass of every tile.
    """
    p, (n, count) = problem, (problem.rows, len(problem.experts))
    tile_max, tile_sum = p.empty(count, n, p.tiles), p.empty(count, n, p.tiles)
    product_max = product_sum = tile_max
    common = {**p.reading(), "tile_max": tile_max, "tile_sum": tile_sum, "count": count}
    if p.product:
        product_max, product_sum = p.empty(n, p.tiles), p.empty(n, p.tiles)
        extra = {"product_max": product_max, "product_sum": product_sum}
        shared = {"weights": p.weights, "inv_temp": p.inv_temp, "active": p.active}
        p.launch(triton_tiles.tile_stats_product, n * p.tiles, p.config.tile_warps, **common, **extra, **shared)
    else:
        p.launch(triton_tiles.tile_stats, count * n * p.tiles, p.config.tile_warps, **common)
    constants = {"weights": p.weights, "active": p.active, "product": p.product, "inv_temp": p.inv_temp}
    constants |= {"centre": p.empty(count, n), "offset": p.empty(count, n), "base": p.empty(n)}
    argmax = p.empty(n, dtype=torch.int64)
    out = {name: p.empty(n) for name in ("best_value", "logprob", "target_logprob", "shift", "norm")}
    out |= {name: p.empty(count, n) for name in ("logsumexp", "expert_target")}
    out["expert_argmax"] = p.empty(count, n, dtype=torch.int64)
    out["mass"] = p.empty(n, p.tiles) if mass else tile_max
    p.launch(
        triton_rows.finish_rows,
        n,
        p.config.row_warps,
        **common,
        **constants,
        **out,
        log_weights=p.log_weights,
        product_max=product_max,
        product_sum=product_sum,
        targets=argmax if targets is None else targets.contiguous(),
        argmax=argmax,
        has_targets=targets is not None,
        want_best=best,
        want_mass=mass,
        want_experts=experts,
        count_padded=power_of_two(count),
        tiles_padded=power_of_two(p.tiles),
    )
    return Rows(
        undefined=argmax < 0,
        argmax=argmax,
        value=out.pop("best_value"),
        tile_max=tile_max,
        constants=constants,
        **out,
    )


def second_pass(problem: Problem, rows: Rows, mode: str) -> tuple[Tensor, Tensor]:
    """Read the logits again; :func:`~ensemw2s.kernels.triton_tiles.tile_values` says what each mode gives.

    Returns:
        ``[N, V]`` (empty for "mass") and ``[N, tiles]`` (undefined for "log_probs").
    """
    p = problem
    whole = p.empty(0) if mode == "mass" else p.empty(p.rows, p.vocabulary)
    tile_out = p.empty(p.rows, p.tiles)
    p.launch(
        triton_tiles.tile_values,
        p.rows * p.tiles,
        p.config.tile_warps,
        **p.reading(),
        **rows.constants,
        shift=rows.shift,
        norm=rows.norm,
        tile_max=rows.tile_max,
        row_out=whole,
        tile_out=tile_out,
        mode=mode,
    )
    return whole, tile_out


def normalise(problem: Problem, rows: Rows) -> None:
    """Bring a mixture to its temperature: ``shift``, ``norm``, ``mass`` and the log-probabilities."""
    rows.shift = rows.value
    _, rows.mass = second_pass(problem, rows, "mass")
    rows.norm = torch.where(rows.undefined, math.nan, rows.mass.sum(dim=1).clamp_min(1.0).log())
    rows.logprob = -rows.norm
    difference = (rows.target_logprob - rows.shift).clamp_max(0.0)
    rows.target_logprob = difference * problem.inv_temp - rows.norm


def draw(problem: Problem, rows: Rows, seed: int, index: Tensor) -> Tensor:
    """A token for each row from the tiles' masses, int64 ``[N]``; −1 in undefined rows."""
    p, out = problem, torch.empty_like(rows.argmax)
    p.launch(
        triton_sampling.draw_tokens,
        p.rows,
        p.config.row_warps,
        **p.reading(),
        **rows.constants,
        shift=rows.shift,
        mass=rows.mass,
        argmax=rows.argmax,
        index=index,
        out=out,
        seed=seed,
        tiles_padded=power_of_two(p.tiles),
    )
    return out


def uniforms(problem: Problem, seed: int, index: Tensor) -> Tensor:
    """The rows' uniform numbers, float64 ``[N]``."""
    out = problem.empty(problem.rows, dtype=torch.float64)
    arguments = {"out": out, "index": index, "seed": seed, "rows": problem.rows, "block": 128}
    problem.launch(triton_sampling.uniforms, -(-problem.rows // 128), 4, **arguments)
    return out


def select(
    problem: Problem,
    rows: Rows,
    top_k: int | None,
    top_p: float | None = None,
    seed: int | None = None,
    index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The most probable tokens of each row, or a draw from them.

    Returns:
        With a seed: tokens int64 ``[N]`` and nothing. Else the ids int64 ``[N, top_k]`` in falling order, ties to the
        lowest id, and what ordered them; ids ``0 … top_k−1`` in undefined rows.
    """
    p, drawing = problem, seed is not None
    count = top_k or p.vocabulary
    rank, tile_top = second_pass(problem, rows, "rank")
    ids = torch.empty_like(rows.argmax) if drawing else p.empty(p.rows, count, dtype=torch.int64)
    ranks = p.empty(0) if drawing else torch.zeros_like(ids, dtype=torch.float32)
    p.launch(
        triton_select.select_tokens,
        p.rows,
        p.config.row_warps,
        rank=rank,
        tile_top=tile_top,
        argmax=rows.argmax,
        index=rows.argmax if index is None else index,
        out=ids,
        out_rank=ranks,
        seed=seed or 0,
        vocabulary=p.vocabulary,
        tiles=p.tiles,
        inv_temp=p.inv_temp,
        top_k=count,
        top_p_bits=struct.unpack("<q", struct.pack("<d", top_p or 1.0))[0],
        has_top_p=top_p is not None,
        draw=drawing,
        block=p.config.block,
        tiles_padded=power_of_two(p.tiles),
    )
    if drawing:
        return ids, ranks
    ranks, order = torch.sort(ranks, dim=1, descending=True, stable=True)
    return ids.gather(1, order), ranks
