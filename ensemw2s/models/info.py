"""What is known about a model from its configuration alone: nothing of its weights is read."""

from __future__ import annotations

from typing import Any

from ensemw2s.config.training import ModelConfig
from ensemw2s.models.load import explain_loading
from ensemw2s.models.quiet import quiet_transformers
from ensemw2s.models.source import adapter_base, find_source


def _configuration(cfg: ModelConfig) -> Any:
    from transformers import AutoConfig

    source = find_source(cfg.path)
    if source.is_adapter:
        return _configuration(adapter_base(source))
    with quiet_transformers(), explain_loading(source, "configuration"):
        return AutoConfig.from_pretrained(source.target, revision=cfg.revision, trust_remote_code=cfg.trust_remote_code)


def configured_context_length(cfg: ModelConfig) -> int | None:
    """Largest number of tokens that the model was made for; None where its configuration does not say.

    Raises:
        ModelError: the configuration cannot be loaded.
    """
    limit = getattr(_configuration(cfg).get_text_config(), "max_position_embeddings", None)
    return None if limit is None else int(limit)


def parameter_count(cfg: ModelConfig) -> int:
    """Number of parameters of the architecture, tied weights counted once.

    Raises:
        ModelError: the configuration cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_transformers(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_configuration(cfg), trust_remote_code=cfg.trust_remote_code)
        model.tie_weights()
    return sum(p.numel() for p in model.parameters())
