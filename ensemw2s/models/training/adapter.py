"""New low-rank adapters over a base, in all its layers or in the last ones."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from ensemw2s.config.training import LoraConfig
from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.models.loading.layers import decoder_layers, untouched_layers
from ensemw2s.models.loading.scaling import base_of_adapters


def forbidden_layers(model: Any) -> list[str]:
    """Names of linear layers that PEFT gives no LoRA adapter: fast paths read their weights past it."""
    import peft

    settings = peft.LoraConfig(task_type="CAUSAL_LM")
    names = {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}

    def is_forbidden(name: str) -> bool:
        try:
            peft.LoraModel._check_target_module_compatiblity(None, settings, model, name)
        except ValueError:
            return True
        return False

    return sorted(filter(is_forbidden, names))


def with_adapter(model: Any, lora: LoraConfig, left_out: list[str], revision: str | None, seed: int) -> Any:
    """A base with a new adapter, whose weights the seed decides.

    With ``last_layers`` everything below those layers is frozen, and read without dropout and without gradients.

    Args:
        model: the base.
        lora: the settings.
        left_out: names of modules that get no adapter.
        revision: the base's commit on the hub, which the adapter remembers.
        seed: 31 bits.

    Raises:
        ConfigError: the base has no such modules, or not so many layers.
    """
    import peft

    torch.manual_seed(seed)
    settings = {
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": lora.target_modules,
        "exclude_modules": left_out or None,
        "task_type": "CAUSAL_LM",
    }
    if lora.last_layers is not None:
        settings |= _in_last_layers(model, lora, lora.last_layers)
    try:
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**settings))
    except ValueError as error:
        raise ConfigError(
            f"training.lora: {error}",
            hint="Set target_modules to all-linear, or to names of the model's linear layers.",
        ) from error
    wrapped.peft_config["default"].revision = revision
    if lora.last_layers is not None:
        _freeze_below(wrapped, lora.last_layers)
    return wrapped


def _in_last_layers(model: Any, lora: LoraConfig, count: int) -> dict[str, Any]:
    """PEFT's settings for adapters in the last ``count`` layers alone."""
    found = decoder_layers(model)
    if found is None:
        raise ConfigError(
            f"training.lora.last_layers: {type(model).__name__} has no list of layers.", hint="Leave last_layers out."
        )
    name, layers = found
    if count > len(layers):
        raise ConfigError(
            f"training.lora.last_layers is {count}, but the model has {len(layers)} layers.",
            hint=f"Use at most {len(layers)}, or null for all.",
        )
    return {
        "target_modules": _linear_in(layers[-count:]) if lora.all_linear else lora.target_modules,
        "layers_to_transform": list(range(len(layers) - count, len(layers))),
        "layers_pattern": [name.rpartition(".")[2]],
    }


def _linear_in(layers: Any) -> list[str]:
    """Endings of the names of all linear modules in some layers; a number alone would not tell one module."""
    from transformers.pytorch_utils import Conv1D

    endings = set()
    for name, part in layers.named_modules():
        if isinstance(part, torch.nn.Linear | Conv1D):
            above, _, last = name.rpartition(".")
            endings.add(f"{above.rpartition('.')[2]}.{last}" if last.isdigit() else last)
    return sorted(endings)


def _freeze_below(model: Any, count: int) -> None:
    """Let what is below the last ``count`` layers stay as it is when the model is set to training."""
    found = decoder_layers(model)
    if found is None or untouched_layers(model) < len(found[1]) - count:
        raise ModelError("PEFT put adapters below the last layers of this model.", hint="Leave last_layers out.")
    if hasattr(model, "disable_input_require_grads"):
        model.disable_input_require_grads()  # with gradient checkpointing PEFT has gradients flow down to the input
    last = {part for layer in found[1][-count:] for part in layer.modules()}
    for part in base_of_adapters(model).modules():
        if part not in last:  # those above too: their own code may drop something of the embeddings, or a layer
            part.training = False
            part.train = partial(_pass_on, part)


def _pass_on(part: Any, mode: bool = True) -> Any:
    """``torch.nn.Module.train``, which leaves the module itself as it is."""
    for child in part.children():
        child.train(mode)
    return part


def go_on(model: Any, start: Path) -> None:
    """Give a new adapter the weights of an earlier one.

    Raises:
        ModelError: they do not fit it.
    """
    import peft
    from safetensors.torch import load_file

    weights = load_file(start / "adapter_model.safetensors")
    found = peft.set_peft_model_state_dict(model, weights)
    if found.unexpected_keys or set(peft.get_peft_model_state_dict(model)) != weights.keys():
        raise ModelError(f"{start} is an adapter of another model or with other settings.")
