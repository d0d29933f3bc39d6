"""Saving an ensemble as one self-contained folder."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig

from ensemw2s.config.method import DecodingConfig
from ensemw2s.config.training import ModelConfig
from ensemw2s.ensemble.ensemble_json import saved_file, write_ensemble_json
from ensemw2s.ensemble.folder import (
    BASE,
    EXPERTS,
    FILE_NAME,
    TOKENIZER_FILES,
    SavedEnsemble,
    copy_model,
    expert_folder,
    measured,
)
from ensemw2s.ensemble.hf.config import EnsembleConfig
from ensemw2s.ensemble.hf.members import adapter_dict, config_dict
from ensemw2s.ensemble.saving.card import CardFacts, model_card
from ensemw2s.ensemble.spec import EnsembleSpec
from ensemw2s.errors import DataError, ModelError
from ensemw2s.evaluation.results import Results
from ensemw2s.files import write_json
from ensemw2s.models.loading.gguf import opened_source
from ensemw2s.models.loading.load import declared_ends, load_model, load_tokenizer
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.models.loading.source import adapter_base, base_of, find_source
from ensemw2s.outputs import check_output_folder

_RESULTS = "results.json"


def results_in(folder: Path | None) -> Results | None:
    """The results of the run that the ensemble comes from, if they are in its folder."""
    if folder is None or not (folder / _RESULTS).is_file():
        return None
    try:
        return Results.read(folder / _RESULTS)
    except DataError:  # written by another version: the ensemble is as good without
        return None


def save_ensemble(
    ensemble: EnsembleSpec, folder: Path, results: Results | None, title: str | None, address: str | None = None
) -> SavedEnsemble:
    """Write everything that an ensemble needs into one folder; see :meth:`Ensemble.save_pretrained`.

    ``address`` is the name by which others will load it; by default the folder's.
    """
    target = folder.expanduser()
    target = target.resolve() if target.is_symlink() else target
    own = [ensemble.folder] if ensemble.folder is not None and (ensemble.folder / "config.json").is_file() else []
    inputs = [*own, *(expert for expert in ensemble.experts if isinstance(expert, Path))]
    check_output_folder(target, inputs=inputs, ours=_is_saved, what="a saved ensemble and nothing else")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(ensemble, partial, results, title or target.name, address or target.name)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return measured(target)


#: What is in a saved ensemble besides the files of tokenizers, which have many names.
_SAVED = {"config.json", FILE_NAME, EXPERTS}
_MAY_BE_SAVED = {*_SAVED, BASE, "README.md", _RESULTS, "generation_config.json", "additional_chat_templates"}


def _is_saved(folder: Path) -> bool:
    names = {entry.name for entry in folder.iterdir()}
    others = (folder / name for name in names - _MAY_BE_SAVED - set(TOKENIZER_FILES))
    return names >= _SAVED and all(
        place.is_file() and place.suffix in (".json", ".model", ".jinja") for place in others
    )


def _write(ensemble: EnsembleSpec, folder: Path, results: Results | None, title: str, address: str) -> None:
    configs = [ensemble.model_config(k) for k in range(len(ensemble.experts))]
    adapters = _copy_experts(configs, folder)
    settings = ensemble.settings()
    # the copied experts are cut already, and whoever loads the folder decides about its code
    dropped = ("keep_layers", "trust_remote_code")
    settings["loading"] = {key: value for key, value in settings["loading"].items() if key not in dropped}
    write_ensemble_json(folder / FILE_NAME, saved_file(settings, ensemble.alphas, ensemble.config.rule))
    with quiet_transformers():
        tokenizer = _save_tokenizer(configs[0], folder)
        ends = _write_config(ensemble, folder, settings, adapters)
        _write_generation(ensemble.decoding, folder, tokenizer, ends)
    results = results or results_in(ensemble.folder)
    if results is not None:
        _without_local_paths(results).write(folder / _RESULTS)
    facts = CardFacts(
        title=title,
        address=address,
        alphas=ensemble.alphas,
        rule=ensemble.config.rule,
        length_norm=ensemble.config.length_norm,
        task=ensemble.task,
        prompt=ensemble.template.prompt,
        adapters=adapters,
        base=_hub_base(configs[0], results),
        saved=measured(folder),
    )
    (folder / "README.md").write_text(model_card(facts, results), encoding="utf-8")


def _copy_experts(configs: list[ModelConfig], folder: Path) -> bool:
    """Copy the experts' weights as they are; returns whether they are adapters over ``base/``."""
    sources = [opened_source(config.path) for config in configs]
    bases = {base_of(c, s).model_dump_json() if s.is_adapter else None for c, s in zip(configs, sources, strict=True)}
    if len(bases) > 1:
        raise ModelError(
            "The experts are adapters over different bases, which one folder cannot hold.",
            hint="Merge each adapter into its base first (peft: merge_and_unload).",
        )
    for k, source in enumerate(sources):
        if source.folder is None:
            raise ModelError(f"The expert {source.name} is not a local folder.")
        copy_model(source.folder, folder / expert_folder(k), tokenizer=False)
    if not sources[0].is_adapter:
        return False
    for k in range(len(sources)):
        file = folder / expert_folder(k) / "adapter_config.json"
        (file.parent / "base_model.json").unlink(missing_ok=True)  # the saved base has these layers only
        content = json.loads(file.read_text(encoding="utf-8"))
        write_json(file, content | {"base_model_name_or_path": f"../../{BASE}", "revision": None})
    _save_base(base_of(configs[0], sources[0]), folder / BASE)
    return True


