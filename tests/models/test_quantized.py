"""Bases in 8 and 4 bits with the real ``bitsandbytes``, which has kernels for the CPU; skipped where it is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bitsandbytes")

import torch

from ensemw2s.config.training import ComputeConfig, LoraConfig, ModelConfig, TrainingConfig
from ensemw2s.models.loading.load import LoadedModel, load_model
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.models.training.finetune import finetune
from ensemw2s.models.training.training_set import TrainingSet

CPU = torch.device("cpu")
ROWS = [[2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12, 13]]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, make_model: Any, tokenizer: Any) -> Path:
    """Wide enough for blocks of 64 weights and for the CPU's kernels, which want multiples of 64."""
    folder = tmp_path_factory.mktemp("wide")
    with quiet_transformers():
        make_model(5, hidden_size=128, intermediate_size=256).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(input_ids=torch.tensor([ROWS[0] + ROWS[1]])).logits.float()


@pytest.mark.parametrize(("bits", "error"), [("8bit", 0.1), ("4bit", 0.6)])
def test_loads_and_says_about_the_same(wide: Path, bits: Any, error: float) -> None:
    plain = logits(load_model(ModelConfig(path=str(wide)), CPU))
    quantized = load_model(ModelConfig(path=str(wide), quantization=bits), CPU)
    kinds = {type(module).__name__ for module in quantized.model.modules()}
    assert kinds & {"Linear8bitLt", "Linear4bit"}
    difference = (logits(quantized) - plain).abs().mean() / plain.abs().mean()
    assert 0 < difference < error


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_adapters_are_trained_over_it_and_load_again(wide: Path, tmp_path: Path, bits: Any) -> None:
    base = ModelConfig(path=str(wide), quantization=bits)
    data = TrainingSet.from_sequences(ROWS, ROWS, eos_id=1)
    before = logits(load_model(base, CPU))
    losses = []
    for steps in (1, 20):
        training = TrainingConfig(steps=steps, batch_size=3, log_steps=1, learning_rate=1e-2, lora=LoraConfig(r=4))
        compute = ComputeConfig(threads=1)
        losses.append(finetune(base, data, training, tmp_path / str(steps), seed=1, compute=compute).final_loss)
    assert losses[1] < 0.8 * losses[0]
    again = load_model(base.model_copy(update={"path": str(tmp_path / "20")}), CPU)
    assert (logits(again) - before).abs().max() > 0.01
