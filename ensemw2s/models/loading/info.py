"""Parameters, context length and size of a model from its configuration alone; weights are not read."""

from __future__ import annotations

from typing import Any

from ensemw2s.config.training import ModelConfig
from ensemw2s.models.loading.errors import explain_loading
from ensemw2s.models.loading.gguf import opened_source
from ensemw2s.models.loading.layers import first_layers
from ensemw2s.models.loading.load import check_configuration
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.models.loading.scaling import context_of
from ensemw2s.models.loading.source import base_of


def configuration(cfg: ModelConfig) -> Any:
    """The ``transformers`` configuration of a model, with as many layers as are kept.

    Raises:
        ModelError: it cannot be loaded.
    """
    from transformers import AutoConfig

    source = opened_source(cfg.path)
    if source.is_adapter:
        return configuration(base_of(cfg, source))
    with quiet_transformers(), explain_loading(source, "configuration"):
        config = AutoConfig.from_pretrained(
            source.target, revision=cfg.revision, trust_remote_code=cfg.trust_remote_code
        )
    check_configuration(config, source.name, trusted=cfg.trust_remote_code)
    return config if cfg.keep_layers is None else first_layers(config, cfg.keep_layers, source.name)


def configured_context_length(cfg: ModelConfig) -> int | None:
    """Largest number of tokens that the model was made for; None where its configuration does not say.

    Raises:
        ModelError: the configuration cannot be loaded.
    """
    return context_of(configuration(cfg))


def layer_count(cfg: ModelConfig) -> int | None:
    """Number of layers; None where the model's configuration does not say.

    Raises:
        ModelError: the configuration cannot be loaded.
    """
    count = getattr(configuration(cfg).get_text_config(), "num_hidden_layers", None)
    return count if isinstance(count, int) else None


def parameter_count(cfg: ModelConfig) -> int:
    """Number of parameters of the architecture, tied weights counted once.

    Raises:
        ModelError: the configuration cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_transformers(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(configuration(cfg), trust_remote_code=cfg.trust_remote_code)
        model.tie_weights()
    return sum(p.numel() for p in model.parameters())


def weight_bytes(cfg: ModelConfig) -> int:
    """Memory that a model's weights take, in bytes, as :func:`parameter_count` knows them.

    Raises:
        ModelError: the configuration cannot be loaded.
    """
    bits = {"8bit": 8, "4bit": 4, None: {"float32": 32}.get(cfg.dtype, 16)}[cfg.quantization]
    return parameter_count(cfg) * bits // 8
