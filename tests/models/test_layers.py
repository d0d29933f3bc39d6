from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from ensemw2s.config.schema import RunConfig
from ensemw2s.config.training import ComputeConfig, LoraConfig, ModelConfig, TrainingConfig
from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.models.loading.fingerprint import model_fingerprint, pinned
from ensemw2s.models.loading.info import configuration, parameter_count
from ensemw2s.models.loading.layers import first_layers
from ensemw2s.models.loading.load import load_model
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.models.training.finetune import finetune
from ensemw2s.models.training.training_set import TrainingSet

ONE = ComputeConfig(device="cpu", threads=1)
IDS = torch.arange(2, 12)[None]
ROWS = [np.array([5, 6, 7], dtype=np.int32), np.array([8, 9], dtype=np.int32)]


def cfg(path: object, **keywords: Any) -> ModelConfig:
    return ModelConfig(path=str(path), **keywords)


def logits(loaded: Any) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(input_ids=IDS).logits


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory, make_model: Any, tokenizer: Any) -> Path:
    """A folder with a model of four layers."""
    folder = tmp_path_factory.mktemp("deep")
    with quiet_transformers():
        make_model(4, num_hidden_layers=4).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def test_the_first_layers_are_the_model_cut_by_hand(deep: Path) -> None:
    whole, kept = load_model(cfg(deep)), load_model(cfg(deep, keep_layers=2))
    cut = copy.deepcopy(whole.model)
    cut.model.layers = cut.model.layers[:2]
    with torch.no_grad():
        expected = cut(input_ids=IDS).logits
    assert torch.equal(logits(kept), expected)
    assert not torch.equal(logits(kept), logits(whole))
    assert kept.parameters == sum(p.numel() for p in cut.parameters()) == parameter_count(cfg(deep, keep_layers=2))
    assert configuration(cfg(deep, keep_layers=2)).num_hidden_layers == 2


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "opt", "bloom", "mamba"])
def test_other_architectures(kind: str, make_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    with quiet_transformers():
        model = make_model(3, kind)
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    kept = load_model(cfg(tmp_path, keep_layers=1))
    names = {name for name, _ in kept.model.named_parameters()}
    assert names < {name for name, _ in model.named_parameters()}
    assert not [name for name in names if ".1." in name]
    assert torch.isfinite(logits(kept)).all()


def test_all_layers_and_too_many(deep: Path) -> None:
    assert torch.equal(logits(load_model(cfg(deep, keep_layers=4))), logits(load_model(cfg(deep))))
    with pytest.raises(ModelError, match=r"keep_layers is 5, but .* has 4 layers") as error:
        load_model(cfg(deep, keep_layers=5))
    assert error.value.hint == "Use at most 4."
    assert model_fingerprint(cfg(deep, keep_layers=2)) == model_fingerprint(cfg(deep)) + "+layers2"


def test_a_configuration_that_cannot_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_content: Any) -> Any:
        raise ValueError("layers and kinds disagree")

    config = transformers.LlamaConfig(num_hidden_layers=4)
    monkeypatch.setattr(transformers.LlamaConfig, "from_dict", refuse)
    with pytest.raises(ModelError, match="keep_layers does not work for llama, which neo is: layers and kinds"):
        first_layers(config, 2, "neo")
    with pytest.raises(ModelError, match="has no number of layers"):
        first_layers(transformers.PretrainedConfig(), 2, "none")


def test_lists_with_one_entry_a_layer_are_cut(make_model: Any) -> None:
    config = make_model(3, "gemma2").config
    shorter = first_layers(config, 1, "gemma")
    assert shorter.layer_types == config.layer_types[:1]
    assert len(config.layer_types) == 2


@pytest.mark.parametrize("lora", [None, LoraConfig(r=2)])
def test_what_is_trained_from_them_says_so(deep: Path, tmp_path: Path, lora: LoraConfig | None) -> None:
    data = TrainingSet.from_sequences(ROWS, ROWS, eos_id=1)
    base = cfg(deep, keep_layers=2)
    finetune(base, data, TrainingConfig(steps=2, batch_size=2, lora=lora), tmp_path, seed=1, compute=ONE)
    if lora is None:
        assert json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] == 2
    else:
        assert json.loads((tmp_path / "base_model.json").read_text()) == {"keep_layers": 2}
    alone, as_in_a_run = load_model(cfg(tmp_path)), load_model(base.model_copy(update={"path": str(tmp_path)}))
    assert torch.equal(logits(alone), logits(as_in_a_run))
    assert configuration(cfg(tmp_path)).num_hidden_layers == 2
    if lora is not None:
        with pytest.raises(ModelError, match="trained on the first 2 layers of its base, but keep_layers is 3"):
            load_model(cfg(tmp_path, keep_layers=3))
        (tmp_path / "base_model.json").write_text("[]")
        with pytest.raises(ModelError, match=r"base_model\.json cannot be read"):
            load_model(cfg(tmp_path))


def test_an_adapter_over_all_layers_is_not_cut(deep: Path, tmp_path: Path) -> None:
    data = TrainingSet.from_sequences(ROWS, ROWS, eos_id=1)
    training = TrainingConfig(steps=1, batch_size=2, lora=LoraConfig(r=2))
    finetune(cfg(deep), data, training, tmp_path, seed=1, compute=ONE)
    with pytest.raises(ModelError, match="trained on all layers"):
        load_model(cfg(tmp_path, keep_layers=3))


@pytest.mark.parametrize("place", ["cpu", {"": "cpu"}])
def test_a_device_map_places_the_weights(deep: Path, place: Any) -> None:
    loaded = load_model(cfg(deep, device_map=place))
    assert loaded.device == torch.device("cpu")
    assert torch.equal(logits(loaded), logits(load_model(cfg(deep))))


def test_quantization_without_its_package(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs the Python package bitsandbytes") as error:
        load_model(cfg(deep, quantization="4bit"))
    assert "pip install 'ensemw2s[quantization]'" in str(error.value.hint)


def test_a_quantized_base_is_trained_through_adapters_only(deep: Path, tmp_path: Path) -> None:
    data = TrainingSet.from_sequences(ROWS, ROWS, eos_id=1)
    with pytest.raises(ConfigError, match="leaves no weights that can be trained"):
        finetune(cfg(deep, quantization="8bit"), data, TrainingConfig(steps=1), tmp_path, seed=1, compute=ONE)
    with pytest.raises(ValueError, match=r"models\.weak\.quantization needs training\.expert\.lora"):
        RunConfig.model_validate({"models": {"weak": {"path": "m", "quantization": "8bit"}}})
    with pytest.raises(ValueError, match=r"models\.strong\.quantization needs training\.student\.lora"):
        RunConfig.model_validate({"models": {"strong": {"path": "m", "quantization": "8bit"}}})


def test_a_local_model_is_pinned_as_it_is(deep: Path) -> None:
    assert pinned(cfg(deep)) == cfg(deep)
