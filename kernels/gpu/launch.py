"""Launches the Triton kernels: buffers, grids, and which passes a question needs.

With α = 0 for an expert, its logits are read for its own fields only. One read of the logits is enough for the
arg-max, targets and draws at temperature 1, for the product rule and lone experts at any temperature, and for votes;
what needs a second read: a mixture's normaliser at another temperature, whole rows, top-k and top-p.
"""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ensemw2s.kernels.gpu import rows as triton_rows
from ensemw2s.kernels.gpu import sampling as triton_sampling
from ensemw2s.kernels.gpu import select as triton_select
from ensemw2s.kernels.gpu import tiles as triton_tiles
from ensemw2s.kernels.gpu.configs import Config, choose
from ensemw2s.kernels.gpu.problem import Rows, Weighted, power_of_two, weighting_of, weights_on
from ensemw2s.kernels.request import Inputs

# Without contraction of multiply and add, one token's value has the same bits in every kernel that computes it.
OPTIONS: dict[str, Any] = {"enable_fp_fusion": False}


def start(kernel: Any, programs: int, device: torch.device, options: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Start ``programs`` programs of a kernel on a device."""
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        if programs:
            kernel[(programs,)](**arguments, **options, **OPTIONS)


@dataclass(slots=True)
class Problem(Weighted):
    """The logits and the constants of one launch."""

    experts: tuple[Tensor, ...]
    """K tensors ``[N, V]`` of one data type and one pair of strides."""
    config: Config

    @property
    def device(self) -> torch.device:
        """Where the logits are."""
        return self.experts[0].device

    @property
    def rows(self) -> int:
        """N."""
        return self.experts[0].shape[0]

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.experts[0].shape[1]

    @property
    def block(self) -> int:
        """Tokens in a tile."""
        return self.config.block

    def launch(self, kernel: Any, programs: int, warps: int, **arguments: Any) -> None:
        """Start ``programs`` programs of a kernel on the logits' device."""
        start(kernel, programs, self.device, {"num_warps": warps}, arguments)

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
        p, (n, count) = self, (self.rows, len(self.experts))
        tiles = p._tile_stats()
        constants = {
            "weights": weights_on(p.device, p.weights),
            "active": p.active,
            "product": p.product,
            "inv_temp": p.inv_temp,
        }
        constants |= {"centre": p.empty(count, n), "offset": p.empty(count, n), "base": p.empty(n, dtype=torch.float64)}
        argmax = p.empty(n, dtype=torch.int64)
        out = {name: p.empty(n) for name in ("best_value", "logprob", "target_logprob", "shift", "norm")}
        out |= {name: p.empty(count, n) for name in ("logsumexp", "expert_target")}
        out["expert_argmax"] = p.empty(count, n, dtype=torch.int64)
        out["mass"] = p.empty(n, p.tiles) if mass else tiles["tile_max"]
        p.launch(
            triton_rows.finish_rows,
            n,
            p.config.row_warps * (2 if p.product and p.active > 1 else 1),  # the product's sums are float64
            **p.reading(),
            **tiles,
            **constants,
            **out,
            log_weights=p.log_weights,
            count=count,
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
            tile_max=tiles["tile_max"],
            constants=constants,
            **out,
        )

    def _tile_stats(self) -> dict[str, Tensor]:
        """The one read of the logits: what is known of every tile afterwards."""
        p, n, count = self, self.rows, len(self.experts)
        out = {name: p.empty(count, n, p.tiles) for name in ("tile_max", "tile_sum")}
        if not p.product:
            p.launch(
                triton_tiles.tile_stats, count * n * p.tiles, p.config.tile_warps, **p.reading(), **out, count=count
            )
            return {**out, "product_max": out["tile_max"], "product_sum": out["tile_max"]}
        out |= {"product_max": p.empty(n, p.tiles, dtype=torch.float64), "product_sum": p.empty(n, p.tiles)}
        shared = {
            "weights": weights_on(p.device, p.weights),
            "inv_temp": p.inv_temp,
            "active": p.active,
            "count": count,
        }
        p.launch(triton_tiles.tile_stats_product, n * p.tiles, p.config.tile_warps, **p.reading(), **out, **shared)
        return out

    def second_pass(self, rows: Rows, mode: str) -> tuple[Tensor, Tensor]:
        """Read the logits again; :func:`~ensemw2s.kernels.gpu.tiles.tile_values` says what each mode gives.

        Returns:
            ``[N, V]`` (empty for "mass") and ``[N, tiles]`` (undefined for "log_probs").
        """
        p = self
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

    def normalise(self, rows: Rows) -> None:
        """Bring a mixture to its temperature: ``shift``, ``norm``, ``mass`` and the log-probabilities."""
        rows.shift = rows.value
        _, rows.mass = self.second_pass(rows, "mass")
        rows.temper(self.inv_temp)

    def draw(self, rows: Rows, seed: int, index: Tensor) -> Tensor:
        """A token for each row from the tiles' masses, int64 ``[N]``; −1 in undefined rows."""
        p, out = self, torch.empty_like(rows.argmax)
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

    def uniforms(self, seed: int, index: Tensor) -> Tensor:
        """The rows' uniform numbers, float64 ``[N]``."""
        out = self.empty(self.rows, dtype=torch.float64)
        arguments = {"out": out, "index": index, "seed": seed, "rows": self.rows, "block": 128}
        self.launch(triton_sampling.uniforms, -(-self.rows // 128), 4, **arguments)
        return out

    def select(
        self,
        rows: Rows,
        top_k: int | None,
        top_p: float | None = None,
        seed: int | None = None,
        index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The most probable tokens of each row, or a draw from them; :func:`select_tokens` says what it returns."""
        options: dict[str, Any] = {
            "block": self.config.block,
            "warps": self.config.select_warps,
            "inv_temp": self.inv_temp,
        }
        return select_tokens(*self.second_pass(rows, "rank"), rows.argmax, top_k, top_p, seed, index, **options)

    def logits_at(self, k: int, ids: Tensor) -> Tensor:
        """The logits of expert ``k`` at the tokens ``ids`` int64 ``[m, N]``, float64."""
        return self.experts[k].gather(1, ids.T).T.to(torch.float64)


def select_tokens(
    rank: Tensor,
    tile_top: Tensor,
    argmax: Tensor,
    top_k: int | None,
    top_p: float | None = None,
    seed: int | None = None,
    index: Tensor | None = None,
    *,
    block: int,
    warps: int,
    inv_temp: float,
) -> tuple[Tensor, Tensor]:
    """The most probable tokens of each row, or a draw from them.

    Args:
        rank: float32 ``[N, V]``, what orders the tokens.
        tile_top: float32 ``[N, tiles]``, its maxima in tiles of ``block`` tokens.
        argmax: int64 ``[N]``, −1 in undefined rows.
        top_k: keep so many; None is all.
        top_p: keep the smallest set of at least this probability; None is off.
        seed: of the draw; None returns what is kept.
        index: int64 ``[N]`` for the draw.
        block: tokens in a tile.
        warps: of a program.
        inv_temp: a token's weight is the exponential of ``inv_temp`` times its rank.

    Returns:
        With a seed: tokens int64 ``[N]`` and nothing. Else the ids int64 ``[N, top_k]`` in falling order, ties to the
        lowest id, and what ordered them; ids ``0 … top_k−1`` in undefined rows.
    """
    (n, vocabulary), drawing = rank.shape, seed is not None
    count = top_k or vocabulary
    ids = torch.empty_like(argmax) if drawing else argmax.new_empty(n, count)
    ranks = rank.new_zeros(0 if drawing else (n, count))
    arguments: dict[str, Any] = {"rank": rank, "tile_top": tile_top, "argmax": argmax}
    arguments |= {"index": argmax if index is None else index, "out_rank": ranks}
    arguments |= {"out": ids, "seed": seed or 0, "vocabulary": vocabulary, "inv_temp": inv_temp}
    arguments |= {"tiles": tile_top.shape[1], "tiles_padded": power_of_two(tile_top.shape[1]), "block": block}
    arguments |= {"top_k": count, "top_p_bits": struct.unpack("<q", struct.pack("<d", top_p or 1.0))[0]}
    arguments |= {"has_top_p": top_p is not None, "draw": drawing}
    start(triton_select.select_tokens, n, rank.device, {"num_warps": warps}, arguments)
    if drawing:
        return ids, ranks
    ranks, order = torch.sort(ranks, dim=1, descending=True, stable=True)
    return ids.gather(1, order), ranks


def prepare(request: Inputs, config: Config | None = None) -> Problem:
    """Order the experts and choose a configuration; logits are copied only where their types or strides differ."""
    weighting = weighting_of(request)
    experts = [request.experts[k] for k in weighting["order"]]
    if len({x.dtype for x in experts}) > 1:
        experts = [x.to(torch.float32) for x in experts]
    if len({x.stride() for x in experts}) > 1:
        experts = [x.contiguous() for x in experts]
    config = config or choose(experts[0].element_size(), len(experts), request.vocabulary)
    return Problem(**weighting, experts=tuple(experts), config=config)
