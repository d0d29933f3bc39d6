"""Launches the Triton kernels: buffers, grids, and the passes that a request needs.

With α = 0 for an expert, its logits are read for its own fields only. One read of the logits is enough for the
arg-max, targets and draws at temperature 1, for the product rule and lone experts at any temperature, and for votes;
what needs a second read: a mixture's normaliser at another temperature, whole rows, top-k and top-p.
"""

from __future__ import annotations

import contextlib
import functools
import math
import struct
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ensemw2s.kernels.gpu import rows as triton_rows
from ensemw2s.kernels.gpu import select as triton_select
from ensemw2s.kernels.gpu import tiles as triton_tiles
from ensemw2s.kernels.gpu.configs import Config, choose
from ensemw2s.kernels.request import Inputs

# Without contraction of multiply and add, one token's value has the same bits in every kernel that computes it.
OPTIONS: dict[str, Any] = {"enable_fp_fusion": False}
SMALLEST = 1.1754943508222875e-38  # weights and temperatures are kept in the range of normal float32 numbers
LARGEST = 3.0e38


def start(kernel: Any, programs: int, device: torch.device, options: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Start ``programs`` programs of a kernel on a device."""
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        if programs:
            kernel[(programs,)](**arguments, **options, **OPTIONS)


@dataclass(slots=True)
class Rows:
    """Statistics of every row after the first pass; float32 unless said otherwise."""

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
    """int64 ``[K, N]``, in the problem's order; so are the next two."""
    logsumexp: Tensor
    expert_target: Tensor
    shift: Tensor
    """``[N]``: a token's log-probability is ``(value − shift) · inv_temp − norm``."""
    norm: Tensor
    """``[N]``."""
    tile_max: Tensor
    """``[K, N, tiles]``."""
    mass: Tensor
    """``[N, tiles]``: weights ``exp((value − shift) · inv_temp)`` summed over each tile."""
    constants: dict[str, Any]
    """Arguments with which later kernels compute values."""


@dataclass(slots=True)
class Problem:
    """The logits and the constants of one launch. Experts with a part in the ensemble come first."""

    order: list[int]
    """The launch's expert ``i`` is the request's expert ``order[i]``."""
    active: int
    """Number of experts with a part in the ensemble."""
    product: bool
    """The product rule, or an expert alone."""
    inv_temp: float
    experts: tuple[Tensor, ...]
    """K tensors ``[N, V]`` of one data type and one pair of strides."""
    device: torch.device
    rows: int
    """N."""
    vocabulary: int
    """V."""
    tiles: int
    """Tiles in a row."""
    config: Config
    shared: dict[str, Any]
    """Arguments of the same name and value in all kernels that take them."""

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """An uninitialised tensor on the logits' device."""
        return torch.empty(shape, dtype=dtype, device=self.device)

    def restored(self, by_expert: Tensor) -> Tensor:
        """``[K, …]`` in the request's order of experts, where ``by_expert`` is in the launch's."""
        if self.order == sorted(self.order):
            return by_expert
        return by_expert.index_select(0, torch.tensor(self.order, device=by_expert.device).argsort())

    def launch(self, kernel: Any, programs: int, warps: int, **arguments: Any) -> None:
        """Start ``programs`` programs of a kernel on the logits' device; what it shares with others is filled in."""
        shared = {name: value for name, value in self.shared.items() if name in kernel.arg_names}
        start(kernel, programs, self.device, {"num_warps": warps}, shared | arguments)

    def first_pass(
        self, targets: Tensor | None = None, *, best: bool = True, experts: bool = True, mass: bool = False
    ) -> Rows:
        """Read the logits once and finish the rows.

        Args:
            targets: int64 ``[N]``, or None.
            best: find the combined arg-max.
            experts: find every expert's arg-max.
            mass: give the mass of every tile.
        """
        n, count, tiles = self.rows, len(self.experts), self._tile_stats()
        constants = {name: self.empty(count, n) for name in ("centre", "offset")}
        constants["base"] = self.empty(n, dtype=torch.float64)
        argmax = self.empty(n, dtype=torch.int64)
        out = {name: self.empty(n) for name in ("best_value", "logprob", "target_logprob", "shift", "norm")}
        out |= {name: self.empty(count, n) for name in ("logsumexp", "expert_target")}
        out["expert_argmax"] = self.empty(count, n, dtype=torch.int64)
        out["mass"] = self.empty(n, self.tiles) if mass else tiles["tile_max"]
        self.launch(
            triton_rows.finish_rows,
            n,
            self.config.row_warps * (2 if self.product and self.active > 1 else 1),  # the product's sums are float64
            **tiles,
            **constants,
            **out,
            targets=argmax if targets is None else targets.contiguous(),
            argmax=argmax,
            has_targets=targets is not None,
            want_best=best,
            want_mass=mass,
            want_experts=experts,
        )
        return Rows(
            undefined=argmax < 0,
            argmax=argmax,
            value=out.pop("best_value"),
            tile_max=tiles["tile_max"],
            constants=constants,
            **out,
        )

    def _tile_stats(self) -> dict[str, Tensor]:
        """The one read of the logits: what is known of every tile afterwards."""
        n, count, warps = self.rows, len(self.experts), self.config.tile_warps
        out = {name: self.empty(count, n, self.tiles) for name in ("tile_max", "tile_sum")}
        if not self.product:
            self.launch(triton_tiles.tile_stats, count * n * self.tiles, warps, **out)
            return {**out, "product_max": out["tile_max"], "product_sum": out["tile_max"]}
        out["product_max"] = self.empty(n, self.tiles, dtype=torch.float64)
        out["product_sum"] = self.empty(n, self.tiles)
        self.launch(triton_tiles.tile_stats_product, n * self.tiles, warps, **out)
        return out

    def second_pass(self, rows: Rows, mode: str) -> tuple[Tensor, Tensor]:
        """Read the logits again; :func:`~ensemw2s.kernels.gpu.tiles.tile_values` says what each mode gives.

        Returns:
            ``[N, V]`` (empty for "mass") and ``[N, tiles]`` (undefined for "log_probs").
        """
        whole = self.empty(0) if mode == "mass" else self.empty(self.rows, self.vocabulary)
        tile_out = self.empty(self.rows, self.tiles)
        self.launch(
            triton_tiles.tile_values,
            self.rows * self.tiles,
            self.config.tile_warps,
            **rows.constants,
            shift=rows.shift,
            norm=rows.norm,
            tile_max=rows.tile_max,
            row_out=whole,
            tile_out=tile_out,
            mode=mode,
        )
        return whole, tile_out

    def normalise(self, rows: Rows) -> None:
        """Bring a mixture to its temperature: ``shift``, ``norm``, ``mass`` and the log-probabilities."""
        rows.shift = rows.value
        _, rows.mass = self.second_pass(rows, "mass")
        rows.norm = torch.where(rows.undefined, math.nan, rows.mass.sum(dim=1).clamp_min(1.0).log())  # the best has 1
        rows.logprob = -rows.norm
        difference = (rows.target_logprob - rows.shift).clamp_max(0.0)
        rows.target_logprob = (difference * self.inv_temp - rows.norm).clamp_max(0.0)

    def draw(self, rows: Rows, seed: int, index: Tensor) -> Tensor:
        """A token for each row from the tiles' masses, int64 ``[N]``; −1 in undefined rows."""
        out = torch.empty_like(rows.argmax)
        self.launch(
            triton_select.draw_tokens,
            self.rows,
            self.config.row_warps,
            **rows.constants,
            shift=rows.shift,
            mass=rows.mass,
            argmax=rows.argmax,
            index=index,
            out=out,
            seed=seed,
        )
        return out

    def uniforms(self, seed: int, index: Tensor) -> Tensor:
        """The rows' uniform numbers, float64 ``[N]``."""
        out = self.empty(self.rows, dtype=torch.float64)
        self.launch(triton_select.uniforms, -(-self.rows // 128), 4, out=out, index=index, seed=seed, block=128)
        return out

    def select(
        self,
        rows: Rows,
        top_k: int | None,
        top_p: float | None = None,
        seed: int | None = None,
        index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The most probable tokens of each row, or a draw from them.

        Args:
            rows: of the first pass.
            top_k: keep so many; None is all.
            top_p: keep the smallest set of at least this probability; None is off.
            seed: of the draw; None returns what is kept.
            index: int64 ``[N]`` for the draw.

        Returns:
            With a seed: tokens int64 ``[N]`` and nothing. Else the ids int64 ``[N, top_k]`` in falling order, ties to
            the lowest id, and what ordered them, float32; ids ``0 … top_k−1`` in undefined rows.
        """
        rank, tile_top = self.second_pass(rows, "rank")
        count, drawing = top_k or self.vocabulary, seed is not None
        ids = torch.empty_like(rows.argmax) if drawing else rows.argmax.new_empty(self.rows, count)
        ranks = rank.new_zeros(0 if drawing else (self.rows, count))
        self.launch(
            triton_select.select_tokens,
            self.rows,
            self.config.select_warps,
            rank=rank,
            tile_top=tile_top,
            argmax=rows.argmax,
            index=rows.argmax if index is None else index,
            out=ids,
            out_rank=ranks,
            seed=seed or 0,
            top_k=count,
            top_p_bits=struct.unpack("<q", struct.pack("<d", top_p or 1.0))[0],
            has_top_p=top_p is not None,
            draw=drawing,
        )
        if drawing:
            return ids, ranks
        ranks, order = torch.sort(ranks, dim=1, descending=True, stable=True)
        return ids.gather(1, order), ranks

    def logits_at(self, k: int, ids: Tensor) -> Tensor:
        """The logits of expert ``k`` at the tokens ``ids`` int64 ``[m, N]``, float64."""
        return self.experts[k].gather(1, ids.T).T.to(torch.float64)


def _power_of_two(n: int) -> int:
    """The smallest power of two that is not below ``n ≥ 1``."""
    return 1 << (n - 1).bit_length()


@functools.lru_cache(maxsize=64)
def _weights_on(device: torch.device, weights: tuple[float, ...]) -> Tensor:
    """Weights as a float64 tensor: a number given to a kernel would be float32. Kept, since few weights are in use."""
    return torch.tensor(weights, dtype=torch.float64, device=device)


def prepare(request: Inputs) -> Problem:
    """Order the experts and choose a configuration; logits are copied only where their types or strides differ."""
    active = request.active
    order = active + [k for k, weight in enumerate(request.weights) if weight == 0.0]
    weights = [request.weights[k] for k in active]
    experts = [request.experts[k] for k in order]
    if len({x.dtype for x in experts}) > 1:
        experts = [x.to(torch.float32) for x in experts]
    if len({x.stride() for x in experts}) > 1:
        experts = [x.contiguous() for x in experts]
    config = choose(experts[0].element_size(), len(experts), request.vocabulary)
    tiles = -(-request.vocabulary // config.block)
    shared: dict[str, Any] = {
        "experts": tuple(experts),
        "row_stride": experts[0].stride(0),
        "col_stride": experts[0].stride(1),
        "contiguous": experts[0].stride(1) == 1,
        "rows": request.rows,
        "vocabulary": request.vocabulary,
        "count": len(experts),
        "count_padded": _power_of_two(len(experts)),
        "active": len(active),
        "weights": _weights_on(request.device, tuple(max(w, SMALLEST) for w in weights)),
        "log_weights": tuple(math.log(w) for w in weights),
        "product": request.rule == "product" or len(active) == 1,
        "inv_temp": 1.0 if request.rule == "vote" else min(max(1.0 / request.temperature, SMALLEST), LARGEST),
        "tiles": tiles,
        "tiles_padded": _power_of_two(tiles),
        "block": config.block,
    }
    named = ("experts", "active", "product", "inv_temp", "rows", "vocabulary", "tiles")
    fields = {name: shared[name] for name in named}
    return Problem(order=order, device=request.device, config=config, shared=shared, **fields)
