"""Fine-tunings that start from what an earlier one wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ensemw2s.config.training import ComputeConfig, LoraConfig, ModelConfig, TrainingConfig
from ensemw2s.errors import ModelError
from ensemw2s.models.loading.load import load_model
from ensemw2s.models.training.finetune import finetune
from ensemw2s.models.training.training_set import TrainingSet

CPU = ComputeConfig(device="cpu")
LORA = LoraConfig(r=2)


def make_data(seed: int) -> TrainingSet:
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(2, 30, size=rng.integers(2, 9)) for _ in range(16)]
    return TrainingSet.from_sequences(prompts, [rng.integers(2, 30, size=2) for _ in range(16)], eos_id=1)


def tuned(base: ModelConfig, out: Path, **given: Any) -> Path:
    rate, lora = given.pop("rate", 3e-2), given.pop("lora", None)
    cfg = TrainingConfig(steps=5, batch_size=8, learning_rate=1.0, lora=lora, **given.pop("training", {}))
    cfg = cfg.model_copy(update={"learning_rate": rate})
    finetune(base, make_data(given.pop("data", 0)), cfg, out, seed=given.pop("seed", 0), compute=CPU, **given)
    return out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def base(model_folders: list[Path]) -> ModelConfig:
    return ModelConfig(path=str(model_folders[0]))


@pytest.mark.parametrize("lora", [None, LORA])
def test_without_a_step_forward_it_is_its_start(base: ModelConfig, tmp_path: Path, lora: LoraConfig | None) -> None:
    first = tuned(base, tmp_path / "1", lora=lora)
    still = tuned(base, tmp_path / "2", lora=lora, start=first, rate=0.0, seed=9, data=1)
    assert same(weights(first), weights(still))


def test_whole_models_go_on_as_from_that_folder(base: ModelConfig, tmp_path: Path) -> None:
    first = tuned(base, tmp_path / "1")
    on = tuned(base, tmp_path / "2", start=first, data=1, seed=3)
    again = tuned(base.model_copy(update={"path": str(first)}), tmp_path / "3", data=1, seed=3)
    assert same(weights(on), weights(again))
    assert not same(weights(on), weights(tuned(base, tmp_path / "4", data=1, seed=3)))


def test_adapters_go_on_over_the_same_base(base: ModelConfig, tmp_path: Path) -> None:
    first = tuned(base, tmp_path / "1", lora=LORA)
    on = tuned(base, tmp_path / "2", lora=LORA, start=first, data=1, seed=3)
    assert weights(on).keys() == weights(first).keys()
    before, after = (dict(load_model(ModelConfig(path=str(p))).model.named_parameters()) for p in (first, on))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    # the same steps by hand: the adapter's weights, AdamW with a new state and a schedule from its beginning
    small = tuned(base, tmp_path / "3", lora=LORA, start=first, data=1, seed=3, rate=1e-7)
    for name, tensor in weights(small).items():
        torch.testing.assert_close(tensor, weights(first)[name], rtol=0, atol=1e-6)


def test_an_interrupted_one_goes_on_from_its_own_checkpoint(base: ModelConfig, tmp_path: Path) -> None:
    first, other = tuned(base, tmp_path / "1"), tuned(base, tmp_path / "0", seed=7)
    whole = tuned(base, tmp_path / "2", start=first, training={"checkpoint_steps": 2})

    class Stop:
        def event(self, *_: Any, **__: Any) -> None: ...

        def metric(self, *_: Any, step: int, **__: Any) -> None:
            if step == 5:
                raise KeyboardInterrupt

        def progress(self, *_: Any) -> None: ...

    for start in (first, other):  # a checkpoint of another start is not continued
        with pytest.raises(KeyboardInterrupt):
            tuned(base, tmp_path / "3", start=start, training={"checkpoint_steps": 2, "log_steps": 1}, sink=Stop())
    assert list((tmp_path / "3" / "trainer").glob("checkpoint-*"))
    on = tuned(base, tmp_path / "3", start=first, training={"checkpoint_steps": 2})
    assert same(weights(on), weights(whole))


def test_an_adapter_with_other_settings_is_refused(base: ModelConfig, tmp_path: Path) -> None:
    first = tuned(base, tmp_path / "1", lora=LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ModelError, match="other settings"):
        tuned(base, tmp_path / "2", lora=LORA, start=first)
