"""Early stopping of a fine-tuning by its agreement with held-out labels; importing this loads ``transformers``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from ensemw2s.models.loading.load import LoadedModel

_BEST = "best.safetensors"


@dataclass(frozen=True, slots=True)
class Watch:
    """When a fine-tuning is looked at, and what ends it.

    Attributes:
        every: optimiser steps from one look to the next.
        patience: looks in a row that are no better than the best before them, after which it ends; while nothing agrees
            yet, there is nothing to lose, and it goes on.
        agreement: how well a model agrees with held-out labels, in [0, 1]; it must not change the model.
        mark: fingerprint of what ``agreement`` depends on beside the model.
    """

    every: int
    patience: int
    agreement: Callable[[LoadedModel], float]
    mark: str

    def inputs(self) -> dict[str, Any]:
        """What the trained model depends on."""
        return {"every": self.every, "patience": self.patience, "held_out": self.mark}


class Stopper(TrainerCallback):  # type: ignore[misc]
    """Looks at the model, and remembers its best weights; without a watch it does nothing.

    The looks are in the trainer's log and the best weights in each of its checkpoints, so that an interrupted
    fine-tuning goes on with both.

    Args:
        watch: when to look.
        loaded: the model in training.
        checkpoint: what the fine-tuning goes on from, or None.
    """

    def __init__(self, watch: Watch | None, loaded: LoadedModel, checkpoint: Path | None) -> None:
        self.watch = watch
        self.loaded = loaded
        self.looks: dict[int, float] = {}
        """Agreement by optimiser step."""
        self.stopped = False
        self._best: dict[str, Tensor] = {}
        if checkpoint is not None and (checkpoint / _BEST).exists():
            from safetensors.torch import load_file

            self._best = load_file(checkpoint / _BEST)

    @property
    def best(self) -> int:
        """The step with the largest agreement; the first of equal ones."""
        return max(self.looks, key=self.looks.__getitem__)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Find the looks of an interrupted start."""
        self.looks = {entry["step"]: entry["agreement"] for entry in state.log_history if "agreement" in entry}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look, and end the training when patience is over."""
        step, watch = state.global_step, self.watch
        if watch is None or step % watch.every:
            return
        self.loaded.model.eval()
        self.looks[step] = watch.agreement(self.loaded)
        self.loaded.model.train()
        state.log_history.append({"step": step, "agreement": self.looks[step]})
        if self.best == step:
            self._best = {name: weight.detach().to("cpu", copy=True) for name, weight in self._trained().items()}
        elif self.looks[self.best] > 0.0 and sum(look > self.best for look in self.looks) >= watch.patience:
            self.stopped = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Put the best weights into the checkpoint."""
        if self._best:
            from safetensors.torch import save_file

            save_file(self._best, Path(args.output_dir) / f"checkpoint-{state.global_step}" / _BEST)

    @torch.no_grad()
    def settle(self) -> int | None:
        """Give a training that was ended its best weights back; their step, or None where it was not ended.

        One that was not keeps its last weights: it is the training without early stopping.
        """
        if not self.stopped:
            return None
        for name, weight in self._trained().items():
            weight.copy_(self._best[name])
        return self.best

    def _trained(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self.loaded.model.named_parameters() if weight.requires_grad}
