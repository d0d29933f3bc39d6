"""Estimates tokens, FLOPs, peak memory and time of every stage before a run.

Tokens and operations are counted as :mod:`ensemw2s.runs.cost` counts those of a finished run. Time is operations over
the speed of a short matrix product on this machine, times the share of it that a transformer reaches, plus what each
step of the optimiser moves through memory and a fixed cost a layer. It is within a factor of two at best.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ensemw2s.config.schema import RunConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.estimate.sizes import DataSize, ModelSize, data_size, model_size
from ensemw2s.pipeline.plan import PlannedStage, plan
from ensemw2s.runs.cost import forward_flops, parameters_above, training_flops

#: Share of a matrix product's speed that fine-tuning and scoring reach.
_REACHED = 0.6
#: Seconds that a layer costs whatever its size: forward and backward, or forward alone.
_LAYER_SECONDS = {"train": 1.2e-3, "score": 0.3e-3}
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: Bytes a weight that the optimiser moves: gradient, two moments and the weight, read and written.
_OPTIMISER_TRAFFIC = 28
#: Bytes of activations for every token, layer and unit of width, in units of a number's size (Korthikanti et al. 2022).
_ACTIVATIONS = 17
_PADDING = 1.25


@dataclass(frozen=True)
class Speed:
    """Speed of this machine.

    Attributes:
        device: ``cpu``, ``cuda:0`` or ``mps``.
        flops: operations a second of a matrix product.
        bandwidth: bytes a second through memory.
    """

    device: str
    flops: float
    bandwidth: float


@dataclass(frozen=True)
class StageEstimate:
    """Cost of a stage; None where a model's size is unknown.

    Attributes:
        memory: bytes at the peak.
        group: its row of the timeline.
    """

    stage: str
    tokens: int
    flops: int | None
    memory: int | None
    seconds: float | None
    group: str = ""


@dataclass(frozen=True)
class Estimate:
    """Cost of a run.

    Attributes:
        seeds: how often the whole is run.
    """

    stages: list[StageEstimate]
    weak: ModelSize
    strong: ModelSize
    data: DataSize
    speed: Speed
    seeds: int = 1

    def total(self, stages: Sequence[StageEstimate] | None = None) -> StageEstimate:
        """Sums over stages (all by default), and the largest memory; None where a part is unknown."""
        own = self.stages if stages is None else stages
        flops, memory, seconds = ([getattr(s, name) for s in own] for name in ("flops", "memory", "seconds"))
        return StageEstimate(
            "total",
            self.seeds * sum(s.tokens for s in own),
            None if None in flops else self.seeds * sum(flops),
            None if None in memory else max(memory, default=0),
            None if None in seconds else self.seeds * sum(seconds),
        )

    def groups(self) -> dict[str, StageEstimate]:
        """Stages summed by row of the timeline."""
        by: dict[str, list[StageEstimate]] = defaultdict(list)
        for stage in self.stages:
            by[stage.group].append(stage)
        return {name: self.total(stages) for name, stages in by.items()}

    def to_json(self) -> dict[str, Any]:
        """Everything, with the totals."""
        return {
            "note": "estimates; nothing was downloaded",
            "total": asdict(self.total()),
            "stages": [asdict(stage) for stage in self.stages],
            "models": {"weak": asdict(self.weak), "strong": asdict(self.strong)},
            "data": asdict(self.data),
            "machine": asdict(self.speed),
            "seeds": self.seeds,
        }


def estimate(config: RunConfig, until: str | None = None, *, seeds: int = 1, speed: Speed | None = None) -> Estimate:
    """Estimate what a run costs on this machine. No weights and no data are downloaded.

    Args:
        config: the resolved configuration.
        until: the last phase, as in :func:`~ensemw2s.pipeline.plan.plan`.
        seeds: how many seeds are run one after the other.
        speed: of the machine; measured by default, which takes about half a second.

    Raises:
        ConfigError: the device is not there.
    """
    sizes = {"weak": model_size(config.models.weak), "strong": model_size(config.models.strong)}
    data = data_size(config)
    measured = speed or measure_speed(config.compute)
    of = _Estimator(config, sizes, data, measured).stage
    stages = [of(planned) for planned in plan(config, until) if planned.expected and planned.kind != "data"]
    return Estimate(stages, sizes["weak"], sizes["strong"], data, measured, seeds)


def measure_speed(compute: ComputeConfig) -> Speed:
    """Time a matrix product and a pass over memory on the configured device."""
    import torch

    from ensemw2s.models.loading.device import resolve_device

    device = resolve_device(compute)
    big = device.type != "cpu"
    rows, width = (8192, 4096) if big else (512, 1024)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    left = torch.ones(rows, width, device=device, dtype=dtype)
    right = torch.ones(width, width, device=device, dtype=dtype)
    moved = torch.ones(2**26 if big else 2**23, device=device)
    with torch.inference_mode():
        product = _seconds(lambda: left @ right, device)
        passed = _seconds(lambda: moved.add_(1.0), device)
    return Speed(str(device), 2.0 * rows * width * width / product, 2.0 * moved.nbytes / passed)


def _seconds(work: Any, device: Any, budget: float = 0.2) -> float:
    """Shortest of repeated times; the first call, which warms up, does not count."""
    import torch

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()

    work()
    wait()
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < budget:
        start = time.perf_counter()
        work()
        wait()
        best = min(best, time.perf_counter() - start)
    return best


@dataclass(frozen=True)
class _Estimator:
    """Cost of stages from what their records say is read, trained or written, and with how many models."""

    config: RunConfig
    sizes: dict[str, ModelSize]
    data: DataSize
    speed: Speed
    kept: set[tuple[str, ...]] = field(default_factory=set)
    """Side, kind and split of the texts whose hidden states below adapters some stage has computed before."""

    def stage(self, planned: PlannedStage) -> StageEstimate:
        """The cost of one stage; of one for which no model runs, nothing."""
        if not planned.splits:
            return StageEstimate(planned.name, 0, 0, 0, 0.0, planned.group)
        way = {"train": self._training, "answer": self._decoding, "label": self._decoding}
        tokens, flops, memory, seconds = way.get(planned.kind, self._scoring)(planned)
        if self.sizes[planned.side].parameters is None:
            return StageEstimate(planned.name, round(tokens), None, None, None, planned.group)
        return StageEstimate(planned.name, round(tokens), flops, round(memory), seconds, planned.group)

    def _work(self, flops: int) -> float:
        """Seconds of floating-point operations."""
        return _PADDING * flops / (self.speed.flops * _REACHED)

    def _training(self, planned: PlannedStage) -> tuple[float, int, float, float]:
        size, base = self.sizes[planned.side], getattr(self.config.models, planned.side)
        cfg = self.config.training.student if planned.side == "strong" else self.config.training.expert
        data, steps, lora = self.data.of(planned.splits[0]), planned.steps, cfg.lora is not None
        n = size.parameters or 0
        length = data.prompt + data.answer
        tokens = steps * cfg.batch_size * length
        above, layers = self._above(planned)
        flops = training_flops(n, round(tokens), lora=lora, checkpointing=cfg.gradient_checkpointing, above=above)
        trained = 0 if lora else n
        once = min(tokens, self.data.counts[planned.splits[0]] * length)
        seconds = (
            self._work(flops - self._spared(planned, planned.splits[0], tokens, once))
            + steps * trained * _OPTIMISER_TRAFFIC / self.speed.bandwidth
        )
        seconds += steps * cfg.gradient_accumulation * layers * _LAYER_SECONDS["train"]
        kept = {"8bit": 1.0, "4bit": 0.6}.get(str(base.quantization), float(_BYTES[base.dtype]))
        weights = n * kept if lora else n * 16.0  # float32 weight, gradient and two moments
        sequences = -(-cfg.batch_size // cfg.gradient_accumulation)
        memory = weights + _activations(size, sequences * length * _PADDING, cfg.gradient_checkpointing)
        memory += 3.0 * 4.0 * sequences * (data.answer + 1) * (size.vocabulary or 50_000)
        return tokens, flops, memory, seconds

    def _above(self, planned: PlannedStage) -> tuple[int, int]:
        """Parameters and number of the layers with adapters, or of all layers."""
        size, roles = self.sizes[planned.side], self.config.training
        lora = (roles.student if planned.side == "strong" else roles.expert).lora
        last, layers = None if lora is None else lora.last_layers, size.layers or 24
        return parameters_above(size.parameters or 0, size.layers, last), min(last or layers, layers)

    def _spared(self, planned: PlannedStage, split: str, tokens: float, once: float) -> int:
        """Operations below adapters in the last layers that are not done, as hidden states are kept.

        They are done ``once`` for the texts of a split, by the stage that comes first.
        """
        below = (self.sizes[planned.side].parameters or 0) - self._above(planned)[0]
        texts = (planned.side, "train" if planned.kind == "train" else "score", split)
        first = texts not in self.kept
        self.kept.add(texts)
        return forward_flops(below, round(tokens - once * first))

    def _split_tokens(self, split: str) -> float:
        """Tokens read for scoring: a prompt once, and its answer (train, ``task: generate``) or all options."""
        generate, by_token = self.config.task == "generate", self.config.boosting.error_unit == "token"
        lengths = self.data.of(split)
        options = 1.0 if generate or (split == "train" and by_token) else lengths.options
        return self.data.counts[split] * (lengths.prompt + lengths.answer * options)

    def _scoring(self, planned: PlannedStage) -> tuple[float, int, float, float]:
        size, at_once = self.sizes[planned.side], self.config.compute.batch_tokens
        tokens = planned.models * sum(map(self._split_tokens, planned.splits))
        flops = forward_flops(size.parameters or 0, round(tokens))
        batches = tokens * _PADDING / at_once + 1
        spared = 0
        for split in planned.splits if planned.models and planned.group != "zero-shot bases" else ():
            once = self._split_tokens(split)
            spared += self._spared(planned, split, planned.models * once, once)
        seconds = self._work(flops - spared) + batches * (size.layers or 24) * _LAYER_SECONDS["score"]
        activations = at_once * (size.hidden or 1024) * _ACTIVATIONS * 4.0
        return tokens, flops, planned.models * self._weights(planned) + activations, seconds

    def _weights(self, planned: PlannedStage) -> int:
        """Bytes of one model."""
        base: ModelConfig = getattr(self.config.models, planned.side)
        return (self.sizes[planned.side].parameters or 0) * _BYTES[base.dtype]

    def _decoding(self, planned: PlannedStage) -> tuple[float, int, float, float]:
        """Every model reads the prompts and the new tokens, one after the other."""
        size, models, at_once = self.sizes[planned.side], planned.models, self.config.compute.batch_tokens
        (split,) = planned.splits
        lengths, count = self.data.of(split), self.data.counts[split]
        new = min(self.config.labelling.decoding.max_new_tokens, 1.5 * lengths.answer + 1)
        tokens = models * count * (lengths.prompt + new)
        flops = forward_flops(size.parameters or 0, round(tokens))
        steps = models * new * max(1.0, count / max(1.0, at_once / (lengths.prompt + new)))
        reading = self._weights(planned) / self.speed.bandwidth  # every step reads all weights
        seconds = self._work(flops) + steps * (reading + (size.layers or 24) * _LAYER_SECONDS["score"])
        base: ModelConfig = getattr(self.config.models, planned.side)
        cache = at_once * 2.0 * (size.layers or 24) * (size.hidden or 1024) * _BYTES[base.dtype]
        return tokens, flops, models * (self._weights(planned) + cache), seconds


def _activations(size: ModelSize, tokens: float, checkpointing: bool) -> float:
    """Bytes that a backward pass needs, float32."""
    layers, hidden = size.layers or 24, size.hidden or 1024
    return 4.0 * tokens * hidden * (layers * (1 if checkpointing else _ACTIVATIONS) + _ACTIVATIONS)
