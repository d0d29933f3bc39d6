"""Combining experts from hidden states without storing logits: buffers, launches, and which passes a question needs.

The first pass multiplies everything once. The arg-max multiplies again the tile of the largest bound of each row, then
every tile whose bound still reaches what was found there; a mixture's normaliser at another temperature, the tiles that
hold all but 2^-26 of the mass; top-k, the tiles that can hold one of these tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ensemw2s.kernels import triton_head_rows, triton_head_tiles
from ensemw2s.kernels.gpu import launch as triton_launch
from ensemw2s.kernels.gpu.configs import LATER_ROWS, HeadConfig, choose_head
from ensemw2s.kernels.gpu.problem import Rows, Weighted, power_of_two, weighting_of
from ensemw2s.kernels.gpu.rows import SLACK
from ensemw2s.kernels.request import Inputs

if TYPE_CHECKING:
    from ensemw2s.kernels.lm_head import Head

_CHUNK = 256  # tiles that a program looks at together
_ROW_WARPS = 4
_LOWEST = torch.finfo(torch.float32).min


@dataclass(slots=True)
class HeadProblem(Weighted):
    """Hidden states, heads and the constants of one launch."""

    heads: tuple[Head, ...]
    """Of one data type; all have a bias or none has."""
    config: HeadConfig
    widen: bool
    """Whether products are formed in float32, for Triton's interpreter."""

    @property
    def device(self) -> torch.device:
        """Where the heads are."""
        return self.heads[0].weight.device

    @property
    def rows(self) -> int:
        """N."""
        return len(self.heads[0].hidden)

    @property
    def vocabulary(self) -> int:
        """V."""
        return len(self.heads[0].weight)

    @property
    def block(self) -> int:
        """Tokens in a tile."""
        return self.config.block

    def first_pass(self, targets: Tensor | None = None, *, best: bool = True) -> Rows:
        """Form the logits once and finish the rows.

        Args:
            targets: int64 ``[N]``, or None.
            best: find the combined arg-max.
        """
        p, n = self, self.rows
        tiles = p._tile_stats(targets)
        out = {name: p.empty(n) for name in ("threshold", "target_logprob", "base", "norm")}
        out |= {name: p.empty(len(p.heads), n) for name in ("logsumexp", "expert_target", "centre", "offset")}
        out |= {name: p.empty(n, p.tiles) for name in ("bound", "tile_best")}
        out["argmax"] = p.empty(n, dtype=torch.int64)
        out["expert_argmax"] = p.empty(len(p.heads), n, dtype=torch.int64)
        arguments = {**tiles, **out, "shares": p.weights, "log_shares": p.log_weights, "inv_temp": p.inv_temp}
        arguments |= {"rows": n, "vocabulary": p.vocabulary, "tiles": p.tiles, "has_targets": targets is not None}
        arguments |= {"count": len(p.heads), "active": p.active, "product": p.product}
        arguments |= {"count_padded": power_of_two(len(p.heads)), "chunk": min(_CHUNK, power_of_two(p.tiles))}
        p._start(triton_head_rows.finish_head, n, _ROW_WARPS, 1, arguments)
        rows = Rows(
            undefined=out["argmax"] < 0,
            value=out["centre"][0],
            logprob=-out["norm"],
            shift=out["centre"][0] if p.active == 1 else torch.zeros_like(out["norm"]),
            tile_max=tiles["tile_max"],
            mass=p.empty(0),
            constants={name: out[name] for name in ("centre", "offset", "base", "bound", "tile_best", "threshold")},
            **{name: out[name] for name in ("argmax", "target_logprob", "expert_argmax", "logsumexp")},
            **{name: out[name] for name in ("expert_target", "norm")},
        )
        rows.constants["norm"] = rows.norm if self.inv_temp == 1.0 else torch.zeros_like(rows.norm)
        if best and p.active > 1:
            p._search(rows)
        return rows

    def _tile_stats(self, targets: Tensor | None) -> dict[str, Tensor]:
        """What is known of every tile of logits after all were formed once."""
        p, n, count = self, self.rows, len(self.heads)
        out = {name: p.empty(count, n, p.tiles) for name in ("tile_max", "tile_sum")}
        out["tile_first"] = p.empty(count, n, p.tiles, dtype=torch.int32)
        for name in ("product_max", "product_sum"):
            out[name] = p.empty(n, p.tiles) if p.product else out["tile_max"]
        out["target_logit"] = p.empty(count, n)
        arguments = {
            **p._reading(count, p.config.block_rows),
            **out,
            "inv_temp": p.inv_temp,
            "count": count,
            "has_targets": targets is not None,
        }
        arguments["targets"] = out["tile_first"] if targets is None else targets.contiguous()
        p._multiply(triton_head_tiles.head_stats, arguments)
        return out

    def _reading(self, count: int, block_rows: int) -> dict[str, Any]:
        """The arguments of kernels that form logits of the first ``count`` experts, ``block_rows`` rows in a tile."""
        heads, config = self.heads[:count], self.config
        widths = [head.weight.shape[1] for head in heads]
        return {
            "hidden": tuple(head.hidden for head in heads),
            "weight": tuple(head.weight for head in heads),
            "bias": tuple(head.weight if head.bias is None else head.bias for head in heads),
            "hidden_strides": tuple(head.hidden.stride(0) for head in heads),
            "weight_strides": tuple(head.weight.stride(0) for head in heads),
            "widths": tuple(widths),
            "width": max(widths),
            "even": min(widths) == max(widths) and max(widths) % config.block_width == 0,
            "biased": heads[0].bias is not None,
            "shares": self.weights,
            "active": self.active,
            "product": self.product,
            "rows": self.rows,
            "vocabulary": self.vocabulary,
            "tiles": self.tiles,
            "row_blocks": -(-self.rows // block_rows),
            "block_rows": block_rows,
            "block": config.block,
            "block_width": config.block_width,
            "widen": self.widen,
        }

    def _multiply(self, kernel: Any, arguments: dict[str, Any]) -> None:
        programs = arguments["row_blocks"] * self.tiles
        self._start(kernel, programs, self.config.warps, self.config.stages, arguments)

    def _start(self, kernel: Any, programs: int, warps: int, stages: int, arguments: dict[str, Any]) -> None:
        options = {"num_warps": warps, "num_stages": stages}
        triton_launch.start(kernel, programs, self.device, options, arguments)

    def _later(
        self,
        mode: str,
        rows: Rows,
        tile_out: Tensor,
        threshold: Tensor,
        *,
        token_out: Tensor | None = None,
        bound: Tensor | None = None,
        slot: Tensor | None = None,
        value_out: Tensor | None = None,
    ) -> None:
        """Form again the tiles whose bound reaches the threshold; ``head_values`` says what each mode gives."""
        known = {name: rows.constants[name] for name in ("centre", "offset", "base", "norm")}
        none = tile_out.new_empty(0, dtype=torch.int32)
        arguments = {
            **self._reading(self.active, LATER_ROWS),
            **known,
            "mode": mode,
            "inv_temp": self.inv_temp,
        }
        arguments |= {"bound": rows.constants["bound"] if bound is None else bound, "threshold": threshold}
        arguments |= {"shift": rows.shift, "tile_out": tile_out, "token_out": none if token_out is None else token_out}
        arguments |= {"slot": none if slot is None else slot, "value_out": tile_out if value_out is None else value_out}
        self._multiply(triton_head_tiles.head_values, {**arguments, "slots": tile_out.shape[1]})

    def _search(self, rows: Rows) -> None:
        """The combined arg-max: first in the tile of the largest bound, then wherever that can still be beaten."""
        best, tokens = rows.constants["tile_best"], self.empty(self.rows, self.tiles, dtype=torch.int32)
        threshold = rows.constants["threshold"]
        for _ in range(2):
            self._later("best", rows, best, threshold, token_out=tokens)
            threshold, tile = best.max(dim=1)
        rows.value = threshold
        winner = tokens.gather(1, tile[:, None])[:, 0].to(torch.int64)
        rows.argmax = torch.where(rows.undefined, -1, winner)
        rows.logprob = torch.where(rows.undefined, math.nan, rows.value)
        if self.product:
            rows.logprob = (rows.logprob + rows.constants["norm"]) * self.inv_temp - rows.norm
        rows.logprob = rows.logprob.clamp_max(0.0)

    def normalise(self, rows: Rows) -> None:
        """Bring a mixture to its temperature: ``shift``, ``norm``, ``mass`` and the log-probabilities."""
        rows.shift = rows.value
        reach = -(18.1 + math.log(self.vocabulary)) / self.inv_temp
        rows.mass = self.empty(self.rows, self.tiles).zero_()
        self._later("mass", rows, rows.mass, (rows.shift + max(reach, _LOWEST)).clamp_min(_LOWEST))
        rows.temper(self.inv_temp)

    def select(self, rows: Rows, top_k: int) -> tuple[Tensor, Tensor]:
        """The most probable tokens of each row, and what ordered them.

        Returns:
            ids int64 ``[N, top_k]`` in falling order, ties to the lowest id, ``0 … top_k−1`` in undefined rows; and
            float32 ``[N, top_k]``.
        """
        n, block = self.rows, self.config.block
        needed = self._tiles_of_best(rows, top_k)
        slots = max(int(needed.sum(dim=1).max()), -(-top_k // block)) if n else 1
        slot = needed.cumsum(dim=1, dtype=torch.int32) - 1
        value, top = self.empty(n, slots * block).fill_(-math.inf), self.empty(n, slots).fill_(-math.inf)
        every = torch.where(needed.all(dim=1), -math.inf, _LOWEST)  # tiles of −inf count only where all are needed
        bound = torch.where(needed, rows.constants["bound"], -math.inf)
        self._later("rank", rows, top, every, bound=bound, slot=slot, value_out=value)
        options: dict[str, Any] = {"block": block, "warps": _ROW_WARPS, "inv_temp": self.inv_temp}
        places, rank = triton_launch.select_tokens(value, top, rows.argmax, top_k, **options)
        row, tile = needed.nonzero(as_tuple=True)
        tile_of = torch.zeros(n, slots, dtype=torch.int64, device=top.device)
        tile_of[row, slot[row, tile].to(torch.int64)] = tile
        ids = tile_of.gather(1, places // block) * block + places % block
        return torch.where(rows.undefined[:, None], places, ids), rank

    def _tiles_of_best(self, rows: Rows, count: int) -> Tensor:
        """Which tiles (bool ``[N, tiles]``) can hold one of the ``count`` most probable tokens."""
        bound: Tensor = rows.constants["bound"]
        if count > self.tiles:
            return (~rows.undefined)[:, None].expand(bound.shape)
        low = bound
        if not self.product:  # the best token of one expert in the tile has at least this value
            centre, offset = (rows.constants[name][: self.active, :, None] for name in ("centre", "offset"))
            low = (rows.tile_max[: self.active] - centre + offset).amax(dim=0)
        least = low.topk(count, dim=1).values[:, -1:]
        return (bound + _slack(bound) >= least - _slack(least)) & ~rows.undefined[:, None]

    def logits_at(self, k: int, ids: Tensor) -> Tensor:
        """The logits of expert ``k`` at the tokens ``ids`` int64 ``[m, N]``, float64."""
        head, out = self.heads[k], []
        hidden = head.hidden.to(torch.float64)
        for tokens in ids:
            logit = (hidden * head.weight[tokens].to(torch.float64)).sum(dim=1)
            out.append(logit if head.bias is None else logit + head.bias[tokens])
        return torch.stack(out)


def _slack(bound: Tensor) -> Tensor:
    """By how much rounding can move a bound; 0 where it is not finite."""
    return torch.where(bound.abs() < math.inf, SLACK.value * (1.0 + bound.abs()), 0.0)


def config_for(request: Inputs) -> HeadConfig:
    """The configuration for a request; of its logits only the types and the number of rows matter."""
    product = request.rule == "product" and len(request.active) > 1
    return choose_head(max(x.element_size() for x in request.experts), request.rows, product)


def prepare(heads: Sequence[Head], request: Inputs, *, interpreted: bool = False) -> HeadProblem:
    """Order the experts and choose a configuration; tensors are copied only where their rows are not contiguous."""
    weighting = weighting_of(request)
    ordered = tuple(heads[k].with_contiguous_rows() for k in weighting["order"])
    if any(head.bias is not None for head in ordered):
        ordered = tuple(head.with_bias() for head in ordered)
    return HeadProblem(**weighting, heads=ordered, config=config_for(request), widen=interpreted)
