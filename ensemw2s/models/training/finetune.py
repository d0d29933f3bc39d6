"""Fine-tuning a causal language model on weighted target tokens."""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import json
import math
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ensemw2s.config.training import ComputeConfig, ModelConfig, TrainingConfig
from ensemw2s.errors import ConfigError, RunFailedError
from ensemw2s.models.loading.device import resolve_device
from ensemw2s.models.loading.fingerprint import model_fingerprint
from ensemw2s.models.loading.load import LoadedModel, load_model
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.models.loading.source import lasting_path, write_base
from ensemw2s.models.training.adapter import forbidden_layers, go_on, with_adapter
from ensemw2s.models.training.losses import LossConfig
from ensemw2s.models.training.training_set import TrainingSet, drawn_labels
from ensemw2s.models.trunk.kept import kept_trunk
from ensemw2s.registry import STUDENT_LOSSES
from ensemw2s.seeds import sub_seed
from ensemw2s.sink import EventSink, NullSink

if TYPE_CHECKING:
    from ensemw2s.models.training.early_stopping import Watch
    from ensemw2s.models.training.trainer import WeightedTrainer
    from ensemw2s.models.trunk.store import TrunkStore

#: Folder of the trainer's checkpoints inside an unfinished model folder.
TRAINER_FOLDER = "trainer"
_TRACKERS = ("mlflow", "tensorboard", "trackio", "wandb")


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """Result of a fine-tuning."""

    steps: int
    """Optimiser steps that were taken, those before an interruption included."""
    seconds: float
    """Wall-clock time of this call."""
    tokens: int
    """Tokens read, padding excluded, those before an interruption included."""
    final_loss: float
    """Mean loss of the last logged steps."""
    clipped: float
    """Share of the steps whose gradient was larger than ``max_grad_norm``, those before an interruption included."""
    kept: int
    """The step whose weights were written: the last, or the best where early stopping ended it."""
    looks: tuple[tuple[int, float], ...] = ()
    """Step and agreement with held-out labels, with early stopping."""


def finetune(
    base: ModelConfig,
    data: TrainingSet,
    cfg: TrainingConfig,
    out: Path,
    *,
    seed: int,
    start: Path | None = None,
    watch: Watch | None = None,
    loss: LossConfig | None = None,
    loss_constant: float = 1.0,
    compute: ComputeConfig | None = None,
    sink: EventSink | None = None,
    tag: str = "train",
    trunk: TrunkStore | None = None,
) -> FinetuneResult:
    """Fine-tune ``base`` and write a Hugging Face model folder (or a LoRA adapter folder) to ``out``.

    An adapter folder as ``base`` is merged into its own base first. A step's loss is ``Σ w·ℓ / (batch_size ·
    loss_constant)`` over the target tokens of its ``batch_size`` sequences (cross-entropy by default). The sequences
    come in the order of :func:`draw_order`; a batch may reach from one epoch into the next, so every step has
    ``batch_size`` of them. The seed fixes the order, the adapter's initial weights and dropout. With ``dtype:
    bfloat16`` or ``float16`` the master weights are float32 (adapters: the base stays in that type) and the result is
    saved in that type. With ``start``, what an earlier fine-tuning of ``base`` wrote, it goes on from those weights (or
    that adapter), with the schedule of the learning rate from its beginning. ``watch`` may end it early (in one process
    alone).

    ``out`` is of this fine-tuning alone: give an unfinished name and rename it afterwards. With ``checkpoint_steps`` an
    interrupted fine-tuning continues from ``out/trainer`` when it is called again with the same arguments, and gives
    the same weights as an undisturbed one. That folder is removed at the end. The sink gets ``train`` metrics and
    progress under ``tag``.

    With ``lora.last_layers`` and a ``trunk`` the hidden states below the adapters are computed once for each sequence
    and kept there. What comes out does not depend on which were kept before.

    Raises:
        ConfigError: a combination that cannot run.
        ModelError: the base cannot be loaded.
        RunFailedError: the loss became NaN or infinite.
    """
    started = time.perf_counter()
    loss, compute, sink = loss or LossConfig(), compute or ComputeConfig(), sink or NullSink()
    if not (math.isfinite(loss_constant) and loss_constant > 0):
        raise ValueError(f"loss_constant is {loss_constant}; expected a positive number")
    if "soft" in STUDENT_LOSSES.get(loss.kind).needs and data.soft_ids is None:
        raise ValueError(f"loss: {loss.kind} needs a training set with the ensemble's distributions")
    device = resolve_device(compute)
    _check(base, cfg, device)
    out.mkdir(parents=True, exist_ok=True)
    tuning = _Finetuning(base, data, cfg, out, seed, start, watch, loss, loss_constant, device, sink, tag, trunk)
    with quiet_transformers():
        return tuning.run(started)


