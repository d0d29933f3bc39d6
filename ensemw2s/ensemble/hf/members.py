"""The models inside :class:`~ensemw2s.ensemble.hf.causal_lm.EnsembleForCausalLM`: made, loaded and saved.

Either every expert is a whole model, or all are LoRA adapters over one base that is in memory, and on disk, once.
"""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from ensemw2s.ensemble.folder import BASE, EXPERTS, expert_folder
from ensemw2s.ensemble.hf.config import EnsembleConfig
from ensemw2s.models.inference.reading import Reading
from ensemw2s.models.loading.adapters import AdapterView
from ensemw2s.models.loading.load import check_configuration, declared_ends, no_pickles
from ensemw2s.models.loading.quiet import quiet_transformers


def modules_of(members: Sequence[Any]) -> list[nn.Module]:
    """The modules that hold the weights: the members themselves, or what the adapters share.

    Raises:
        ValueError: adapters are mixed with whole models, or have several bases.
    """
    shared = {id(member.shared): member.shared for member in members if isinstance(member, AdapterView)}
    if not shared:
        return list(members)
    if len(shared) > 1 or not all(isinstance(member, AdapterView) for member in members):
        raise ValueError("experts are either all whole models, or all adapters over one base; merge the adapters")
    return list(shared.values())


def accepted(member: Any) -> frozenset[str]:
    """Names that the model's ``forward`` takes."""
    base = member.get_base_model() if hasattr(member, "get_base_model") else member
    return frozenset(inspect.signature(base.forward).parameters)


def is_read_by_row(reading: Reading, mask: Tensor | None) -> bool:
    """Whether padding, or the other rows, would change the logits of a row."""
    if reading.cached or (mask is not None and mask.ndim != 2):
        return False
    return not reading.together or (mask is not None and bool((mask == 0).any()))


def logits_by_row(member: Any, inputs: dict[str, Any]) -> Tensor:
    """Logits ``[B, L, V]`` of an expert that reads the tokens of each row by themselves; 0 at padding.

    ``inputs`` are ``input_ids`` int64 ``[B, L]``, ``attention_mask`` ``[B, L]`` or None, and ``logits_to_keep``.
    """
    ids, mask, keep = inputs["input_ids"], inputs["attention_mask"], inputs["logits_to_keep"]
    reals = [slice(None) if mask is None else mask[row] != 0 for row in range(len(ids))]
    given = {"use_cache": False} if "use_cache" in accepted(member) else {}
    found = [member(input_ids=ids[row : row + 1, real], **given).logits[0] for row, real in enumerate(reals)]
    out: Tensor = found[0].new_zeros((*ids.shape, found[0].shape[-1]))
    for row, real in enumerate(reals):
        out[row, real] = found[row]
    return out[:, slice(-keep, None) if isinstance(keep, int) else keep]


def generation_of(experts: Sequence[Any]) -> GenerationConfig:
    """The first expert's own way of generating, for the ensemble; what ends a text for any expert ends it."""
    settings = experts[0].generation_config.to_dict()
    settings.pop("_from_model_config", None)
    ends = declared_ends(*(part for expert in experts for part in (expert.config, expert.generation_config)))
    return GenerationConfig.from_dict(settings | {"eos_token_id": ends or None})


def batchable(members: Sequence[Any]) -> bool:
    """Whether the members are adapters that ``peft`` runs as one batch: plain LoRA, more than one."""
    if len(members) < 2 or not all(isinstance(member, AdapterView) for member in members):
        return False
    settings = [member.shared.peft_config[member.name] for member in members]
    special = ("use_dora", "modules_to_save", "trainable_token_indices", "alora_invocation_tokens", "layer_replication")
    plain = all(s.peft_type == "LORA" and s.bias == "none" for s in settings)
    return plain and not any(getattr(s, name, None) for s in settings for name in special)


def describe(members: Sequence[Any]) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """``base`` and ``experts`` of :class:`EnsembleConfig`."""
    modules_of(members)
    if not isinstance(members[0], AdapterView):
        return None, [config_dict(member.config) for member in members]
    settings = [member.shared.peft_config[member.name] for member in members]
    return config_dict(members[0].get_base_model().config), [adapter_dict(each) for each in settings]


def config_dict(config: Any) -> dict[str, Any]:
    """A model's configuration as plain JSON, without where it came from."""
    out: dict[str, Any] = config.to_diff_dict()
    out.pop("_name_or_path", None)
    out.pop("quantization_config", None)
    return out


def adapter_dict(config: Any) -> dict[str, Any]:
    """An adapter's configuration beyond its defaults as plain JSON; its base is that of the folder."""

    def plain(settings: Any) -> dict[str, Any]:
        return {key: sorted(value) if isinstance(value, set) else value for key, value in settings.to_dict().items()}

    usual = plain(type(config)())
    out = {key: value for key, value in plain(config).items() if key == "peft_type" or value != usual[key]}
    return out | {"base_model_name_or_path": f"../../{BASE}", "inference_mode": True}


