"""What a run will cost, before it starts: tokens, operations, memory and time of every stage, as estimates.

Tokens and operations are counted as :mod:`ensemw2s.runs.cost` counts those of a finished run. Time is operations over
the speed of a short matrix product on this machine, times the share of it that a transformer reaches, plus what each
step of the optimiser moves through memory and a fixed cost a layer. It is within a factor of two at best.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ensemw2s.arms import arm_spec, is_strong
from ensemw2s.config.schema import RunConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig, TrainingConfig
from ensemw2s.estimate.sizes import DataSize, Lengths, ModelSize, data_size, model_size
from ensemw2s.pipeline.plan import planned_stages
from ensemw2s.runs.cost import forward_flops, training_flops

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
    """What this machine does.

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
        stage: its name.
        tokens: tokens read.
        flops: floating-point operations.
        memory: bytes at the peak.
        seconds: time.
    """

    stage: str
    tokens: int
    flops: int | None
    memory: int | None
    seconds: float | None


@dataclass(frozen=True)
class Estimate:
    """Cost of a run.

    Attributes:
        stages: in order.
        weak: size of the weak base.
        strong: size of the strong base.
        data: size of the data.
        speed: of this machine.
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
        """Stages summed by phase."""
        by: dict[str, list[StageEstimate]] = defaultdict(list)
        for stage in self.stages:
            by[_phase(stage.stage)].append(stage)
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


def _phase(stage: str) -> str:
    if stage.startswith(("student/", "ceiling")):
        return "students and ceiling"
    if stage.startswith("labels/") or stage.endswith("/hard_pool"):
        return "labels"
    if "zero-shot" in stage or "zero_shot" in stage:
        return "zero-shot"
    return "boosted experts" if stage.startswith(("experts/", "joint/boosting")) else "other weak arms and answers"


def estimate(config: RunConfig, until: str | None = None, *, seeds: int = 1, speed: Speed | None = None) -> Estimate:
    """Estimate what a run costs on this machine. No weights and no data are downloaded.

    Args:
        config: the resolved configuration.
        until: the last phase, as in :func:`~ensemw2s.pipeline.plan.planned_stages`.
        seeds: how many seeds are run one after the other.
        speed: of the machine; measured by default, which takes about half a second.

    Raises:
        ConfigError: the device is not there.
    """
    sizes = {"weak": model_size(config.models.weak), "strong": model_size(config.models.strong)}
    data = data_size(config)
    measured = speed or measure_speed(config.compute)
    stages = [_stage(config, name, sizes, data, measured) for name in planned_stages(config, until) if name != "data"]
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


def _stage(config: RunConfig, name: str, sizes: dict[str, ModelSize], data: DataSize, speed: Speed) -> StageEstimate:
    strong = name.startswith(("student/", "ceiling", "baselines/zero-shot-strong"))
    strong = strong or (name.startswith("answers/") and is_strong(name.split("/")[1]))
    side = "strong" if strong else "weak"
    base: ModelConfig = getattr(config.models, side)
    size = sizes[side]
    if name.startswith("answers/"):
        return _decoding(config, name, size, data, speed, base)
    if name.startswith(("labels/", "joint/")):
        several = config.boosting.rounds if config.task == "choice" and name.startswith("joint/") else 0
        return _scoring(config, name, size, several * _split_tokens(config, data, ["train"]), speed, base)
    if name.endswith("/scores"):
        return _scoring(config, name, size, _split_tokens(config, data, _scored(config, name, strong)), speed, base)
    training = config.training.student if strong else config.training.expert
    times = config.boosting.rounds if name == "baselines/plain-long" else 1
    lengths = data.hard if strong else data.easy
    return _training(name, size, base, training, training.steps * times, lengths, speed)


def _scored(config: RunConfig, name: str, strong: bool) -> list[str]:
    """The splits that a model is scored on."""
    if strong:
        return ["test", "hard_test"]
    pool = ["hard_pool"] if config.task == "choice" else []
    boosted = name.startswith("experts/") or "zero-shot" in name
    return [*(["train"] if boosted else []), "validation", "test", "hard_test", *pool]