def draw_order(data: TrainingSet, cfg: TrainingConfig, seed: int) -> NDArray[np.int64]:
    """The sequences of a fine-tuning, int64 ``[steps · batch_size]``: ``data.index`` in a new seeded order every epoch.

    Of a question with several possible labels every visit draws one.

    In every stretch of ``cfg.length_window`` batches the sequences are sorted by length, which leaves little to pad,
    and the batches then come in a seeded order.
    """
    count = cfg.steps * cfg.batch_size
    epochs = -(-count // len(data.index))
    shuffled = [
        np.random.default_rng(sub_seed(seed, "order", epoch)).permutation(data.index) for epoch in range(epochs)
    ]
    visits = drawn_labels(data, np.concatenate(shuffled)[:count], sub_seed(seed, "labels"))
    batches = visits.reshape(cfg.steps, cfg.batch_size)
    if cfg.length_window == 1:
        return batches.ravel()
    random = np.random.default_rng(sub_seed(seed, "batches"))
    lengths = data.lengths
    for first in range(0, cfg.steps, cfg.length_window):
        window = batches[first : first + cfg.length_window]
        drawn = window.ravel()
        by_length = drawn[np.argsort(lengths[drawn], kind="stable")].reshape(window.shape)
        batches[first : first + cfg.length_window] = by_length[random.permutation(len(window))]
    return batches.ravel()


def processes() -> int:
    """Number of processes that train together; more than one under ``accelerate launch``."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _check(base: ModelConfig, cfg: TrainingConfig, device: torch.device) -> None:
    parts = cfg.gradient_accumulation * processes()
    if cfg.batch_size % parts:
        raise ConfigError(
            f"training.batch_size {cfg.batch_size} cannot be split into {cfg.gradient_accumulation} passes on each of "
            f"{processes()} processes.",
            hint=f"Use a multiple of {parts}.",
        )
    for name in cfg.report_to:
        if name not in _TRACKERS or importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"training.report_to: {name} is not " + ("installed." if name in _TRACKERS else "a known tracker."),
                hint=f"Install it, or leave it out. Known are {', '.join(_TRACKERS)}.",
            )
    if base.dtype == "float16" and device.type != "cuda":
        raise ConfigError(
            f"Fine-tuning with dtype: float16 needs a CUDA device; this one is {device}.",
            hint="Use float32 or bfloat16.",
        )
    if base.quantization is not None and cfg.lora is None:
        raise ConfigError(
            f"quantization: {base.quantization} leaves no weights that can be trained.",
            hint="Set training.….lora, which trains adapters over the quantized base, or leave quantization out.",
        )


@dataclass(frozen=True, slots=True)
class _Finetuning:
    """One call of :func:`finetune`."""

    base: ModelConfig
    data: TrainingSet
    cfg: TrainingConfig
    out: Path
    seed: int
    start: Path | None
    watch: Watch | None
    loss: LossConfig
    loss_constant: float
    device: torch.device
    sink: EventSink
    tag: str
    trunk: TrunkStore | None

    def run(self, started: float) -> FinetuneResult:
        from ensemw2s.models.training.early_stopping import Stopper
        from ensemw2s.models.training.trainer import DrawOrder, Reporter, WeightedTrainer, last_checkpoint

        cfg, folder = self.cfg, self.out / TRAINER_FOLDER
        order = draw_order(self.data, cfg, self.seed)
        tokens = np.concatenate([[0], np.cumsum(self.data.lengths[order].reshape(cfg.steps, -1).sum(axis=1))])
        loaded, identity = self.prepared(), self.identity()
        cache = getattr(loaded.model.config, "use_cache", None)
        checkpoint = last_checkpoint(folder, identity, self.sink)
        if checkpoint is None:
            shutil.rmtree(folder, ignore_errors=True)
        reporter = Reporter(self.sink, self.tag, tokens, identity)
        stopper = Stopper(self.watch, loaded, checkpoint)
        trainer = WeightedTrainer(
            model=loaded.model,
            args=self.arguments(folder),
            train_dataset=DrawOrder(order),
            callbacks=[stopper, reporter],  # a checkpoint is marked as complete after the stopper wrote into it
            data=self.data,
            pad_id=loaded.pad_id,
            loss=self.loss,
            divisor=cfg.batch_size * self.loss_constant,
            tag=self.tag,
        )
        reporter.check = trainer.check_finite
        below = kept_trunk(loaded, self.trunk) if self.has_trunk(trainer) else None
        if below is not None:
            trainer.use_trunk(below, order)
        _train(trainer, checkpoint, cfg.report_to)
        if cache is not None:
            loaded.model.config.use_cache = cache  # the trainer switches it off
        kept, steps = stopper.settle(), trainer.state.global_step
        _check_weights(trainer, self.tag)
        self.save(trainer, loaded)
        seconds, clipped = time.perf_counter() - started, reporter.clipped / steps
        looks = tuple(stopper.looks.items())
        return FinetuneResult(steps, seconds, int(tokens[steps]), reporter.loss, clipped, kept or steps, looks)

    def has_trunk(self, trainer: WeightedTrainer) -> bool:
        """Whether what is below the adapters is fixed, without dropout, and not sharded."""
        lora = self.cfg.lora
        return not (lora is None or lora.last_layers is None or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)

    def identity(self) -> str:
        """Inputs on which a checkpoint must agree to be continued."""
        model, data = model_fingerprint(self.base), self.data.fingerprint()
        parts = [model, data, self.cfg.decisive(), asdict(self.loss), self.loss_constant, self.seed]
        if self.start is not None:
            parts.append(model_fingerprint(self.begun))
        if self.watch is not None:
            parts.append(self.watch.inputs())
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def begun(self) -> ModelConfig:
        """The model to start from: the base, or what an earlier fine-tuning of it wrote."""
        if self.start is None:
            return self.base
        return self.base.model_copy(update={"path": str(self.start), "revision": None})

    def prepared(self) -> LoadedModel:
        """The model to train: float32 weights, or adapters over the base in its own type."""
        base, cfg = self.base, self.cfg
        loaded = load_model(base if cfg.lora else self.begun.model_copy(update={"dtype": "float32"}), self.device)
        model: Any = loaded.model
        if hasattr(model, "merge_and_unload"):
            model = model.merge_and_unload()
        if base.quantization is not None:
            import peft

            model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        if cfg.gradient_checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        if cfg.lora is not None:
            left_out = forbidden_layers(model) if cfg.lora.all_linear else []
            if left_out:
                text = f"{self.tag}: all-linear leaves out {', '.join(left_out)}, which PEFT forbids in {base.path}."
                self.sink.event("message", level="info", text=text)
            model = with_adapter(model, cfg.lora, left_out, loaded.revision, sub_seed(self.seed, "adapter", bits=31))
            if self.start is not None:
                go_on(model, self.start)
        else:
            model.requires_grad_(True)
        return replace(loaded, model=model)

    def arguments(self, folder: Path) -> Any:
        """Those of the trainer."""
        from ensemw2s.models.training.trainer import Arguments

        cfg = self.cfg
        arguments = Arguments(
            output_dir=str(folder),
            max_steps=cfg.steps,
            gradient_accumulation_steps=cfg.gradient_accumulation,
            per_device_train_batch_size=cfg.batch_size // (cfg.gradient_accumulation * processes()),
            learning_rate=cfg.learning_rate,
            lr_scheduler_type="constant_with_warmup" if cfg.schedule == "constant" else cfg.schedule,
            warmup_steps=round(cfg.warmup * cfg.steps),
            weight_decay=cfg.weight_decay,
            adam_beta2=cfg.adam_beta2,
            max_grad_norm=cfg.max_grad_norm,
            optim="adamw_torch_fused",
            bf16=self.base.dtype == "bfloat16",
            fp16=self.base.dtype == "float16",
            seed=sub_seed(self.seed, "trainer", bits=31),
            data_seed=sub_seed(self.seed, "data", bits=31),
            use_cpu=self.device.type == "cpu",
            save_strategy="no" if cfg.checkpoint_steps is None else "steps",
            save_steps=cfg.checkpoint_steps or cfg.steps,
            save_total_limit=2,  # the newest may be incomplete when the process is killed
            logging_steps=cfg.log_steps,
            logging_nan_inf_filter=False,
            report_to=cfg.report_to or "none",
            run_name=self.tag,
            log_level="error",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=self.device.type == "cuda",
            ddp_find_unused_parameters=False,
        )
        arguments.chosen_device = self.device
        return arguments

    def save(self, trainer: WeightedTrainer, loaded: LoadedModel) -> None:
        """Write the final model and remove the trainer's folder."""
        model: Any = trainer.model
        if self.cfg.lora is not None:  # before it is saved, so that the base is found from anywhere
            model.peft_config["default"].base_model_name_or_path = lasting_path(self.base.path)
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            trainer.save_model(str(self.out))  # gathers the shards
            (self.out / "training_args.bin").unlink(missing_ok=True)
        elif trainer.is_world_process_zero():
            if self.cfg.lora is None:
                model.to(getattr(torch, self.base.dtype))
                model.config.dtype = self.base.dtype
                model.save_pretrained(self.out)
            else:
                # embeddings are the base's own, and peft would look for its files
                model.save_pretrained(self.out, save_embedding_layers=False)
            (self.out / "README.md").unlink(missing_ok=True)  # peft's empty model card
        if trainer.is_world_process_zero():
            if self.cfg.lora is not None and self.base.keep_layers is not None:
                write_base(self.out, self.base.keep_layers)
            loaded.tokenizer.save_pretrained(self.out)
            if (self.out / TRAINER_FOLDER / "runs").is_dir():
                shutil.rmtree(self.out / "tensorboard", ignore_errors=True)
                (self.out / TRAINER_FOLDER / "runs").replace(self.out / "tensorboard")
            shutil.rmtree(self.out / TRAINER_FOLDER, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()


def _train(trainer: WeightedTrainer, checkpoint: Path | None, trackers: list[str]) -> None:
    gc.freeze()  # the trainer starts with a full collection, which takes longer than many steps of a small model
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        gc.unfreeze()
        if "wandb" in trackers:
            import wandb

            wandb.finish()  # the trainer leaves its run open, and the next fine-tuning would go on in it


def _check_weights(trainer: WeightedTrainer, tag: str) -> None:
    """A last update can spoil the weights without any loss showing it."""
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            raise RunFailedError(
                f"The weights of {tag} became NaN or infinite after step {trainer.state.global_step} ({name}).",
                hint="Try a smaller learning_rate, more warmup, or dtype: float32.",
            )