def _save_base(base: ModelConfig, target: Path) -> None:
    source = opened_source(base.path)
    if source.folder is not None and base.keep_layers is None:
        copy_model(source.folder, target, tokenizer=False)
        return
    loaded = load_model(base.model_copy(update={"quantization": None, "device_map": None}))
    with quiet_transformers():
        loaded.model.save_pretrained(target)


def _save_tokenizer(config: ModelConfig, folder: Path) -> Any:
    """Save the experts' common tokenizer, ready for batches."""
    tokenizer: Any = load_tokenizer(config)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(folder)
    return tokenizer


def _write_config(ensemble: EnsembleSpec, folder: Path, settings: dict[str, Any], adapters: bool) -> list[int]:
    """``config.json``, from the copied experts' own; gives the tokens that end a text for any of them."""
    count = len(ensemble.experts)
    trust = bool(ensemble.loading.get("trust_remote_code", False))
    parts = [BASE] if adapters else [expert_folder(k) for k in range(count)]
    configs = [AutoConfig.from_pretrained(folder / part, trust_remote_code=trust) for part in parts]
    texts = [config.get_text_config() for config in configs]
    if len({text.vocab_size for text in texts}) > 1:
        raise ModelError(
            "The experts have different vocabularies, so they do not make one causal language model.",
            hint="Use them from the run directory: Ensemble.load.",
        )
    each = [config_dict(config) for config in configs]
    if adapters:
        from peft import PeftConfig

        each = [adapter_dict(PeftConfig.from_pretrained(str(folder / expert_folder(k)))) for k in range(count)]
    EnsembleConfig.of(
        configs,
        ensemble.alphas,
        experts=each,
        base=config_dict(configs[0]) if adapters else None,
        rule=ensemble.config.rule,
        ensemble=settings,
        vocab_size=texts[0].vocab_size,
        dtype=ensemble.model_config(0).dtype,
        architectures=["EnsembleForCausalLM"],
    ).save_pretrained(folder)
    generation = [part for part in parts if (folder / part / "generation_config.json").is_file()]
    declared = [*configs, *(GenerationConfig.from_pretrained(folder / part) for part in generation)]
    return [end for end in declared_ends(*declared) if 0 <= end < texts[0].vocab_size]


def _write_generation(decoding: DecodingConfig, folder: Path, tokenizer: Any, ends: list[int]) -> None:
    """``generation_config.json``: the ensemble's decoding, ended by the tokenizer's end-of-sequence and ``ends``."""
    settings: dict[str, Any] = {"do_sample": decoding.method == "sample", "max_new_tokens": decoding.max_new_tokens}
    if decoding.method == "sample":
        settings |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": decoding.top_k or 0}
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(dict.fromkeys([tokenizer.eos_token_id, *ends])),
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    ).save_pretrained(folder)


def _hub_base(config: ModelConfig, results: Results | None) -> str | None:
    """The weak base's id on the hub, where that is known."""
    source = find_source(config.path)
    names = [adapter_base(source).path] if source.is_adapter else []
    names += [results.models["weak"].source] if results is not None and "weak" in results.models else []
    for name in names:
        if name.count("/") == 1 and not name.startswith((".", "~", "/")) and not Path(name).exists():
            return name
    return None


def _without_local_paths(results: Results) -> Results:
    """Results that name models by the last part of a local path only."""

    def shown(source: str) -> str:
        return Path(source).name if Path(source).is_absolute() else source

    models = {side: dataclasses.replace(info, source=shown(info.source)) for side, info in results.models.items()}
    return dataclasses.replace(results, models=models)