def _split_tokens(config: RunConfig, data: DataSize, splits: Sequence[str]) -> int:
    """Tokens read for scoring: a prompt once, and its answer (train, ``task: generate``) or all options."""
    total = 0.0
    for split in splits:
        answers_only = config.task == "generate" or (split == "train" and config.boosting.error_unit == "token")
        lengths = data.of(split)
        total += data.counts[split] * (lengths.prompt + lengths.answer * (1.0 if answers_only else lengths.options))
    return round(total)


def _training(
    name: str, size: ModelSize, base: ModelConfig, cfg: TrainingConfig, steps: int, data: Lengths, speed: Speed
) -> StageEstimate:
    length = data.prompt + data.answer
    tokens = round(steps * cfg.batch_size * length)
    if size.parameters is None:
        return StageEstimate(name, tokens, None, None, None)
    lora, n = cfg.lora is not None, size.parameters
    flops = training_flops(n, tokens, lora=lora, checkpointing=cfg.gradient_checkpointing)
    trained = 0 if lora else n
    seconds = _PADDING * flops / (speed.flops * _REACHED) + steps * trained * _OPTIMISER_TRAFFIC / speed.bandwidth
    seconds += steps * cfg.gradient_accumulation * (size.layers or 24) * _LAYER_SECONDS["train"]
    kept = {"8bit": 1.0, "4bit": 0.6}.get(str(base.quantization), float(_BYTES[base.dtype]))
    weights = n * kept if lora else n * 16.0  # float32 weight, gradient and two moments
    sequences = -(-cfg.batch_size // cfg.gradient_accumulation)
    memory = weights + _activations(size, sequences * length * _PADDING, cfg.gradient_checkpointing)
    memory += 3.0 * 4.0 * sequences * (data.answer + 1) * (size.vocabulary or 50_000)
    return StageEstimate(name, tokens, flops, round(memory), seconds)


def _activations(size: ModelSize, tokens: float, checkpointing: bool) -> float:
    """Bytes that a backward pass needs, float32."""
    layers, hidden = size.layers or 24, size.hidden or 1024
    return 4.0 * tokens * hidden * (layers * (1 if checkpointing else _ACTIVATIONS) + _ACTIVATIONS)


def _scoring(
    config: RunConfig, name: str, size: ModelSize, tokens: int, speed: Speed, base: ModelConfig
) -> StageEstimate:
    if size.parameters is None:
        return StageEstimate(name, tokens, None, None, None)
    flops = forward_flops(size.parameters, tokens)
    batches = tokens * _PADDING / config.compute.batch_tokens + 1
    seconds = _PADDING * flops / (speed.flops * _REACHED) + batches * (size.layers or 24) * _LAYER_SECONDS["score"]
    width = (size.hidden or 1024) * _ACTIVATIONS * 4.0
    memory = size.parameters * _BYTES[base.dtype] + config.compute.batch_tokens * width
    return StageEstimate(name, tokens, flops, round(memory), seconds if tokens else 0.0)


def _decoding(
    config: RunConfig, name: str, size: ModelSize, data: DataSize, speed: Speed, base: ModelConfig
) -> StageEstimate:
    """Answers of an arm: every expert reads the prompts and the new tokens, one after the other."""
    arm, _, split = name.removeprefix("answers/").rpartition("/")
    models = config.boosting.rounds if arm_spec(arm).several else 1
    lengths = data.of(split)
    new = min(config.labelling.decoding.max_new_tokens, 1.5 * lengths.answer + 1)
    count = data.counts[split]
    tokens = round(models * count * (lengths.prompt + new))
    if size.parameters is None:
        return StageEstimate(name, tokens, None, None, None)
    flops = forward_flops(size.parameters, tokens)
    at_once = max(1.0, config.compute.batch_tokens / (lengths.prompt + new))
    steps = models * new * max(1.0, count / at_once)
    reading = size.parameters * _BYTES[base.dtype] / speed.bandwidth  # every step reads all weights
    seconds = _PADDING * flops / (speed.flops * _REACHED)
    seconds += steps * (reading + (size.layers or 24) * _LAYER_SECONDS["score"])
    cache = config.compute.batch_tokens * 2.0 * (size.layers or 24) * (size.hidden or 1024) * _BYTES[base.dtype]
    return StageEstimate(name, tokens, flops, round(models * (size.parameters * _BYTES[base.dtype] + cache)), seconds)
