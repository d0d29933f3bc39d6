"""Several LoRA adapters over one base in memory: K experts cost one base and K adapters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.models.loading.device import memory_freed, resolve_device
from ensemw2s.models.loading.errors import explain_loading
from ensemw2s.models.loading.gguf import opened_source
from ensemw2s.models.loading.load import LoadedModel, load_model, load_tokenizer, no_pickles
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.models.loading.source import base_of, check_adapter

if TYPE_CHECKING:
    from peft import PeftModel


class AdapterView:
    """One adapter of a base that several share, called like a model of its own.

    A call makes its adapter the active one first; views of one base are used in turn, not by several threads at once.
    Everything else (``config``, ``parameters()``, …) is the shared model's.
    """

    def __init__(self, model: PeftModel, name: str) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        self.shared = model
        self.name = name
        self._layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
        self._others = [module for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The shared model's output with this adapter."""
        self.activate()
        return self.shared(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "shared" or name.startswith("__"):  # unset while the object is copied
            raise AttributeError(name)
        return getattr(self.shared, name)

    def activate(self) -> None:
        """Let the shared model compute with this adapter."""
        if self._layers and self._layers[-1].active_adapters == [self.name]:
            return
        for layer in self._layers:
            # What set_adapter does, less its walk over all weights: they record no gradient, whichever is active. On 30
            # layers that walk takes a tenth of the time of reading a token.
            layer._active_adapter = [self.name]
        for module in self._others:
            module.set_adapter(self.name, inference_mode=True)


def load_models(configs: Sequence[ModelConfig], device: torch.device | str = "cpu") -> list[LoadedModel]:
    """Load several models; adapters of the same base share one copy of it, as :class:`AdapterView`.

    Raises:
        ModelError: as :func:`~ensemw2s.models.loading.load.load_model`.
    """
    bases: dict[str, LoadedModel] = {}
    out: list[LoadedModel] = []
    for cfg, key in zip(configs, map(_base_key, configs), strict=True):
        if key is None:
            out.append(load_model(cfg, device))
            continue
        if key not in bases:
            bases[key] = load_model(cfg, device)
            out.append(_view(bases[key], cfg, "default"))
            continue
        out.append(_view(bases[key], cfg, f"adapter-{len(out) + 1}"))
    return out


@contextlib.contextmanager
def opened_models(configs: Sequence[ModelConfig], compute: ComputeConfig) -> Iterator[list[LoadedModel]]:
    """Hold several models in memory for as long as the block lasts: joint scoring and decoding need that.

    Raises:
        ModelError: as :func:`load_models`.
    """
    device = resolve_device(compute)
    with memory_freed(device):
        models = load_models(configs, device)
        try:
            yield models
        finally:
            models.clear()


def _base_key(cfg: ModelConfig) -> str | None:
    """Key that models which share a base have in common; None for a model that is no adapter."""
    source = opened_source(cfg.path)
    return base_of(cfg, source).model_dump_json() if source.is_adapter else None


def _view(first: LoadedModel, cfg: ModelConfig, name: str) -> LoadedModel:
    """The adapter ``cfg`` over the base that ``first`` already holds."""
    model: Any = first.model
    if name not in model.peft_config:
        source = opened_source(cfg.path)
        check_adapter(source)
        with quiet_transformers(), no_pickles(), explain_loading(source, "adapter"):
            model.load_adapter(source.target, adapter_name=name, torch_device=str(first.device))
        model.eval()
    view: Any = AdapterView(model, name)
    return replace(first, model=view, source=cfg.path, tokenizer=load_tokenizer(cfg))
