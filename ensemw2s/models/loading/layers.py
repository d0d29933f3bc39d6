"""Truncated models: a configuration with the first layers only."""

from __future__ import annotations

import copy
from typing import Any

from ensemw2s.errors import ModelError


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
