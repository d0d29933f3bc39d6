"""The ``transformers.Trainer`` behind ``ensemw2s.models.training.finetune``; importing this loads ``transformers``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ensemw2s.checksums import checksums_below, problems, read_sealed, sealed
from ensemw2s.errors import DamagedError, RunFailedError
from ensemw2s.files import write_json
from ensemw2s.models.forward import accepts, logits_at, positions_of
from ensemw2s.models.loading.scaling import length_scaling
from ensemw2s.models.training.losses import LossConfig, training_loss
from ensemw2s.models.training.training_set import TrainingSet, collate
from ensemw2s.models.trunk.kept import KeptTrunk, Text, text_of
from ensemw2s.sink import EventSink

#: Written into a trainer checkpoint once it is complete; says which fine-tuning it belongs to.
MARKER = "complete.json"


class DrawOrder(Dataset[int]):
    """The sequences of a whole fine-tuning, one after the other: every epoch a new seeded order."""

    def __init__(self, order: NDArray[np.int64]) -> None:
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> int:
        return int(self.order[place])

    def __getitems__(self, places: list[int]) -> list[int]:
        chosen: list[int] = self.order[places].tolist()
        return chosen


class Arguments(TrainingArguments):  # type: ignore[misc]
    """Training arguments that keep to one given device: no ``DataParallel``, and ``cuda:1`` is not ``cuda:0``."""

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        device: torch.device = super().device
        chosen: torch.device | None = getattr(self, "chosen_device", None)
        if chosen is None or chosen.type != "cuda" or self.world_size > 1:
            return device
        torch.cuda.set_device(chosen)
        return chosen

    @property
    def n_gpu(self) -> int:
        """At most one GPU a process."""
        return min(int(super().n_gpu), 1)


class WeightedTrainer(Trainer):  # type: ignore[misc]
    """Weighted token losses, divided by a constant; the data order comes from outside."""

    #: The loss is a share of the step's loss already: nothing is divided by accumulation steps or counted items.
    loss_is_scaled_for_ga = True

    def __init__(
        self, *, data: TrainingSet, pad_id: int, loss: LossConfig, divisor: float, tag: str, **kwargs: Any
    ) -> None:
        super().__init__(
            data_collator=self._collated,
            compute_loss_func=training_loss,  # says to every version of the Trainer that the loss is scaled already
            **kwargs,
        )
        self.data, self.pad_id = data, pad_id
        self.trunk: KeptTrunk | None = None
        self.remove_callback(PrinterCallback)
        self.loss_config = loss
        self.tag = tag
        # Processes average their gradients, while the loss of a step is a sum over all of them.
        self.divisor = divisor / max(self.args.world_size, 1)
        self.by_own_length = length_scaling(self.model) is not None and accepts(self.model, "position_ids")
        self._clipped: Tensor | int = 0
        self._count_clipped_steps()

    def _count_clipped_steps(self) -> None:
        """Note where clipping changed a gradient; the count stays on the device until it is logged."""
        clip = self.accelerator.clip_grad_norm_

        def counted(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            norm = clip(parameters, max_norm, *args, **kwargs)
            if norm is not None:  # DeepSpeed clips by itself and may not know
                self._clipped = self._clipped + (torch.as_tensor(norm).detach() > max_norm).int()
            return norm

        self.accelerator.clip_grad_norm_ = counted

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log with the number of clipped steps since the last report of a loss."""
        if "loss" in logs:
            logs["clipped_steps"] = int(self._clipped)
            self._clipped = 0
        super().log(logs, *args, **kwargs)

    def use_trunk(self, trunk: KeptTrunk, sequences: NDArray[np.int64]) -> None:
        """Start from the kept hidden states of the sequences that will be trained on."""
        self.trunk = trunk
        with self.args.main_process_first(desc="trunk"):
            trunk.keep([self._text(s) for s in np.unique(sequences)])
            trunk.flush()

    def _text(self, sequence: int) -> Text:
        return text_of(self.model, self.data.tokens(sequence))

    def _collated(self, sequences: Any) -> dict[str, Tensor]:
        batch = collate(self.data, sequences, self.pad_id)
        if self.trunk is not None:
            batch["states"] = self.trunk.batch([self._text(s) for s in sequences], batch["input_ids"].shape[1])
        return batch

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The configured loss over the target tokens, divided by the constant."""
        below = nullcontext() if self.trunk is None else self.trunk.given(inputs["states"])
        with below:
            logits, outputs = logits_at(model, inputs["positions"], self._given(inputs), head_of=self.model)
        loss = training_loss(
            self.loss_config,
            logits,
            inputs["targets"],
            inputs["weights"],
            step=self.state.global_step,
            soft_ids=inputs.get("soft_ids"),
            soft_logprob=inputs.get("soft_logprob"),
        )
        loss = loss / self.divisor
        return (loss, outputs) if return_outputs else loss

    def _given(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """Inputs of the model; positions only where their scaling depends on each sequence's own length."""
        given: dict[str, Any] = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        if self.by_own_length:
            given["position_ids"] = positions_of(inputs["attention_mask"])
        return given

    def training_step(self, model: Any, inputs: dict[str, Tensor], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass; on the CPU, where looking costs nothing, every loss is checked."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if loss.device.type == "cpu":
            self.check_finite(float(loss), self.state.global_step + 1)
        return loss

    def check_finite(self, loss: float, step: int) -> None:
        """Stop with an explanation where the loss is NaN or infinite."""
        if math.isfinite(loss):
            return
        rate = self._get_learning_rate()
        raise RunFailedError(
            f"The training loss of {self.tag} became {loss} at step {step} of {self.args.max_steps} "
            f"(learning rate {rate:.3g}).",
            hint="Try a smaller learning_rate, more warmup, a smaller max_grad_norm, or dtype: float32.",
        )

    def floating_point_ops(self, inputs: dict[str, Tensor]) -> int:
        """Not counted: nobody reads it, and counting parameters takes longer than a small model's step."""
        return 0

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        """The order is in the data set already."""
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Passes losses and progress on, and marks complete checkpoints."""

    def __init__(self, sink: EventSink, tag: str, tokens: NDArray[np.int64], identity: str) -> None:
        self.sink = sink
        self.tag = tag
        self.tokens = tokens
        self.identity = identity
        self.check: Callable[[float, int], None] = lambda _loss, _step: None
        self.loss = math.nan
        self.clipped = 0
        self._last = (0, 0.0)
        self._shown = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock, at the step that a resumed training starts from."""
        self._last = (state.global_step, time.perf_counter())
        for entry in state.log_history:
            self.loss = entry.get("loss", self.loss)
            self.clipped += entry.get("clipped_steps", 0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report progress, at most ten times a second, and have the last step and every checkpoint logged.

        A logged loss is the mean since the one before; a checkpoint inside such a window would split it.
        """
        step, steps = state.global_step, state.max_steps
        last = step == steps or control.should_training_stop
        if last:
            control.should_save = False
        if control.should_save or last:
            control.should_log = True
        now = time.perf_counter()
        if state.is_world_process_zero and (last or now - self._shown >= 0.1):
            self._shown = now
            self.sink.progress(self.tag, step, steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Report the mean loss since the last report."""
        if "loss" not in logs:
            return
        step, now = state.global_step, time.perf_counter()
        before, then = self._last
        self._last = (step, now)
        self.loss = logs["loss"]
        self.clipped += int(logs["clipped_steps"])
        self.check(self.loss, step)
        if state.is_world_process_zero:
            self.sink.metric(
                "train",
                tag=self.tag,
                step=step,
                steps=state.max_steps,
                loss=self.loss,
                learning_rate=logs["learning_rate"],
                grad_norm=logs.get("grad_norm"),
                clipped=logs["clipped_steps"] / max(step - before, 1),
                tokens_per_second=float(self.tokens[step] - self.tokens[before]) / max(now - then, 1e-9),
            )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as complete; one without the mark was cut off while it was written."""
        args.distributed_state.wait_for_everyone()  # every process writes files of its own
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        files = checksums_below(folder, without=(MARKER,))
        write_json(folder / MARKER, sealed({"identity": self.identity, "step": state.global_step, "files": files}))


def last_checkpoint(folder: Path, identity: str, sink: EventSink) -> Path | None:
    """The newest complete and undamaged checkpoint of the same fine-tuning in a trainer's folder, or None.

    Damaged ones are named to the sink.
    """
    found: list[tuple[int, Path]] = []
    for marker in folder.glob(f"checkpoint-*/{MARKER}"):
        try:
            content = read_sealed(marker) or {}
            if content.get("identity") != identity or "files" not in content:
                continue
            for problem in problems(marker.parent, content["files"], without=(MARKER,)):
                raise problem
            found.append((int(content["step"]), marker.parent))
        except DamagedError as error:
            text = f"The checkpoint {marker.parent.name} is not used: {error.path.name} is damaged ({error.why})."
            sink.event("message", level="warning", text=text)
    return max(found)[1] if found else None