def build(config: EnsembleConfig) -> list[Any]:
    """Experts with new weights."""
    if not config.experts:
        raise ValueError("the configuration names no experts")

    def model_of(content: dict[str, Any]) -> Any:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**content))

    if config.base is None:
        return [model_of(dict(expert)) for expert in config.experts]
    import peft

    shared: Any = None
    for k, expert in enumerate(config.experts):
        settings = peft.PeftConfig.from_peft_type(**expert)
        settings.base_model_name_or_path = None  # the base is made here
        with quiet_transformers():
            if shared is None:
                shared = peft.get_peft_model(model_of(dict(config.base)), settings, adapter_name=_adapter_name(k))
            else:
                shared.add_adapter(_adapter_name(k), settings)
    return [AdapterView(shared, _adapter_name(k)) for k in range(len(config.experts))]


def load(
    name: str | os.PathLike[str], config: EnsembleConfig, folder: str, where: dict[str, Any], options: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Experts from the subfolder ``folder`` of ``name`` (a folder or ``owner/name``), and what loading them reported.

    ``where`` are options of the hub, ``options`` other arguments of ``from_pretrained``.
    """
    found: dict[str, Any] = {}

    def model_in(part: str) -> Any:
        place = f"{folder}/{part}" if folder else part
        trusted = bool(options.get("trust_remote_code", False))
        own = AutoConfig.from_pretrained(name, subfolder=place, trust_remote_code=trusted, **where)
        check_configuration(own, f"{name}/{place}", trusted=trusted)
        with no_pickles():
            model, info = AutoModelForCausalLM.from_pretrained(
                name, subfolder=place, output_loading_info=True, **{"use_safetensors": True, **where, **options}
            )
        for key, values in info.items():
            entries = [f"{part}: {value}" for value in values] if isinstance(values, list | set | tuple) else []
            found.setdefault(key, []).extend(entries)
        return model

    count = len(config.experts or [])
    if config.base is None:
        return [model_in(expert_folder(k)) for k in range(count)], found
    from peft import PeftModel

    shared: Any = model_in(BASE)
    for k in range(count):
        place = {"adapter_name": _adapter_name(k), "subfolder": "/".join(filter(None, (folder, expert_folder(k))))}
        with quiet_transformers(), no_pickles():
            if isinstance(shared, PeftModel):
                shared.load_adapter(str(name), **place, **where)
            else:
                shared = PeftModel.from_pretrained(shared, str(name), **place, **where)
    return [AdapterView(shared.eval(), _adapter_name(k)) for k in range(count)], found


def save(members: Sequence[Any], folder: Path, state_dict: dict[str, Tensor] | None, max_shard_size: int | str) -> None:
    """Write every expert's folder, or the base's and the adapters'; those of another ensemble are removed."""
    for part in (EXPERTS, BASE):
        shutil.rmtree(folder / part, ignore_errors=True)
    modules_of(members)

    def weights(k: int) -> dict[str, Tensor] | None:
        if state_dict is None:
            return None
        prefix = f"experts.{k}."
        return {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}

    with quiet_transformers():
        if isinstance(members[0], AdapterView):
            _save_adapters(members, folder, weights(0), max_shard_size)
            return
        for k, member in enumerate(members):
            member.save_pretrained(folder / expert_folder(k), state_dict=weights(k), max_shard_size=max_shard_size)


def _save_adapters(
    members: Sequence[AdapterView], folder: Path, state_dict: dict[str, Tensor] | None, max_shard_size: int | str
) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    shared: Any = members[0].shared
    _save_base(shared, folder / BASE, state_dict, max_shard_size)
    for k, member in enumerate(members):
        target = folder / expert_folder(k)
        target.mkdir(parents=True)
        weights = get_peft_model_state_dict(
            shared, state_dict=state_dict, adapter_name=member.name, save_embedding_layers=False
        )
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in weights.items()},
            target / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
        settings = type(shared.peft_config[member.name])(**adapter_dict(shared.peft_config[member.name]))
        settings.save_pretrained(str(target))


def _save_base(shared: Any, folder: Path, state_dict: dict[str, Tensor] | None, max_shard_size: int | str) -> None:
    """Write the base under adapters as the model that it was before them."""
    base: Any = shared.get_base_model()
    if state_dict is None:
        content = base.state_dict()
    else:
        prefix = "base_model.model."
        content = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    plain = {
        key.replace(".base_layer.", ".").replace(".original_module.", "."): value
        for key, value in content.items()
        if not any(part in key for part in (".lora_", ".modules_to_save."))
    }
    base.save_pretrained(folder, state_dict=plain, max_shard_size=max_shard_size)


def _adapter_name(k: int) -> str:
    return f"expert-{k + 1:02d}"
