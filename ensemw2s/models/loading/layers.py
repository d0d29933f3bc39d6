"""A model's layers: the first ones alone, and those that adapters leave as they are."""

from __future__ import annotations

import copy
from typing import Any

from ensemw2s.errors import ModelError
from ensemw2s.models.loading.scaling import base_of_adapters


def first_layers(config: Any, count: int, name: str) -> Any:
    """A copy of a ``transformers`` configuration with ``count`` layers; ``name`` is what errors call the model.

    ``from_pretrained`` with it leaves the weights of the other layers in their file; embeddings, final norm and head
    stay. A configuration that has ``count`` layers already comes back as it is.

    Raises:
        ModelError: the model has fewer layers, or its configuration does not say how many it has.
    """
    have = getattr(config.get_text_config(), "num_hidden_layers", None)
    if not isinstance(have, int):
        raise ModelError(f"keep_layers: the configuration of {name} has no number of layers.", hint="Leave it out.")
    if count > have:
        raise ModelError(f"keep_layers is {count}, but {name} has {have} layers.", hint=f"Use at most {have}.")
    if count == have:
        return config
    shorter = copy.deepcopy(config)
    text = shorter.get_text_config()
    for key, value in list(vars(text).items()):  # one entry a layer, such as layer_types
        if isinstance(value, list | tuple) and len(value) == have:
            setattr(text, key, value[:count])
    text.num_hidden_layers = count
    try:
        again = type(shorter).from_dict(shorter.to_dict())
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"keep_layers does not work for {config.model_type}, which {name} is: {error}") from error
    if again.get_text_config().num_hidden_layers != count:
        raise ModelError(f"keep_layers does not work for {config.model_type}, which {name} is.", hint="Leave it out.")
    return shorter


def decoder_layers(model: Any) -> tuple[str, Any] | None:
    """A causal language model's list of layers and its name in the model under the adapters; None where it has none.

    Of several lists with one entry a layer it is the one with the most parameters.
    """
    import torch

    base = base_of_adapters(model)
    count = getattr(base.config.get_text_config(decoder=True), "num_hidden_layers", None)
    lists = [
        (name, part)
        for name, part in base.named_modules()
        if isinstance(part, torch.nn.ModuleList) and len(part) == count
    ]
    return max(lists, key=lambda found: sum(p.numel() for p in found[1].parameters()), default=None)


def untouched_layers(model: Any) -> int:
    """Number of first layers that are the base's own: all adapters are in later ones, or at the output projection.

    0 for a model without adapters, or with any that change what enters the layers.
    """
    if not hasattr(model, "get_base_model"):
        return 0
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    found, base = decoder_layers(model), base_of_adapters(model)
    parts = {name: m for name, m in base.named_modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)}
    if found is None or not parts or any(config.is_prompt_learning for config in model.peft_config.values()):
        return 0
    head, untouched = base.get_output_embeddings(), len(found[1])
    for name, part in parts.items():
        if name.startswith(f"{found[0]}."):
            untouched = min(untouched, int(name.removeprefix(f"{found[0]}.").partition(".")[0]))
        elif part is not head:
            return 0
    return untouched
