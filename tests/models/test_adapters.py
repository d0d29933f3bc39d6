"""Several adapters over one base in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.models.loading.adapters import AdapterView, load_models, opened_models
from ensemw2s.models.loading.load import load_model
from ensemw2s.models.loading.quiet import quiet_transformers

IDS = torch.randint(2, 28, (2, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Any], tokenizer: Any) -> list[Path]:
    """Two adapters over one base, a third over another."""
    import peft

    root = tmp_path_factory.mktemp("adapters")
    out = []
    for k, base in enumerate((0, 0, 1)):
        with quiet_transformers():
            folder = root / f"base-{base}"
            make_model(base).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            wrapped = peft.get_peft_model(make_model(base), peft.LoraConfig(r=2 + k, target_modules="all-linear"))
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.3)
            wrapped.peft_config["default"].base_model_name_or_path = str(folder)
            wrapped.save_pretrained(root / f"adapter-{k}", save_embedding_layers=False)
        out.append(root / f"adapter-{k}")
    return out


def config(folder: Path, **changes: Any) -> ModelConfig:
    return ModelConfig(path=str(folder), **changes)


def test_adapters_of_one_base_share_it(adapters: list[Path]) -> None:
    models = load_models([config(folder) for folder in adapters])
    assert models[0].model.shared is models[1].model.shared
    assert models[2].model.shared is not models[0].model.shared
    assert [model.source for model in models] == [str(folder) for folder in adapters]
    with torch.no_grad():
        for _ in range(2):  # in turn, and again: each call switches to its own adapter
            for model, folder in zip(models, adapters, strict=True):
                alone = load_model(config(folder)).model
                assert torch.equal(model.model(IDS).logits, alone(IDS).logits)
    assert not any(p.requires_grad for model in models for p in model.model.parameters())


def test_different_settings_do_not_share(adapters: list[Path]) -> None:
    one, other = load_models([config(adapters[0]), config(adapters[1], dtype="bfloat16")])
    assert one.model.shared is not other.model.shared
    assert (one.dtype, other.dtype) == ("float32", "bfloat16")


def test_whole_models_stay_what_they_are(model_folders: list[Path], adapters: list[Path]) -> None:
    models = load_models([config(model_folders[0]), config(adapters[0])])
    assert not isinstance(models[0].model, AdapterView)
    assert isinstance(models[1].model, AdapterView)


def test_opened_models_share_and_copies_are_independent(adapters: list[Path]) -> None:
    with opened_models([config(folder) for folder in adapters[:2]], ComputeConfig(device="cpu", threads=1)) as models:
        assert len({id(model.model.shared) for model in models}) == 1
        twin = copy.deepcopy(models[0].model)
        assert twin.shared is not models[0].model.shared
        with torch.no_grad():
            models[1].model(IDS)
            assert torch.equal(twin(IDS).logits, models[0].model(IDS).logits)
        with pytest.raises(AttributeError):
            _ = twin.no_such_thing
