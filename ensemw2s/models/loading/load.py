"""Loading causal language models and their tokenizers, with errors that say what to do."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ensemw2s.config.training import ModelConfig
from ensemw2s.errors import ModelError, shortened
from ensemw2s.models.loading.device import is_out_of_memory, usable_device
from ensemw2s.models.loading.errors import explain_loading
from ensemw2s.models.loading.fingerprint import pinned
from ensemw2s.models.loading.folder_checks import check_model_folder, check_quantization
from ensemw2s.models.loading.gguf import opened_source
from ensemw2s.models.loading.layers import first_layers
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.models.loading.source import MAX_LAYERS, ModelSource, base_of, check_adapter, is_built_in_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model in memory, in evaluation mode."""

    model: PreTrainedModel
    """The model, or a ``peft.PeftModel`` over its base for an adapter folder."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer; it has an end-of-sequence token, and perhaps no padding token (see :func:`padding_id`)."""
    source: str
    """``path`` as configured."""
    revision: str | None
    """Commit on the hub; None for a local folder."""
    parameters: int
    """Number of parameters, adapters included, tied weights counted once."""
    dtype: str
    """Data type of the weights."""
    attn_implementation: str
    """The attention implementation in use."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = next(iter(self.model.parameters())).device
        return device

    @property
    def eos_id(self) -> int:
        """The end-of-sequence token that is trained and scored."""
        return int(self.tokenizer.eos_token_id)

    @property
    def end_ids(self) -> list[int]:
        """All tokens that end an answer: :attr:`eos_id`, and what the model's own settings declare besides."""
        declared = declared_ends(self.model.config, getattr(self.model, "generation_config", None))
        size = self.model.get_input_embeddings().weight.shape[0]
        return list(dict.fromkeys([self.eos_id, *(i for i in declared if 0 <= i < size)]))

    @property
    def pad_id(self) -> int:
        """The token that fills masked positions."""
        return padding_id(self.tokenizer)


def declared_ends(*settings: Any) -> list[int]:
    """Tokens that end a text by the ``eos_token_id``, one or a list, of model and generation configurations."""
    found: list[int] = []
    for part in settings:
        text = part.get_text_config() if hasattr(part, "get_text_config") else part
        for source in (part, text):
            ids = getattr(source, "eos_token_id", None)
            found += [int(i) for i in (ids if isinstance(ids, list | tuple) else [ids]) if i is not None]
    return list(dict.fromkeys(found))


def all_ends(models: Sequence[LoadedModel]) -> NDArray[np.int64]:
    """The tokens, each once, that end an answer by any of some models of one vocabulary."""
    return np.unique([end for loaded in models for end in loaded.end_ids]).astype(np.int64)


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding token, or the end-of-sequence token where there is none (padding is always masked)."""
    pad = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if pad is None else pad)


def load_tokenizer(cfg: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; for an adapter folder without one, its base's.

    Raises:
        ModelError: it is missing, cannot be loaded, or has no end-of-sequence token.
    """
    source = opened_source(cfg.path)
    if not source.has_tokenizer:
        if source.is_adapter:
            return load_tokenizer(base_of(cfg, source))
        if source.ensemble is not None:
            return load_tokenizer(cfg.model_copy(update={"path": str(source.ensemble), "revision": None}))
        raise ModelError(
            f"The folder {cfg.path} holds no tokenizer.",
            hint="Save it beside the model: tokenizer.save_pretrained(folder).",
        )
    from transformers import AutoTokenizer

    check_model_folder(source)
    with quiet_transformers(), explain_loading(source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            source.target, revision=cfg.revision, trust_remote_code=cfg.trust_remote_code
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of {cfg.path} has no end-of-sequence token, so answers would have no end.",
            hint="Set eos_token in its tokenizer_config.json.",
        )
    return tokenizer


def load_model(cfg: ModelConfig, device: torch.device | str = "cpu") -> LoadedModel:
    """Load a model and its tokenizer from whatever ``cfg.path`` names.

    Weights are read from safetensors and GGUF only.

    Raises:
        ModelError: the model is missing, not a causal language model, incomplete, does not fit its tokenizer, or the
            hub cannot be reached; the message says which and what to do.
    """
    cfg = pinned(cfg)  # so that all its files are of one commit
    source = opened_source(cfg.path)
    tokenizer = load_tokenizer(cfg)
    with quiet_transformers(), _memory_explained(cfg.path, device), no_pickles():
        if source.is_adapter:
            model = _load_adapter(_load_base(base_of(cfg, source), device), source)
        else:
            model = _load_base(cfg, device)
        if not _placed(cfg):
            model.to(device)
    _check_vocabulary(model, tokenizer, cfg.path)
    return LoadedModel(
        model=model.eval(),
        tokenizer=tokenizer,
        source=cfg.path,
        revision=cfg.revision if source.folder is None else None,
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=cfg.dtype,
        attn_implementation=str(getattr(model.config, "_attn_implementation", None) or "default"),
    )


@contextlib.contextmanager
def _memory_explained(name: str, device: torch.device | str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"{name} does not fit into the memory of {device}.", hint="Set dtype: bfloat16, or device_map: auto."
        ) from error


def _placed(cfg: ModelConfig) -> bool:
    """Whether loading puts the weights where they belong, so that they must not be moved."""
    return cfg.device_map is not None or cfg.quantization is not None


_MAPS = ("auto", "balanced", "balanced_low_0", "sequential", "disk")


def _placement(cfg: ModelConfig, device: torch.device | str) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that say where the weights go and in how many bits."""
    if not _placed(cfg):
        return {}
    places = cfg.device_map.values() if isinstance(cfg.device_map, dict) else [cfg.device_map]
    for place in places:
        if place is not None and place not in _MAPS:
            usable_device(f"cuda:{place}" if isinstance(place, int) else place, "device_map")
    where: dict[str, Any] = {"device_map": {"": str(device)} if cfg.device_map is None else cfg.device_map}
    if cfg.quantization is not None:
        where["quantization_config"] = _quantization(cfg)
    return where


def _quantization(cfg: ModelConfig) -> Any:
    """The ``transformers`` setting for ``cfg.quantization``; 4 bits are NF4, computed in ``cfg.dtype``.

    Raises:
        ModelError: ``bitsandbytes`` is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"quantization: {cfg.quantization} needs the Python package bitsandbytes, which is not installed.",
            hint="Install it: pip install 'ensemw2s[quantization]', or leave quantization out.",
        )
    from transformers import BitsAndBytesConfig

    if cfg.quantization == "8bit":
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of the cast of float32 at every product
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, cfg.dtype)
    )


def _load_base(cfg: ModelConfig, device: torch.device | str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    source = opened_source(cfg.path)
    common = {"revision": cfg.revision, "trust_remote_code": cfg.trust_remote_code}
    check_model_folder(source)
    with explain_loading(source, "configuration"):
        config = AutoConfig.from_pretrained(source.target, **common)
    check_configuration(config, source.name, trusted=cfg.trust_remote_code)
    _check_causal(config, source)
    if cfg.keep_layers is not None:
        config = first_layers(config, cfg.keep_layers, source.name)
    placement = _placement(cfg, device)
    with explain_loading(source, "weights"):
        model, info = AutoModelForCausalLM.from_pretrained(
            source.target,
            config=config,
            dtype=getattr(torch, cfg.dtype),
            attn_implementation=cfg.attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
            **placement,
            **common,
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"The weights of {cfg.path} are incomplete: {len(missing)} are missing, for example {missing[0]}.",
            hint="Fetch or save the model again.",
        )
    return model


def _load_adapter(base: Any, source: ModelSource) -> Any:
    from peft import PeftModel

    check_adapter(source)
    with explain_loading(source, "adapter"):
        return PeftModel.from_pretrained(base, source.target)


def check_configuration(config: Any, name: str, *, trusted: bool) -> None:
    """Refuse what a ``config.json`` may not decide, and sizes that would fill the memory.

    ``trusted``: code that comes with the model may be run.

    Raises:
        ModelError: it names a pickle as weights, an implementation that would be fetched, an unknown quantization
            method, or no possible size.
    """
    weights = getattr(config, "transformers_weights", None)
    if weights is not None and not str(weights).endswith((".safetensors", ".safetensors.index.json")):
        raise ModelError(
            f"The config.json of {name} names {shortened(str(weights))!r} as its weights.",
            hint="Weights are read from .safetensors files only; save the model again with save_pretrained.",
        )
    parts = [config, *(getattr(config, part, None) for part in getattr(config, "sub_configs", None) or {})]
    for part in parts:
        check_quantization(part, name)
        for key in ("_attn_implementation", "_experts_implementation"):
            chosen = getattr(part, key, None)
            if not trusted and not is_built_in_attention(chosen) and chosen not in _BUILT_IN_EXPERTS:
                raise ModelError(
                    f"The config.json of {name} asks for {key[1:]} {shortened(repr(chosen))}, code that would be "
                    "fetched and run.",
                    hint="If you trust its authors, allow it: trust_remote_code: true, for an ensemble "
                    "--trust-remote-code.",
                )
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if layers is not None and not (type(layers) is int and 1 <= layers <= MAX_LAYERS):
        raise ModelError(f"The config.json of {name} has {shortened(repr(layers))} layers.", hint="Is it damaged?")


_BUILT_IN_EXPERTS = ("grouped_mm", "batched_mm")


@contextlib.contextmanager
def no_pickles() -> Iterator[None]:
    """Weights come from safetensors alone: ``transformers`` and ``peft`` fall back to pickles, and here cannot."""

    def refused(file: Any, *_: Any, **__: Any) -> None:
        raise ModelError(
            f"{file} is a pickle, which is not read.",
            hint="Weights are read from .safetensors files only; save the model again with save_pretrained.",
        )

    kept: Any = torch.load
    torch.load = refused  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = kept


def _check_causal(config: Any, source: ModelSource) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return
    kinds = list(getattr(config, "architectures", None) or [])
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and (not kinds or any(kind in causal for kind in kinds)):
        return
    raise ModelError(
        f"{source.name} holds {kinds[0] if kinds else config.model_type}, which is not a causal language model.",
        hint="Choose a decoder model, for example of the Llama, Qwen, Gemma or GPT-2 families.",
    )


def _check_vocabulary(model: Any, tokenizer: Any, name: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise ModelError(
            f"The tokenizer of {name} has token {largest}, but the model has {rows} embeddings.",
            hint="Tokenizer and model do not belong together.",
        )
